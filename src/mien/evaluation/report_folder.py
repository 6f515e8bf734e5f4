"""A report as a folder: text, Markdown, JSON and figures.

::

    outputs/<run>/report/
      report.md, report.txt, report.json    the latest evaluation
      confusion.png, per_class.png, reliability.png, samples.png, curves.png
      evaluations/test.json, test-tta.json, val.json ...    the numbers of each evaluation so far
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import InputError
from mien.core.files import write_atomically
from mien.evaluation.curves import History, training_curves
from mien.evaluation.figures import (
    accuracy_figure,
    confusion_figure,
    reliability_figure,
    share_figure,
)
from mien.evaluation.grids import prediction_grid, sample_tiles
from mien.evaluation.report import Report, read_reports, write_report_json
from mien.evaluation.report_text import render_markdown, render_text, title

EVALUATIONS = "evaluations"

_CAPTIONS = {
    "confusion.png": "Confusion matrix",
    "per_class.png": "Accuracy of each emotion",
    "reliability.png": "Reliability diagram",
    "shares.png": "Scores and the share of people who say so",
    "samples.png": "Sample pictures, read right and read wrong",
    "curves.png": "Training curves",
}

REPORTS: tuple[str, ...] = ("report.json", "report.txt", "report.md")
FIGURES: tuple[str, ...] = tuple(_CAPTIONS)
"""What an evaluation writes into its folder, beside `EVALUATIONS`."""


@dataclass(frozen=True)
class Samples:
    """What the grid of sample pictures is chosen from.

    Attributes:
        images: uint8 (N, 48, 48).
        labels: (N,), indices into ``classes``.
        probabilities: (N, classes).
        classes: their names.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.floating[Any]]
    classes: tuple[str, ...] = EMOTIONS


def write_report(
    report: Report, folder: Path, *, samples: Samples, history: History | None = None
) -> tuple[Report, ...]:
    """Write a report and its figures, replacing the previous one in that folder.

    Args:
        report: the evaluation.
        folder: where to; made if need be.
        samples: the split's images and how they were read.
        history: the training run's columns (see `training_curves`), None where unknown.

    Returns:
        The evaluations of this very model so far, this one among them, in the order to list them.

    Raises:
        OutputError: if a file cannot be written.
        DataError: if the folder holds a damaged earlier evaluation.
        MissingExtra: without Matplotlib or Seaborn.
    """
    write_report_json(report, folder / EVALUATIONS / f"{report.key}.json")
    others = read_reports(folder / EVALUATIONS, report.model)
    files = write_figures(report, folder, history=history)
    prediction_grid(
        sample_tiles(
            samples.images,
            samples.labels,
            samples.probabilities,
            seed=report.seed,
            classes=samples.classes,
        ),
        folder / "samples.png",
        title=f"Read right (above) and read wrong (below): {title(report)}",
        note=f"a column for each emotion, images chosen at random with seed {report.seed}",
    )
    figures = {_CAPTIONS[name]: name for name in (*files, "samples.png")}
    write_report_json(report, folder / "report.json")
    write_atomically(folder / "report.txt", render_text(report, others).encode())
    write_atomically(folder / "report.md", render_markdown(report, others, figures).encode())
    return others


def write_figures(
    report: Report, folder: Path, *, history: History | None = None
) -> tuple[str, ...]:
    """Draw what shows numbers alone, no image of the data; return the files' names.

    Raises:
        OutputError: if a file cannot be written.
        MissingExtra: without Matplotlib or Seaborn.
    """
    metrics, name = report.evaluation.all, title(report)
    confusion_figure(metrics, folder / "confusion.png", title=f"Confusion: {name}")
    accuracy_figure(metrics, folder / "per_class.png", title=f"Accuracy of each emotion: {name}")
    reliability_figure(
        metrics.calibration, folder / "reliability.png", title=f"Reliability: {name}"
    )
    files = ["confusion.png", "per_class.png", "reliability.png"]
    if report.agreement is not None:
        share_figure(report.agreement, folder / "shares.png", title=f"Scores and people: {name}")
        files.append("shares.png")
    if history is not None:
        training_curves(history, folder / "curves.png", title=f"Training of {report.model.name}")
        files.append("curves.png")
    return tuple(files)


def read_history(path: Path) -> History:
    """Read the columns of a run's ``history.csv``.

    Raises:
        InputError: if it cannot be read, or a row has too few or too many values.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the history {path}: {error}") from error
    if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows):
        raise InputError(
            f"cannot read the history {path}: expected a header and a line for each epoch"
        )
    return {name: [row[place] for row in rows[1:]] for place, name in enumerate(rows[0])}
