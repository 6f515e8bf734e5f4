"""JSON and CSV as mien writes them everywhere: in files, on stdout and over HTTP."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def json_text(value: object, *, indent: int | None = 2) -> str:
    """Return ``value`` as JSON without a line end; NaN and infinity are refused (ValueError)."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def csv_text(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, header: bool = True
) -> str:
    """Return rows as CSV lines with these columns, after a header line unless told not to.

    None becomes an empty field; truth values become ``true`` and ``false`` as in JSON.
    """
    lines = [_csv_line(columns)] if header else []
    for row in rows:
        cells = (row[column] for column in columns)
        lines.append(
            _csv_line(str(cell).lower() if isinstance(cell, bool) else cell for cell in cells)
        )
    return "".join(lines)


def _csv_line(cells: Iterable[Any]) -> str:
    buffer = io.StringIO()
    # The writer quotes what its own line end holds: a lone \r in a name needs quotes as well as \n.
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"
