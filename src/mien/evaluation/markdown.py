"""Tables as aligned text and as Markdown, numbers in them, and marked sections of Markdown files.

::

    <!-- figures:begin results -->
    ... replaced at each evaluation ...
    <!-- figures:end results -->
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mien.core.errors import InputError, error_reason
from mien.core.files import write_atomically
from mien.core.formats import table_text
from mien.evaluation.metrics import Interval

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""

NOTHING = "-"
"""In place of a missing value."""

_BEGIN = re.compile(r"^<!-- figures:begin ([\w-]+) -->[ \t]*$", re.MULTILINE)


# ---------------------------------------------------------------- numbers and tables
def percent(share: float | None, *, digits: int = 2) -> str:
    """Write a share as ``69.04 %``; None as a dash."""
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"


def percent_range(interval: Interval | None, *, digits: int = 2) -> str:
    """Write an interval as ``67.51 to 70.53 %``; None as a dash."""
    if interval is None:
        return NOTHING
    return f"{100 * interval.low:.{digits}f} to {100 * interval.high:.{digits}f} %"


def decimal(value: float | None, *, digits: int = 3) -> str:
    """Write a number with a fixed count of decimals; None as a dash."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns with blanks: the first to the left, the others to the right."""
    return table_text(header, rows, right=range(1, len(header))).rstrip("\n")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table, aligned in its source too; ``|`` inside a cell is escaped."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    first, *others = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * first, *("-" * (width - 1) + ":" for width in others)])
    padded = (
        [line[0].ljust(first), *(cell.rjust(n) for cell, n in zip(line[1:], others, strict=True))]
        for line in lines
    )
    return "\n".join("| " + " | ".join(cells) + " |" for cells in padded)


# ---------------------------------------------------------------- marked sections
def section_names(path: Path) -> tuple[str, ...]:
    """Return the names of a file's marked sections; InputError if it cannot be read."""
    return tuple(match[1] for match in _BEGIN.finditer(_read(path)))


def update_marked_section(path: Path, name: str, text: str) -> None:
    """Replace the text between the marks of a section; all else stays as it is.

    Raises:
        InputError: if the file cannot be read, or does not hold both marks exactly once, in order.
        OutputError: if it cannot be written.
    """
    content = _read(path)
    begin, end = f"<!-- figures:begin {name} -->", f"<!-- figures:end {name} -->"
    start, stop = content.find(begin), content.find(end)
    if content.count(begin) != 1 or content.count(end) != 1 or stop < start:
        raise InputError(f"{path}: expected the line {begin} and after it {end}, each exactly once")
    updated = f"{content[: start + len(begin)]}\n\n{text.strip()}\n\n{content[stop:]}"
    if updated != content:
        write_atomically(path, updated.encode())


def _read(path: Path) -> str:
    try:
        # Bytes, not text mode: line ends stay as they are.
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error_reason(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is not UTF-8 text") from error
