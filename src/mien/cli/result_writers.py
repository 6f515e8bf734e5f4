"""Results of images and videos as JSON, JSON lines, tables of all kinds, or another tool's JSON.

A writer takes the results as they come, so that nothing but a table is held in memory.
"""

from __future__ import annotations

import importlib
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.output import (
    bar,
    output_file,
    shorten,
    stdout_supports,
    use_utf8_stdout,
    write_stdout,
)
from mien.core.errors import printable
from mien.core.files import replace_atomically
from mien.core.formats import csv_text, json_text, table_text
from mien.core.results import ModelInfo, Result, result_rows, table_columns

if TYPE_CHECKING:
    from mien.video.summary import Person

FORMATS: tuple[str, ...] = ("json", "jsonl", "csv", "tsv", "table", "parquet", "xlsx")

VIDEO_SCHEMA = "mien-video/1"
"""Name and version of the JSON form of a video; its frames have their own, ``mien/1``."""

Write = Callable[[str], object]
Convert = Callable[[Result], list[dict[str, Any]]]

_SOURCE_COLUMNS = 40
_PARQUET_ROWS = 4096
# In indented JSON, an object that holds no other. Line ends inside strings are escaped, so the real
# ones stand between values.
_FLAT_OBJECT = re.compile(r"\{\n([^{}]*)\}")
_LINE_END = re.compile(r"\n *")


class Writer:
    """Takes results one by one; here as JSON lines, one object a line."""

    def __init__(self, write: Write) -> None:
        """Take where to write."""
        self._write = write

    def add(self, result: Result) -> None:
        """Take the result of the next image or frame."""
        self._write(_line(result.to_dict()) + "\n")

    def end_video(self, source: str, people: Sequence[Person]) -> None:
        """Take the people of a video, after all its frames."""

    def close(self) -> None:
        """Write what is left, after all images or videos."""


class _Csv(Writer):
    """One row a face, one where there is none, as CSV or TSV; ``extra`` as of `table_columns`."""

    def __init__(self, write: Write, shape: str, labels: Sequence[str], **extra: bool) -> None:
        from mien.batch.tables import DELIMITERS

        super().__init__(write)
        columns = table_columns(labels, **extra)
        self._rows = _rows_of(labels, **extra)
        self._text = partial(csv_text, columns=columns, delimiter=DELIMITERS[shape])
        write(self._text([]))

    def add(self, result: Result) -> None:
        self._write(self._text(self._rows(result), header=False))


# ---------------------------------------------------------------- of images
class _Json(Writer):
    """One object where there is one image, else a list; innermost objects take one line each."""

    def __init__(self, write: Write, *, single: bool) -> None:
        super().__init__(write)
        self._single, self._opening = single, "[\n"

    def add(self, result: Result) -> None:
        text = _FLAT_OBJECT.sub(
            lambda found: "{" + _LINE_END.sub(" ", found[1].strip()) + "}",
            json_text(result.to_dict()),
        )
        if self._single:
            self._write(text + "\n")
        else:
            self._write(self._opening + textwrap.indent(text, "  "))
            self._opening = ",\n"

    def close(self) -> None:
        if not self._single:
            self._write("\n]\n")


class _Compat(Writer):
    """Each image's list of faces in another tool's form: in a list where images are many."""

    def __init__(self, write: Write, convert: Convert, shape: str, *, single: bool) -> None:
        super().__init__(write)
        self._convert, self._single, self._lines = convert, single, shape == "jsonl"
        self._all: list[list[dict[str, Any]]] = []

    def add(self, result: Result) -> None:
        if self._lines:
            self._write(_line(self._convert(result)) + "\n")
        else:
            self._all.append(self._convert(result))

    def close(self) -> None:
        if not self._lines:
            self._write(json_text(self._all[0] if self._single else self._all) + "\n")


class _Table(Writer):
    """One aligned table of all faces."""

    def __init__(self, write: Write) -> None:
        super().__init__(write)
        self._plain = not stdout_supports(bar(0.5))
        self._rows: list[tuple[str, ...]] = []
        self._uncertain = False

    def add(self, result: Result) -> None:
        source = shorten(str(result.source), _SOURCE_COLUMNS)
        if result.error is not None:
            reason = result.error.removeprefix(str(result.source)).lstrip(": ")
            self._rows.append((source, "-", f"{result.status}: {reason}"))
        elif not result.faces:
            self._rows.append((source, "-", "no face"))
        for face in result.faces:
            box = face.box
            row = (
                source,
                str(face.face_id),
                face.emotion + (" ?" if face.uncertain else ""),
                bar(face.confidence, plain=self._plain),
                f"{face.confidence:.0%}",
                f"{box.w}x{box.h} at {box.x},{box.y}",
            )
            self._rows.append(row)
            self._uncertain |= face.uncertain
            source = ""  # said once, beside the first face

    def close(self) -> None:
        header = ("IMAGE", "FACE", "EMOTION", "CONFIDENCE", "", "BOX")
        self._write(table_text(header, self._rows, right=(1, 4)))
        if self._uncertain:
            self._write("\n? uncertain: below the model's threshold for this emotion\n")


# ---------------------------------------------------------------- of videos
class _VideoJson(Writer):
    """One object a video: its frames, then its people; a list of them where videos are many."""

    def __init__(self, write: Write, *, single: bool) -> None:
        super().__init__(write)
        self._single = single
        self._videos = self._frames = 0

    def add(self, result: Result) -> None:
        if self._frames == 0:
            self._open(str(result.source))
        self._write((",\n" if self._frames else "\n") + "    " + _line(result.to_dict()))
        self._frames += 1

    def end_video(self, source: str, people: Sequence[Person]) -> None:
        if self._frames == 0:
            self._open(source)
        lines = ",\n".join("    " + _line(person.to_dict()) for person in people)
        listed = f"[\n{lines}\n  ]" if people else "[]"
        self._write(f'\n  ],\n  "people": {listed}\n}}' + ("\n" if self._single else ""))
        self._frames = 0

    def close(self) -> None:
        if not self._single:
            self._write("\n]\n" if self._videos else "[]\n")

    def _open(self, source: str) -> None:
        before = "" if self._single else (",\n" if self._videos else "[\n")
        self._videos += 1
        head = f'  "schema": "{VIDEO_SCHEMA}",\n  "source": {_line(source)},\n  "frames": ['
        self._write(f"{before}{{\n{head}")


class _Episodes(Writer):
    """A table of each video's episodes."""

    def __init__(self, write: Write, *, single: bool) -> None:
        super().__init__(write)
        self._single = single
        self._problem: str | None = None

    def add(self, result: Result) -> None:
        self._problem = result.error

    def end_video(self, source: str, people: Sequence[Person]) -> None:
        head = "" if self._single else f"{printable(source)}\n"
        body = episode_table(people) if people else "nobody was seen\n"
        if self._problem is not None:
            body = (body if people else "") + f"{printable(self._problem)}\n"
        self._write(head + body + ("" if self._single else "\n"))
        self._problem = None


class _VideoParquet(Writer):
    """The rows of CSV with their types, in row groups."""

    def __init__(self, path: Path, model: ModelInfo, labels: Sequence[str], **extra: bool) -> None:
        from mien.batch.tables import results_schema  # says so where pyarrow is missing

        pa, pq = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
        self._rows = _rows_of(labels, **extra)
        self._schema = results_schema(labels, model, **extra)
        self._table = partial(pa.Table.from_pylist, schema=self._schema)
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[dict[str, Any]] = []

    def add(self, result: Result) -> None:
        self._waiting += self._rows(result)
        if len(self._waiting) >= _PARQUET_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            self._file.write_table(self._table(self._waiting))
            self._waiting = []


class _VideoExcel(Writer):
    """The rows of CSV as a workbook, which keeps them on the disk until it is written."""

    def __init__(self, path: Path, labels: Sequence[str], **extra: bool) -> None:
        from mien.batch.tables import ExcelSheets

        self._path, self._rows = path, _rows_of(labels, **extra)
        self._sheets = ExcelSheets(table_columns(labels, **extra))

    def add(self, result: Result) -> None:
        for row in self._rows(result):
            self._sheets.add(row.values())

    def close(self) -> None:
        self._sheets.save(self._path)


def episode_table(people: Sequence[Person]) -> str:
    """Return the episodes of all people as an aligned table."""
    from mien.video.times import format_time

    plain = not stdout_supports(bar(0.5))
    rows = []
    for person in people:
        name = f"#{person.track_id}"
        for episode in person.episodes:
            row = (
                name,
                format_time(episode.start_s),
                format_time(episode.end_s),
                episode.emotion,
                bar(episode.confidence, plain=plain),
                f"{episode.confidence:.0%}",
                f"{episode.frames:,}",
            )
            rows.append(row)
            name = ""  # said once, beside the first episode
    header = ("PERSON", "FROM", "TO", "EMOTION", "CONFIDENCE", "", "FRAMES")
    return table_text(header, rows, right=(1, 2, 5, 6))


# ---------------------------------------------------------------- where they go
@contextmanager
def image_writer(
    shape: str,
    path: Path | None,
    labels: Sequence[str],
    *,
    single: bool,
    convert: Convert | None = None,
) -> Iterator[Writer]:
    """Give the writer of images' results, to stdout or to a file.

    Args:
        shape: one of `FORMATS` but Parquet and Excel, which are written in parts.
        path: the file, or None for stdout.
        labels: the model's.
        single: whether there is one image only.
        convert: gives a result's faces in another tool's form.
    """
    with _text_output(shape, path) as write:
        writer: Writer
        if convert is not None:
            writer = _Compat(write, convert, shape, single=single)
        elif shape == "json":
            writer = _Json(write, single=single)
        elif shape in ("csv", "tsv"):
            writer = _Csv(write, shape, labels)
        else:
            writer = Writer(write) if shape == "jsonl" else _Table(write)
        yield writer
        writer.close()


@contextmanager
def video_writer(
    shape: str,
    path: Path | None,
    labels: Sequence[str],
    model: ModelInfo,
    *,
    single: bool,
    corrected: bool = False,
) -> Iterator[Writer]:
    """Give the writer of videos' results, to stdout or to a file; as `image_writer`.

    ``corrected`` gives tables the columns of a baseline.
    """
    writer: Writer
    extra = {"smoothed": True, "corrected": corrected}
    if shape in ("parquet", "xlsx") and path is not None:
        with replace_atomically(path) as temporary:
            if shape == "xlsx":
                writer = _VideoExcel(temporary, labels, **extra)
            else:
                writer = _VideoParquet(temporary, model, labels, **extra)
            yield writer
            writer.close()
        return
    with _text_output(shape, path) as write:
        if shape == "json":
            writer = _VideoJson(write, single=single)
        elif shape in ("csv", "tsv"):
            writer = _Csv(write, shape, labels, **extra)
        else:
            writer = Writer(write) if shape == "jsonl" else _Episodes(write, single=single)
        yield writer
        writer.close()


@contextmanager
def _text_output(shape: str, path: Path | None) -> Iterator[Write]:
    if path is not None:
        with output_file(path) as file:
            yield file.write
        return
    if shape != "table":
        use_utf8_stdout()
    yield write_stdout


def _rows_of(labels: Sequence[str], *, smoothed: bool = False, corrected: bool = False) -> Convert:
    return partial(result_rows, labels=labels, smoothed=smoothed, corrected=corrected)


def _line(value: object) -> str:
    return json_text(value, indent=None)
