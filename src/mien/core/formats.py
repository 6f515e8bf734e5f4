"""JSON, CSV and aligned tables as mien writes them: in files, on stdout and over HTTP."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mien.core.errors import printable


def json_text(value: object, *, indent: int | None = 2) -> str:
    """Return ``value`` as JSON without a final newline; raises ValueError for NaN and infinity."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def escape_surrogates(text: str) -> str:
    """Return a text with surrogates escaped, as in file names that are not UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def csv_text(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    header: bool = True,
    delimiter: str = ",",
) -> str:
    """Return rows as CSV lines with these columns, after a header line unless told not to.

    None becomes an empty field; truth values become ``true`` and ``false`` as in JSON. With a tab
    as ``delimiter`` it is TSV.
    """
    lines = [_csv_line(columns, delimiter)] if header else []
    for row in rows:
        cells = (row[column] for column in columns)
        lines.append(
            _csv_line(
                (str(cell).lower() if isinstance(cell, bool) else cell for cell in cells), delimiter
            )
        )
    return "".join(lines)


def _csv_line(cells: Iterable[Any], delimiter: str) -> str:
    buffer = io.StringIO()
    # With \r\n as line terminator, the writer also quotes fields with a lone \r.
    csv.writer(buffer, lineterminator="\r\n", delimiter=delimiter).writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


# ---------------------------------------------------------------- aligned text
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
    widths = [0] * len(header)
    for line in lines:
        # All cells of a short row but the last are aligned.
        fixed = line if len(line) == len(header) else line[:-1]
        for column, cell in enumerate(fixed):
            widths[column] = max(widths[column], display_width(cell))
    return "".join(_table_line(line, widths, right) + "\n" for line in lines)


def display_width(text: str) -> int:
    """Return the width of a text in terminal columns: wide characters two, accents none."""
    return sum(_character_width(character) for character in text)


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
    return "  ".join(padded).rstrip()
