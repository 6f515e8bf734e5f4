"""Tables as aligned text and as Markdown, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Sequence

from mien.evaluation.intervals import Interval

NOTHING = "-"
"""What stands where there is no value."""

Rows = Sequence[Sequence[str]]


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


def text_table(header: Sequence[str], rows: Rows) -> str:
    """Align columns with blanks: the first to the left, the others to the right."""
    widths = _widths(header, rows)
    lines = [
        "  ".join(_cell(cell, width, place) for place, (cell, width) in enumerate(pairs)).rstrip()
        for pairs in (list(zip(row, widths, strict=True)) for row in (header, *rows))
    ]
    return "\n".join(lines)


def markdown_table(header: Sequence[str], rows: Rows) -> str:
    """Write a Markdown table, aligned in its source too; ``|`` inside a cell is escaped."""
    header = [_escape(cell) for cell in header]
    rows = [[_escape(cell) for cell in row] for row in rows]
    widths = [max(3, width) for width in _widths(header, rows)]
    rule = [
        "-" * width if place == 0 else "-" * (width - 1) + ":" for place, width in enumerate(widths)
    ]
    lines = [
        "| "
        + " | ".join(
            _cell(cell, width, place)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in (header, rule, *rows)
    ]
    return "\n".join(lines)


def _widths(header: Sequence[str], rows: Rows) -> list[int]:
    return [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]


def _cell(cell: str, width: int, place: int) -> str:
    return cell.ljust(width) if place == 0 else cell.rjust(width)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|")
