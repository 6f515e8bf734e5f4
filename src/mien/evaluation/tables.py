"""Metrics as tables, aligned text and Markdown; marked sections of Markdown files.

::

    <!-- figures:begin results -->
    ... replaced by each evaluation ...
    <!-- figures:end results -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from mien.core.errors import InputError, UsageError, error_reason
from mien.core.files import read_text, write_atomically
from mien.core.formats import table_text
from mien.evaluation.metrics import (
    Agreement,
    Averages,
    ClassMetrics,
    Evaluation,
    Interval,
    Metrics,
)

Table: TypeAlias = tuple[list[str], list[list[str]]]
"""Header and rows."""

MISSING = "-"
"""Cell of an undefined value."""

_BEGIN = re.compile(r"^<!-- figures:begin ([\w-]+) -->[ \t]*$", re.MULTILINE)


# ---------------------------------------------------------------- cells
def percent(share: float | None, *, digits: int = 2) -> str:
    """Format a share as ``69.04 %``."""
    return MISSING if share is None else f"{100 * share:.{digits}f} %"


def percent_range(interval: Interval | None, *, digits: int = 2) -> str:
    """Format an interval as ``67.51 to 70.53 %``."""
    if interval is None:
        return MISSING
    return f"{100 * interval.low:.{digits}f} to {100 * interval.high:.{digits}f} %"


def decimal(value: float | None, *, digits: int = 3) -> str:
    """Format a number with a fixed number of decimals."""
    return MISSING if value is None else f"{value:.{digits}f}"


# ---------------------------------------------------------------- rendering
def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned text table; the first column is left-aligned, the others right-aligned."""
    return table_text(header, rows, right=range(1, len(header))).rstrip("\n")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose source is aligned as by `text_table`."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    first, *others = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * first, *("-" * (width - 1) + ":" for width in others)])
    padded = (
        [line[0].ljust(first), *(cell.rjust(n) for cell, n in zip(line[1:], others, strict=True))]
        for line in lines
    )
    return "\n".join("| " + " | ".join(cells) + " |" for cells in padded)


# ---------------------------------------------------------------- metrics
def summary_table(sets: Mapping[str, Metrics]) -> Table:
    """Key metrics in rows, one column for each set of images."""
    metrics = list(sets.values())
    rows = {
        "accuracy": [percent(m.accuracy) for m in metrics],
        "95 % interval": [percent_range(m.accuracy_interval) for m in metrics],
        "macro-F1": [percent(m.macro_f1) for m in metrics],
        "balanced accuracy": [percent(m.balanced_accuracy) for m in metrics],
        "loss (cross-entropy)": [decimal(m.loss, digits=4) for m in metrics],
        "calibration error": [percent(m.calibration.error) for m in metrics],
        "mean confidence": [percent(m.calibration.confidence) for m in metrics],
    }
    certain = [m.certain for m in metrics if m.certain is not None]
    if certain:
        rows["certain predictions"] = [percent(subset.share) for subset in certain]
        rows["their accuracy"] = [percent(subset.accuracy) for subset in certain]
        rows["its 95 % interval"] = [percent_range(s.accuracy_interval) for s in certain]
    return ["", *sets], [[name, *cells] for name, cells in rows.items()]


def class_table(evaluation: Evaluation) -> Table:
    """Accuracy of each class on all images, with its interval, and on the clean ones."""
    header = ["emotion", "images", "correct", "accuracy", "95 % interval"]
    rows = [
        [
            entry.emotion,
            f"{entry.support:,}",
            f"{entry.correct:,}",
            percent(entry.accuracy, digits=1),
            percent_range(entry.accuracy_interval, digits=1),
        ]
        for entry in evaluation.all.classes
    ]
    if evaluation.clean is not None:
        header += ["clean images", "clean accuracy"]
        for row, entry in zip(rows, evaluation.clean.classes, strict=True):
            row += [f"{entry.support:,}", percent(entry.accuracy, digits=1)]
    return header, rows


def classification_table(metrics: Metrics) -> Table:
    """Precision, recall and F1 of each class and their averages, as scikit-learn lists them."""
    scores: list[tuple[str, ClassMetrics | Averages, int]] = [
        *((entry.emotion, entry, entry.support) for entry in metrics.classes),
        ("macro average", metrics.macro, metrics.count),
        ("weighted average", metrics.weighted, metrics.count),
    ]
    rows = [
        [name, decimal(score.precision), decimal(score.recall), decimal(score.f1), f"{support:,}"]
        for name, score, support in scores
    ]
    return ["", "precision", "recall", "f1-score", "support"], rows


def confusion_table(metrics: Metrics, *, rates: bool) -> Table:
    """The confusion matrix, as counts or as per cent of each row."""
    names = [entry.emotion for entry in metrics.classes]
    if rates:
        cells = [
            [MISSING] * len(names) if row is None else [f"{100 * share:.1f}" for share in row]
            for row in metrics.confusion_rates
        ]
    else:
        cells = [[str(count) for count in row] for row in metrics.confusion]
    rows = [[name, *row] for name, row in zip(names, cells, strict=True)]
    return ["true \\ predicted", *names], rows


def calibration_table(metrics: Metrics) -> Table:
    """The non-empty bins of the reliability diagram."""
    rows = [
        [
            f"{100 * entry.low:.0f} to {100 * entry.high:.0f} %",
            f"{entry.count:,}",
            percent(entry.confidence, digits=1),
            percent(entry.accuracy, digits=1),
        ]
        for entry in metrics.calibration.bins
        if entry.count
    ]
    return ["confidence", "predictions", "mean confidence", "accuracy"], rows


def agreement_table(sets: Mapping[str, Agreement]) -> Table:
    """Agreement with FER+ annotators in rows, one column for each set of images (at least one)."""
    agreements = list(sets.values())
    rows = {
        "agreement with majority": [percent(a.accuracy) for a in agreements],
        "95 % interval": [percent_range(a.accuracy_interval) for a in agreements],
        "FER+ protocol (8 classes)": [percent(a.official_accuracy) for a in agreements],
        "images in FER+ protocol": [f"{a.official_images:,}" for a in agreements],
        "score-share gap": [percent(a.share_error) for a in agreements],
        "cross-entropy with votes": [decimal(a.cross_entropy, digits=4) for a in agreements],
    }
    for entries in zip(*(agreement.emotions for agreement in agreements), strict=True):
        rows[f"majority {entries[0].emotion}"] = [
            f"{percent(entry.agreed / entry.images, digits=1)} of {entry.images:,}"
            if entry.images
            else MISSING
            for entry in entries
        ]
    return ["", *sets], [[name, *cells] for name, cells in rows.items()]


def majority_table(agreement: Agreement) -> Table:
    """Agreement with the majority vote for each emotion that some image has as its majority."""
    rows = [
        [entry.emotion, f"{entry.images:,}", percent(entry.agreed / entry.images, digits=1)]
        for entry in agreement.emotions
        if entry.images
    ]
    return ["majority vote", "images", "agreement"], rows


# ---------------------------------------------------------------- marked sections
def section_names(path: Path) -> tuple[str, ...]:
    """Return the names of a file's marked sections; raises InputError if it cannot be read."""
    return tuple(match[1] for match in _BEGIN.finditer(_read(path)))


def require_section(paths: Sequence[Path], name: str) -> None:
    """Check, before any work is done, that files have a marked section.

    Raises:
        UsageError: if a file lacks the section.
        InputError: if a file cannot be read.
    """
    for path in paths:
        if name not in section_names(path):
            raise UsageError(
                f"{path} has no section {name!r}: expected <!-- figures:begin {name} --> and "
                f"<!-- figures:end {name} -->"
            )


def update_marked_section(path: Path, name: str, text: str) -> None:
    """Replace the text of a marked section; the rest of the file is kept byte for byte.

    Raises:
        InputError: if the file cannot be read, or does not have both marks exactly once, in order.
        OutputError: if the file cannot be written.
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
        return read_text(path, "utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error_reason(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is not UTF-8 text") from error
