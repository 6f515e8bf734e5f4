"""Results of videos as JSON, JSON lines, CSV, Parquet or a table of episodes, as they come."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mien.cli.output import (
    bar,
    csv_text,
    json_text,
    stdout_takes,
    table_text,
    use_utf8_stdout,
    write_output,
    write_stdout,
)
from mien.core.errors import printable
from mien.core.files import replacing

if TYPE_CHECKING:
    from mien.core.results import ModelInfo, Result
    from mien.video.episodes import Person

SCHEMA = "mien-video/1"
"""Name and version of the JSON form of a video; its frames have their own, ``mien/1``."""

_PARQUET_ROWS = 4096

Write = Callable[[str], None]


class Sink(Protocol):
    """Takes the results of one video after the other."""

    def add(self, result: Result) -> None:
        """Take the result of the next frame."""

    def end(self, source: str, people: Sequence[Person]) -> None:
        """Take the summary of a video, after all its frames."""

    def close(self) -> None:
        """Write what is left, after all videos."""


class JsonSink:
    """One object a video: its frames, then its people; a list of them where videos are many."""

    def __init__(self, write: Write, *, single: bool) -> None:
        """Take where to write, and whether there is one video only."""
        self._write = write
        self._single = single
        self._videos = 0
        self._frames = 0

    def add(self, result: Result) -> None:
        """Write a frame."""
        if self._frames == 0:
            self._open(str(result.source))
        self._write((",\n" if self._frames else "\n") + "    " + _line(result.to_dict()))
        self._frames += 1

    def end(self, source: str, people: Sequence[Person]) -> None:
        """Write the people and close the video's object."""
        if self._frames == 0:
            self._open(source)
        lines = ",\n".join("    " + _line(person.to_dict()) for person in people)
        listed = f"[\n{lines}\n  ]" if people else "[]"
        self._write(f"\n  ],\n  {_line('people')}: {listed}\n}}" + ("\n" if self._single else ""))
        self._frames = 0

    def close(self) -> None:
        """Close the list."""
        if not self._single:
            self._write("\n]\n" if self._videos else "[]\n")

    def _open(self, source: str) -> None:
        before = "" if self._single else (",\n" if self._videos else "[\n")
        self._videos += 1
        head = f'  "schema": {_line(SCHEMA)},\n  "source": {_line(source)},\n  "frames": ['
        self._write(f"{before}{{\n{head}")


class JsonLinesSink:
    """One object a frame."""

    def __init__(self, write: Write) -> None:
        """Take where to write."""
        self._write = write

    def add(self, result: Result) -> None:
        """Write a frame."""
        self._write(_line(result.to_dict()) + "\n")

    def end(self, source: str, people: Sequence[Person]) -> None:
        """Nothing: a line is a frame."""

    def close(self) -> None:
        """Nothing is left."""


class CsvSink:
    """One row a face and frame, one where a frame has none."""

    def __init__(self, write: Write, labels: Sequence[str]) -> None:
        """Take where to write, and the model's labels."""
        from mien.core.results import table_columns

        self._write = write
        self._labels = labels
        self._columns = table_columns(labels, smoothed=True)
        write(csv_text([], self._columns))

    def add(self, result: Result) -> None:
        """Write a frame's rows."""
        from mien.core.results import result_rows

        rows = result_rows(result, self._labels, smoothed=True)
        self._write(csv_text(rows, self._columns, header=False))

    def end(self, source: str, people: Sequence[Person]) -> None:
        """Nothing: a row is a face."""

    def close(self) -> None:
        """Nothing is left."""


class ParquetSink:
    """The rows of `CsvSink` with their types, in row groups."""

    def __init__(self, path: Path, labels: Sequence[str], model: ModelInfo) -> None:
        """Open a file; raises MissingExtra if pyarrow is not installed."""
        from mien.batch.parquet import results_schema

        pa, pq = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
        self._schema = results_schema(labels, model, smoothed=True)
        self._make = pa.Table.from_pylist
        self._labels = labels
        self._rows: list[dict[str, Any]] = []
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def add(self, result: Result) -> None:
        """Take a frame's rows; they are written some thousands at a time."""
        from mien.core.results import result_rows

        self._rows += result_rows(result, self._labels, smoothed=True)
        if len(self._rows) >= _PARQUET_ROWS:
            self._flush()

    def end(self, source: str, people: Sequence[Person]) -> None:
        """Nothing: a row is a face."""

    def close(self) -> None:
        """Write the last rows."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._make(self._rows, schema=self._schema))
            self._rows = []


class TableSink:
    """A table of each video's episodes."""

    def __init__(self, write: Write, *, single: bool) -> None:
        """Take where to write, and whether there is one video only."""
        self._write = write
        self._single = single
        self._problem: str | None = None

    def add(self, result: Result) -> None:
        """Keep what went wrong: the table is of episodes."""
        self._problem = result.error

    def end(self, source: str, people: Sequence[Person]) -> None:
        """Write the table, or why there is none."""
        head = "" if self._single else f"{printable(source)}\n"
        body = episode_table(people) if people else "nobody was seen\n"
        if self._problem is not None:
            body = (body if people else "") + f"{printable(self._problem)}\n"
        self._write(head + body + ("" if self._single else "\n"))
        self._problem = None

    def close(self) -> None:
        """Nothing is left."""


@contextmanager
def sink_for(
    shape: str, path: Path | None, labels: Sequence[str], model: ModelInfo, *, single: bool
) -> Iterator[Sink]:
    """Give the sink of a format, to a file or to stdout; a file takes its name when complete."""
    if path is None:
        if shape != "table":
            use_utf8_stdout()
        sink = _text_sink(shape, write_stdout, labels, single=single)
        yield sink
        sink.close()
    elif shape == "parquet":
        with replacing(path) as temporary:
            parquet = ParquetSink(temporary, labels, model)
            yield parquet
            parquet.close()
    elif path.exists() and not path.is_file():
        write_output(path, "")  # says what is wrong with it, such as that it is a folder
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as device:
            sink = _text_sink(shape, _writer(device), labels, single=single)
            yield sink
            sink.close()
    else:
        with (
            replacing(path.resolve() if path.is_symlink() else path) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            sink = _text_sink(shape, _writer(file), labels, single=single)
            yield sink
            sink.close()


def episode_table(people: Sequence[Person]) -> str:
    """Return the episodes of all people as an aligned table."""
    from mien.video.times import format_time

    plain = not stdout_takes(bar(0.5))
    rows = []
    for person in people:
        name = f"#{person.track_id}"
        for episode in person.episodes:
            rows.append(
                (
                    name,
                    format_time(episode.start_s),
                    format_time(episode.end_s),
                    episode.emotion,
                    bar(episode.confidence, plain=plain),
                    f"{episode.confidence:.0%}",
                    f"{episode.frames:,}",
                )
            )
            name = ""  # said once, beside the first episode
    header = ("PERSON", "FROM", "TO", "EMOTION", "CONFIDENCE", "", "FRAMES")
    return table_text(header, rows, right=(1, 2, 5, 6))


def _text_sink(shape: str, write: Write, labels: Sequence[str], *, single: bool) -> Sink:
    if shape == "json":
        return JsonSink(write, single=single)
    if shape == "jsonl":
        return JsonLinesSink(write)
    return CsvSink(write, labels) if shape == "csv" else TableSink(write, single=single)


def _writer(file: Any) -> Write:
    def write(text: str) -> None:
        file.write(text)

    return write


def _line(value: object) -> str:
    return json_text(value, indent=None)
