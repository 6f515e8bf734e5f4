"""Results of images as text: JSON, JSON lines, CSV, a table, or another tool's JSON."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from mien.cli.output import bar, csv_text, json_text, shorten, stdout_takes, table_text

if TYPE_CHECKING:
    from mien.core.results import Result

_SOURCE_COLUMNS = 40

# In indented JSON, an object that holds no other. Line ends inside strings are escaped, so the real
# ones stand between values.
_FLAT_OBJECT = re.compile(r"\{\n([^{}]*)\}")
_LINE_END = re.compile(r"\n *")


def _json_chunks(results: Iterable[Result], _: Sequence[str], single: bool) -> Iterator[str]:
    if single:
        yield from (_pretty(result) + "\n" for result in results)
        return
    opening = "[\n"
    for result in results:
        yield opening + textwrap.indent(_pretty(result), "  ")
        opening = ",\n"
    yield "\n]\n"


def _pretty(result: Result) -> str:
    """Return indented JSON whose innermost objects (box, scores, ...) take one line each."""
    text = json_text(result.to_dict())
    return _FLAT_OBJECT.sub(lambda found: "{" + _LINE_END.sub(" ", found[1].strip()) + "}", text)


def _jsonl_chunks(results: Iterable[Result], _: Sequence[str], __: bool) -> Iterator[str]:
    for result in results:
        yield json_text(result.to_dict(), indent=None) + "\n"


def compat_chunks(
    results: Iterable[Result],
    convert: Callable[[Result], list[dict[str, Any]]],
    shape: str,
    single: bool,
) -> Iterator[str]:
    """Give each image's list of faces in another tool's form: in a list where images are many."""
    converted = (convert(result) for result in results)
    if shape == "jsonl":
        yield from (json_text(faces, indent=None) + "\n" for faces in converted)
    else:
        everything = list(converted)
        yield json_text(everything[0] if single else everything) + "\n"


def _csv_chunks(results: Iterable[Result], labels: Sequence[str], _: bool) -> Iterator[str]:
    from mien.core.results import result_rows, table_columns

    columns = table_columns(labels)
    yield csv_text([], columns)
    for result in results:
        yield csv_text(result_rows(result, labels), columns, header=False)


def _table_chunks(results: Iterable[Result], _: Sequence[str], __: bool) -> Iterator[str]:
    plain = not stdout_takes(bar(0.5))
    everything = list(results)
    rows = [row for result in everything for row in _table_rows(result, plain=plain)]
    header = ("IMAGE", "FACE", "EMOTION", "CONFIDENCE", "", "BOX")
    yield table_text(header, rows, right=(1, 4))
    if any(face.uncertain for result in everything for face in result.faces):
        yield "\n? uncertain: below the model's threshold for this emotion\n"


def _table_rows(result: Result, *, plain: bool) -> Iterator[tuple[str, ...]]:
    source = shorten(str(result.source), _SOURCE_COLUMNS)
    if result.error is not None:
        reason = result.error.removeprefix(str(result.source)).lstrip(": ")
        yield (source, "-", f"{result.status}: {reason}")
    elif not result.faces:
        yield (source, "-", "no face")
    for face in result.faces:
        box = face.box
        yield (
            source,
            str(face.face_id),
            face.emotion + (" ?" if face.uncertain else ""),
            bar(face.confidence, plain=plain),
            f"{face.confidence:.0%}",
            f"{box.w}x{box.h} at {box.x},{box.y}",
        )
        source = ""  # said once, beside the first face


Renderer: TypeAlias = Callable[["Iterable[Result]", Sequence[str], bool], Iterator[str]]
"""Takes the results, the model's labels, and whether there is one image only."""

RENDERERS: dict[str, Renderer] = {
    "json": _json_chunks,
    "jsonl": _jsonl_chunks,
    "csv": _csv_chunks,
    "table": _table_chunks,
}
"""By the format's name, as the command line has it."""
