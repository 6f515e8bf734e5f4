"""JSON, CSV and aligned text tables, for files, stdout and HTTP."""

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
    """Escape surrogates, which occur in file names that are not UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def csv_text(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    header: bool = True,
    delimiter: str = ",",
) -> str:
    """Return rows as CSV lines, after a line of column names unless ``header`` is false.

    None becomes an empty field, and Booleans become ``true`` and ``false`` as in JSON. A tab as
    ``delimiter`` gives TSV.
    """
    lines = [_csv_line(columns, delimiter)] if header else []
    for row in rows:
        cells = (row[column] for column in columns)
        texts = (str(cell).lower() if isinstance(cell, bool) else cell for cell in cells)
        lines.append(_csv_line(texts, delimiter))
    return "".join(lines)


def _csv_line(cells: Iterable[Any], delimiter: str) -> str:
    buffer = io.StringIO()
    # With \r\n as line terminator, the writer also quotes fields that contain \r.
    csv.writer(buffer, lineterminator="\r\n", delimiter=delimiter).writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


# ---------------------------------------------------------------- aligned tables
def table_text(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> str:
    """Return an aligned table, one line per row, without trailing blanks.

    Args:
        header: column names.
        rows: cells; in a row with fewer cells than columns, the last one may be of any width.
        right: indices of right-aligned columns.
    """
    lines = [header, *([printable(cell) for cell in row] for row in rows)]
    widths = [0] * len(header)
    for line in lines:
        aligned = line if len(line) == len(header) else line[:-1]
        for column, cell in enumerate(aligned):
            widths[column] = max(widths[column], display_width(cell))
    return "".join(_table_line(line, widths, right) + "\n" for line in lines)


def display_width(text: str) -> int:
    """Return the width of a text in terminal columns: 2 for wide characters, 0 for accents."""
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    # Combining marks, variation selectors (category Mn) and zero-width joiners take no column.
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _table_line(cells: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    padded = []
    for column, cell in enumerate(cells):
        blanks = " " * (widths[column] - display_width(cell))
        padded.append(blanks + cell if column in right else cell + blanks)
    return "  ".join(padded).rstrip()
