"""Sections of a Markdown file that the evaluation writes, between two marks.

::

    <!-- figures:begin results -->
    ... replaced at each evaluation ...
    <!-- figures:end results -->
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mien.core.errors import InputError
from mien.core.files import write_atomically
from mien.evaluation.report import Report
from mien.evaluation.report_tables import class_table, confusion_table, results_table
from mien.evaluation.report_text import CERTAIN_NOTE, CLEAN_NOTE, INTERVAL_NOTE, title
from mien.evaluation.tables import markdown_table

_BEGIN = re.compile(r"^<!-- figures:begin ([\w-]+) -->[ \t]*$", re.MULTILINE)


def section_names(path: Path) -> tuple[str, ...]:
    """Return the names of the marked sections of a file, in its order.

    Raises:
        InputError: if the file cannot be read.
    """
    return tuple(match[1] for match in _BEGIN.finditer(_read(path)))


def update_marked_section(path: Path, name: str, text: str) -> None:
    """Put ``text`` between the marks of section ``name``, and leave all else as it is.

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


SECTIONS: tuple[str, ...] = ("results", "per-class", "confusion")
"""The sections that `render_sections` fills."""


def check_sections(path: Path) -> tuple[str, ...]:
    """Return which of `SECTIONS` a file has, in its order.

    Raises:
        InputError: if the file cannot be read or has none of them.
    """
    names = tuple(name for name in section_names(path) if name in SECTIONS)
    if not names:
        raise InputError(
            f"{path} has no section to write to: expected <!-- figures:begin NAME --> and "
            f"<!-- figures:end NAME --> around it, NAME being one of {', '.join(SECTIONS)}"
        )
    return names


def render_sections(reports: Sequence[Report]) -> dict[str, str]:
    """Return the text of each section that the evaluations of one model can fill.

    Args:
        reports: at least one, in the order in which they are to be listed.

    Returns:
        ``results`` (a table of all evaluations), ``per-class`` and ``confusion`` (of the test split
        without augmentation where it is among them, else of the first).
    """
    plain = [report for report in reports if report.key == "test"]
    chosen = plain[0] if plain else reports[0]
    model = chosen.model
    return {
        "results": (
            f"{markdown_table(*results_table(reports))}\n\n"
            f"{model.name} {model.version}, SHA-256 `{model.sha256[:12]}…`. "
            f"{CLEAN_NOTE} {INTERVAL_NOTE} {CERTAIN_NOTE} TTA: test-time augmentation."
        ),
        "per-class": (
            f"{title(chosen)}:\n\n{markdown_table(*class_table(chosen))}\n\n{INTERVAL_NOTE}"
        ),
        "confusion": (
            f"{title(chosen)}, % of each row:\n\n"
            f"{markdown_table(*confusion_table(chosen.evaluation.all, rates=True))}"
        ),
    }


def update_sections(path: Path, reports: Sequence[Report]) -> tuple[str, ...]:
    """Fill every section of a file that `render_sections` knows; return their names.

    Sections of other names belong to others and stay as they are.

    Raises:
        InputError: if the file cannot be read or has none of the sections.
        OutputError: if it cannot be written.
    """
    sections = render_sections(reports)
    names = check_sections(path)
    for name in names:
        update_marked_section(path, name, sections[name])
    return names


def _read(path: Path) -> str:
    try:
        # Bytes, not text mode: line ends stay as they are.
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is not UTF-8 text") from error
