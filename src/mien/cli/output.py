"""What commands print and write: text, JSON, CSV, tables and result files; notes on stderr."""

from __future__ import annotations

import argparse
import io
import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mien.batch.tables import CsvFormat, Row, WriteRows, result_format
from mien.core.emotions import FER2013_CSV_ORDER
from mien.core.errors import OutputError, one_line, printable
from mien.core.files import replace_atomically
from mien.core.formats import display_width, json_text, table_text
from mien.core.results import ModelInfo, Result

if TYPE_CHECKING:
    from mien.video.summary import Person

FORMATS: tuple[str, ...] = ("json", "jsonl", "csv", "tsv", "table", "parquet", "xlsx")

VIDEO_SCHEMA = "mien-video/1"
"""Name and version of the JSON of a video; its frames have their own, ``mien/1``."""

Write = Callable[[str], object]
Convert = Callable[[Result], object]
"""Converts a result to what its JSON holds."""

_SOURCE_COLUMNS = 40
# Objects without nested ones in indented JSON. Newlines inside strings are escaped, so all others
# are between values.
_FLAT_OBJECT = re.compile(r"\{\n([^{}]*)\}")
_LINE_END = re.compile(r"\n *")


# ---------------------------------------------------------------- text
def key_value_text(rows: Iterable[tuple[str, str]], width: int = 12) -> str:
    """Return a line for each name and value, the names padded to ``width`` columns."""
    return "".join(f"{name:<{width}} {value}\n" for name, value in rows)


def bar(share: float, width: int = 10, *, plain: bool = False) -> str:
    """Return a bar of ``width`` columns, filled by ``share`` (0 to 1), in ASCII if ``plain``."""
    filled = round(min(1.0, max(0.0, share)) * width)
    full, empty = ("#", ".") if plain else ("█", "░")
    return full * filled + empty * (width - filled)


def shorten(path: str, width: int) -> str:
    """Return a path cut to ``width`` terminal columns; its end is kept."""
    if display_width(path) <= width:
        return path
    kept = ""
    for character in reversed(path):
        if display_width(character + kept) > width - 1:
            break
        kept = character + kept
    return "…" + kept


# ---------------------------------------------------------------- stdout and files
def use_utf8_stdout() -> None:
    """Switch stdout to UTF-8 for JSON and CSV, whatever the locale."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names that are not UTF-8 appear as JSON escapes.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def write_stdout(text: str) -> None:
    """Write text to stdout.

    Raises:
        BrokenPipeError: if the reader has gone; `mien.cli.main` ends the command.
        OutputError: for any other failure.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def write_answer(value: object, text: str, *, as_json: bool) -> None:
    """Write a command's result to stdout, as indented JSON or as text."""
    write_stdout(json_text(value) + "\n" if as_json else text)


def discard_stdout() -> None:
    """Redirect stdout to the null device, so that the flush at exit cannot fail."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # not a file, as in a notebook
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, descriptor)
    finally:
        os.close(null)


@contextmanager
def output_file(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 text file for writing; it replaces an existing one only once complete.

    Devices and pipes are written directly. The target of a link is replaced, not the link.

    Raises:
        OutputError: if it cannot be written; an existing file is left as it was.
    """
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder, expected a file's name")
    if path.exists() and not path.is_file():
        try:
            with _open_text(path) as device:
                yield device
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error
        return
    target = path.resolve() if path.is_symlink() else path
    with replace_atomically(target) as temporary, _open_text(temporary) as file:
        yield file


def write_output(path: Path, text: str) -> None:
    """Write a text file, as `output_file` does."""
    with output_file(path) as file:
        file.write(text)


def _open_text(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


# ---------------------------------------------------------------- stderr
def can_show_progress(args: argparse.Namespace, output_format: str) -> bool:
    """Return True if stderr is a terminal on which no results appear at the same time."""
    to_terminal = args.output is None and output_format != "table" and sys.stdout.isatty()
    return not args.quiet and not to_terminal and sys.stderr.isatty()


def note(text: str, *, quiet: bool) -> None:
    """Write one line to stderr, unless ``quiet``."""
    if not quiet:
        print(one_line(text), file=sys.stderr)


class _NoteHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(f"mien: {' '.join(record.getMessage().split())}", quiet=False)


@contextmanager
def log_to_stderr(*, quiet: bool) -> Iterator[None]:
    """Print mien's warnings as lines on stderr, or its errors alone if ``quiet``."""
    with log_handler("mien", _NoteHandler(logging.ERROR if quiet else logging.WARNING)):
        yield


@contextmanager
def log_handler(name: str, handler: logging.Handler) -> Iterator[None]:
    """Attach a handler to a logger within the block."""
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


# ---------------------------------------------------------------- results of images
class ResultWriter:
    """Writes results as they come: here as JSON lines, in subclasses in other formats.

    Args:
        write: writes text to stdout or a file.
        convert: converts a result to the JSON of mien or of another tool.
    """

    def __init__(self, write: Write, convert: Convert = Result.to_dict) -> None:
        self._write, self._convert = write, convert

    def add(self, result: Result) -> None:
        """Write the result of the next image or frame."""
        self._write(_json_line(self._convert(result)) + "\n")

    def end_video(self, source: str, people: Sequence[Person]) -> None:
        """Write the people of a video, after its frames."""

    def close(self) -> None:
        """Write what remains after the last image or video."""


class _RowWriter(ResultWriter):
    """Rows of CSV, TSV, Parquet or Excel: one per face, or per image without a face."""

    def __init__(self, rows_of: Callable[[Result], list[Row]], write_rows: WriteRows) -> None:
        self._rows_of, self._write_rows = rows_of, write_rows

    def add(self, result: Result) -> None:
        self._write_rows(self._rows_of(result))


class _JsonWriter(ResultWriter):
    """JSON with innermost objects on one line: a list, or one object if ``single``."""

    def __init__(self, write: Write, convert: Convert, *, single: bool) -> None:
        super().__init__(write, convert)
        self._single, self._separator = single, "[\n"

    def add(self, result: Result) -> None:
        text = _FLAT_OBJECT.sub(
            lambda match: "{" + _LINE_END.sub(" ", match[1].strip()) + "}",
            json_text(self._convert(result)),
        )
        if self._single:
            self._write(text + "\n")
        else:
            self._write(self._separator + textwrap.indent(text, "  "))
            self._separator = ",\n"

    def close(self) -> None:
        if not self._single:
            self._write("\n]\n")


class _TableWriter(ResultWriter):
    """Aligned table of all faces."""

    def __init__(self, write: Write) -> None:
        super().__init__(write)
        self._rows: list[tuple[str, ...]] = []
        self._has_uncertain = False

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
                *_confidence_cells(face.confidence),
                f"{box.w}x{box.h} at {box.x},{box.y}",
            )
            self._rows.append(row)
            self._has_uncertain |= face.uncertain
            source = ""  # shown only once, next to the first face

    def close(self) -> None:
        header = ("IMAGE", "FACE", "EMOTION", "CONFIDENCE", "", "BOX")
        self._write(table_text(header, self._rows, right=(1, 4)))
        if self._has_uncertain:
            self._write("\n? uncertain: below the model's threshold for this emotion\n")


def _confidence_cells(confidence: float) -> tuple[str, str]:
    """Return a confidence as a bar, in ASCII if stdout cannot encode others, and in percent."""
    try:
        bar(0.5).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return bar(confidence, plain=True), f"{confidence:.0%}"
    return bar(confidence), f"{confidence:.0%}"


# ---------------------------------------------------------------- results of videos
class _VideoJsonWriter(ResultWriter):
    """One JSON object per video, frames first, then people; in a list unless ``single``."""

    def __init__(self, write: Write, *, single: bool) -> None:
        super().__init__(write)
        self._single = single
        self._videos = self._frames = 0

    def add(self, result: Result) -> None:
        if self._frames == 0:
            self._open(str(result.source))
        self._write((",\n" if self._frames else "\n") + "    " + _json_line(result.to_dict()))
        self._frames += 1

    def end_video(self, source: str, people: Sequence[Person]) -> None:
        if self._frames == 0:
            self._open(source)
        lines = ",\n".join("    " + _json_line(person.to_dict()) for person in people)
        content = f"[\n{lines}\n  ]" if people else "[]"
        self._write(f'\n  ],\n  "people": {content}\n}}' + ("\n" if self._single else ""))
        self._frames = 0

    def close(self) -> None:
        if not self._single:
            self._write("\n]\n" if self._videos else "[]\n")

    def _open(self, source: str) -> None:
        separator = "" if self._single else (",\n" if self._videos else "[\n")
        self._videos += 1
        head = f'  "schema": "{VIDEO_SCHEMA}",\n  "source": {_json_line(source)},\n  "frames": ['
        self._write(f"{separator}{{\n{head}")


class _EpisodeTableWriter(ResultWriter):
    """Table of each video's episodes."""

    def __init__(self, write: Write, *, single: bool) -> None:
        super().__init__(write)
        self._single = single
        self._error: str | None = None

    def add(self, result: Result) -> None:
        self._error = result.error

    def end_video(self, source: str, people: Sequence[Person]) -> None:
        title = "" if self._single else f"{printable(source)}\n"
        body = episode_table(people) if people else "nobody was seen\n"
        if self._error is not None:
            body = (body if people else "") + f"{printable(self._error)}\n"
        self._write(title + body + ("" if self._single else "\n"))
        self._error = None


def episode_table(people: Sequence[Person]) -> str:
    """Return the episodes of all people as an aligned table."""
    from mien.video.frames import format_time

    rows = []
    for person in people:
        name = f"#{person.track_id}"
        for episode in person.episodes:
            row = (
                name,
                format_time(episode.start_s),
                format_time(episode.end_s),
                episode.emotion,
                *_confidence_cells(episode.confidence),
                f"{episode.frames:,}",
            )
            rows.append(row)
            name = ""  # shown only once, next to the first episode
    header = ("PERSON", "FROM", "TO", "EMOTION", "CONFIDENCE", "", "FRAMES")
    return table_text(header, rows, right=(1, 2, 5, 6))


# ---------------------------------------------------------------- formats of other tools
# Only the format is theirs: scores are calibrated, and boxes come from mien's detectors.
def to_deepface(result: Result) -> list[dict[str, Any]]:
    """Convert to the format of ``DeepFace.analyze(image, actions=["emotion"])`` (deepface 0.0.103).

    One dictionary per face: ``emotion`` (scores times 100, in deepface's order),
    ``dominant_emotion``, ``region`` (``x``, ``y``, ``w``, ``h``; both eyes are None) and
    ``face_confidence`` (two decimals). Empty if there is no face; deepface raises an error then.
    """
    return [
        {
            "emotion": {name: 100.0 * score for name, score in _fer2013_order(face.scores)},
            "dominant_emotion": face.emotion,
            "region": {**face.box.to_dict(), "left_eye": None, "right_eye": None},
            "face_confidence": round(float(face.face_confidence), 2),
        }
        for face in result.faces
    ]


def to_fer(result: Result) -> list[dict[str, Any]]:
    """Convert to the format of ``FER().detect_emotions(image)`` (fer 25.10).

    One dictionary per face: ``box`` ([x, y, w, h]) and ``emotions`` (scores rounded to two
    decimals, in fer's order). Empty if there is no face.
    """
    return [
        {
            "box": list(face.box.to_dict().values()),
            "emotions": {name: round(score, 2) for name, score in _fer2013_order(face.scores)},
        }
        for face in result.faces
    ]


COMPAT_FORMATS: Mapping[str, Callable[[Result], list[dict[str, Any]]]] = {
    "deepface": to_deepface,
    "fer": to_fer,
}
"""Converters to the formats of other tools, by package name."""


def _fer2013_order(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return scores in the order of the FER-2013 challenge, then those of other classes."""
    names = [name for name in FER2013_CSV_ORDER if name in scores]
    names += [name for name in scores if name not in names]
    return [(name, float(scores[name])) for name in names]


# ---------------------------------------------------------------- opening a writer
@contextmanager
def result_writer(
    output_format: str,
    path: Path | None,
    labels: Sequence[str],
    model: ModelInfo,
    *,
    single: bool,
    convert: Convert = Result.to_dict,
    videos: bool = False,
    corrected: bool = False,
) -> Iterator[ResultWriter]:
    """Open a writer for results of images or videos.

    Args:
        output_format: one of `FORMATS`; Parquet and Excel of images are written by `mien.batch`.
        path: the output file; None for stdout.
        labels: the model's emotions.
        model: the model.
        single: write JSON as an object, not as a list.
        convert: converts a result of an image to the JSON of mien or of another tool.
        videos: write results of videos.
        corrected: add the columns of a baseline to tables.
    """
    scores = {"smoothed": videos, "corrected": corrected}
    if output_format in ("parquet", "xlsx") and path is not None:
        table = result_format(output_format, labels, model, **scores)
        with replace_atomically(path) as temporary, table.open(temporary) as write_rows:
            yield _RowWriter(table.rows, write_rows)
        return
    with _text_output(output_format, path) as write:
        writer = ResultWriter(write, convert)
        if output_format in ("csv", "tsv"):
            text = CsvFormat(labels, output_format, **scores)
            write(text.header)
            writer = _RowWriter(text.rows, lambda rows: write(text.text(rows)))
        elif output_format == "json" and videos:
            writer = _VideoJsonWriter(write, single=single)
        elif output_format == "json":
            writer = _JsonWriter(write, convert, single=single)
        elif output_format == "table":
            writer = _EpisodeTableWriter(write, single=single) if videos else _TableWriter(write)
        yield writer
        writer.close()


@contextmanager
def _text_output(output_format: str, path: Path | None) -> Iterator[Write]:
    if path is not None:
        with output_file(path) as file:
            yield file.write
        return
    if output_format != "table":
        use_utf8_stdout()
    yield write_stdout


def _json_line(value: object) -> str:
    return json_text(value, indent=None)
