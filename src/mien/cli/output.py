"""How commands show what they found: aligned tables, JSON, CSV, on stdout or into a file."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mien.core.errors import OutputError, one_line, printable
from mien.core.files import write_atomically

_BAR = "█"
_PLAIN_BAR = "#"
_ELLIPSIS = "…"
_GAP = "  "


def json_text(value: object, *, indent: int | None = 2) -> str:
    """Return ``value`` as JSON without a line end; NaN and infinity are refused (ValueError)."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def csv_text(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, header: bool = True
) -> str:
    """Return rows as CSV lines with these columns, after a line of their names unless told not to.

    None becomes an empty field; truth values become ``true`` and ``false`` as in JSON.
    """
    lines = [_csv_line(columns)] if header else []
    for row in rows:
        cells = (row[column] for column in columns)
        lines.append(
            _csv_line(str(cell).lower() if isinstance(cell, bool) else cell for cell in cells)
        )
    return "".join(lines)


def display_width(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes: wide letters two, accents none."""
    return sum(_character_width(character) for character in text)


def shorten(text: str, width: int) -> str:
    """Return ``text`` cut at its front to ``width`` columns, since the end of a path tells most."""
    if display_width(text) <= width:
        return text
    kept = ""
    for character in reversed(text):
        if display_width(character + kept) > width - 1:
            break
        kept = character + kept
    return _ELLIPSIS + kept


def bar(share: float, width: int = 10, *, plain: bool = False) -> str:
    """Return a bar of ``width`` columns, filled by ``share`` (0 to 1)."""
    filled = round(min(1.0, max(0.0, share)) * width)
    return (_PLAIN_BAR if plain else _BAR) * filled + ("." if plain else "░") * (width - filled)


def table_text(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> str:
    """Return an aligned table, one line a row, without trailing blanks.

    Args:
        header: the columns' names.
        rows: as many cells as there are columns; a shorter row's last cell may run on freely.
        right: indices of the columns that are set to the right.
    """
    lines = [header, *([printable(cell) for cell in row] for row in rows)]
    widths = [
        max((display_width(line[column]) for line in lines if len(line) == len(header)), default=0)
        for column in range(len(header))
    ]
    # A short row's cells, all but the free last one, still keep to their columns.
    for line in lines:
        if len(line) < len(header):
            for column, cell in enumerate(line[:-1]):
                widths[column] = max(widths[column], display_width(cell))
    return "".join(_table_line(line, widths, right) + "\n" for line in lines)


def stdout_takes(text: str) -> bool:
    """Say whether stdout's encoding has all characters of ``text``."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def use_utf8_stdout() -> None:
    """Make stdout UTF-8 whatever the locale is, as JSON has to be and CSV had better be."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The halves of a file name that is not UTF-8 come out as JSON's own escapes.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def write_stdout(text: str) -> None:
    """Write data to stdout.

    Raises:
        BrokenPipeError: if nobody reads any more; `mien.cli.main` takes that as the end.
        OutputError: if it cannot be written otherwise.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def discard_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's own last flush cannot fail."""
    try:
        number = sys.stdout.fileno()
    except OSError:  # a stream of another program's, which is no file
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, number)
    finally:
        os.close(nowhere)


def write_output(path: Path, text: str) -> None:
    """Write data to a file as UTF-8, whole or not at all; devices and pipes are written straight.

    Raises:
        OutputError: if it cannot be written.
    """
    content = text.encode("utf-8", errors="backslashreplace")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder, expected a file's name")
    if not path.exists() or path.is_file():
        # A link keeps being a link: what it leads to is replaced.
        write_atomically(path.resolve() if path.is_symlink() else path, content)
        return
    try:
        with path.open("wb") as device:
            device.write(content)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def note(text: str, *, quiet: bool) -> None:
    """Say something in one line on stderr, unless quiet is asked for."""
    if not quiet:
        print(one_line(" ".join(text.split())), file=sys.stderr)


def _csv_line(cells: Iterable[Any]) -> str:
    buffer = io.StringIO()
    # The writer quotes what its own line end holds: a lone \r in a name needs quotes as well as \n.
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _character_width(character: str) -> int:
    # Zero-width joiner and the variation selectors (category Mn) take no column of their own.
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _table_line(cells: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    padded = []
    for column, cell in enumerate(cells):
        blanks = " " * (widths[column] - display_width(cell))
        padded.append(blanks + cell if column in right else cell + blanks)
    return _GAP.join(padded).rstrip()
