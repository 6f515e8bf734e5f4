"""A report as a folder (text, Markdown, JSON, figures), where it goes, and its Markdown sections.

::

    outputs/<run>/report/
      report.md, report.txt, report.json    the latest evaluation
      confusion.png, per_class.png, reliability.png, samples.png, curves.png
      evaluations/test.json, test-tta.json, val.json ...    the numbers of each evaluation so far
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from mien.core.errors import InputError, UsageError
from mien.core.files import write_atomically
from mien.core.results import ModelInfo
from mien.evaluation.figures import (
    History,
    accuracy_figure,
    confusion_figure,
    reliability_figure,
    share_figure,
    training_curves,
)
from mien.evaluation.markdown import (
    markdown_table,
    percent,
    section_names,
    update_marked_section,
)
from mien.evaluation.metrics import Agreement
from mien.evaluation.pictures import prediction_grid, sample_tiles
from mien.evaluation.report import (
    CERTAIN_NOTE,
    CLEAN_NOTE,
    INTERVAL_NOTE,
    Report,
    Samples,
    class_table,
    confusion_table,
    people_table,
    read_reports,
    render_markdown,
    render_text,
    results_table,
    title,
    write_report_json,
)

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
"""Files of a report's folder, beside `EVALUATIONS`."""

SECTIONS: tuple[str, ...] = ("results", "per-class", "confusion", "agreement")
"""The sections that `render_sections` fills."""

_OWNED = ("report.json", "robustness.json", "pictures.json")
"""The files that name the model and data of a folder's reports."""


def write_report(
    report: Report, folder: Path, *, samples: Samples, history: History | None = None
) -> tuple[Report, ...]:
    """Write a report and its figures, replacing the previous one in that folder.

    Args:
        report: the evaluation.
        folder: where to; made if need be.
        samples: the split's images and their predictions.
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
        sample_tiles(samples, seed=report.seed),
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
    """Draw the figures without images of the data; return their names. Raises as `write_report`."""
    metrics, name = report.evaluation.all, title(report)
    confusion_figure(metrics, folder / "confusion.png", title=f"Confusion: {name}")
    accuracy_figure(metrics, folder / "per_class.png", title=f"Accuracy of each emotion: {name}")
    reliability_figure(
        metrics.calibration, folder / "reliability.png", title=f"Reliability: {name}"
    )
    files = ["confusion.png", "per_class.png", "reliability.png"]
    if report.agreement is not None:
        write_share_figure(report, folder)
        files.append("shares.png")
    if history is not None:
        training_curves(history, folder / "curves.png", title=f"Training of {report.model.name}")
        files.append("curves.png")
    return tuple(files)


def write_share_figure(report: Report, folder: Path) -> None:
    """Draw scores beside the share of people who say so, where there were votes."""
    if report.agreement is not None:
        model = report.model
        name = f"Scores and people: {model.name} {model.version}, {report.split}"
        share_figure(report.agreement, folder / "shares.png", title=name)


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


# ---------------------------------------------------------------- where it goes
def report_place(
    base: Path,
    model: ModelInfo,
    data: str,
    *,
    given: bool = False,
    force: bool = False,
    key: str = "",
    images_sha256: str | None = None,
) -> Path:
    """Return the folder that a report is to be written to.

    Args:
        base: where it goes by default.
        model: the model it is of.
        data: the name of the data it is on.
        given: whether the user chose ``base``: another folder is then never taken.
        force: take ``base`` whatever is in it.
        key: of the evaluation, see `mien.evaluation.report.Report`.
        images_sha256: of its images; other data of the same name differs in it.

    Returns:
        ``base`` where it is free or of the same model and data, else the first of ``base-2``,
        ``base-3``, ... that is.

    Raises:
        UsageError: if ``base`` is the user's choice and holds a report on another model or data.
    """

    def fits(folder: Path) -> bool:
        reports = [_read(folder / name) for name in _OWNED]
        if any((one["model"], one["data"]) != (model.to_dict(), data) for one in reports if one):
            return False
        before = _read(folder / EVALUATIONS / f"{key}.json") or {}
        of_others = before.get("model") != model.to_dict()
        return of_others or before.get("images_sha256") in (None, images_sha256)

    if force or fits(base):
        return base
    if given:
        raise UsageError(
            f"{base} holds a report on another model or other data: choose another --output, "
            "or --force to replace it"
        )
    return next(
        folder for number in count(2) if fits(folder := base.with_name(f"{base.name}-{number}"))
    )


def _read(path: Path) -> dict[str, Any] | None:
    """Return a report's content, None where there is none; a damaged one fits no model."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        content = None
    found = content if isinstance(content, dict) else {}
    return {"model": None, "data": None, **found}


# ---------------------------------------------------------------- sections of other files
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
    """Return the text of each section that the evaluations (at least one) of one model can fill.

    ``results`` (a table of all evaluations), ``per-class`` and ``confusion`` (of the test split
    without augmentation where it is among them, else of the first); for the people reading
    ``agreement`` with FER+'s annotators in their place, if there were votes.
    """
    plain = [each for each in reports if each.split == "test" and not each.tta]
    chosen = plain[0] if plain else reports[0]
    model = chosen.model
    source = f"{model.name} {model.version}, SHA-256 `{model.sha256[:12]}…`."
    if model.labels == "people":
        if chosen.agreement is None:
            return {}
        return {
            "agreement": (
                f"{markdown_table(*people_table(reports))}\n\n{source} {CLEAN_NOTE} "
                f"{INTERVAL_NOTE}\n\n{title(chosen)}:\n\n"
                f"{markdown_table(*_majority_table(chosen.agreement))}"
            )
        }
    return {
        "results": (
            f"{markdown_table(*results_table(reports))}\n\n"
            f"{source} {CLEAN_NOTE} {INTERVAL_NOTE} {CERTAIN_NOTE} TTA: test-time augmentation."
        ),
        "per-class": (
            f"{title(chosen)}:\n\n{markdown_table(*class_table(chosen))}\n\n{INTERVAL_NOTE}"
        ),
        "confusion": (
            f"{title(chosen)}, % of each row:\n\n"
            f"{markdown_table(*confusion_table(chosen.evaluation.all, rates=True))}"
        ),
    }


def _majority_table(agreement: Agreement) -> tuple[list[str], list[list[str]]]:
    rows = [
        [each.emotion, f"{each.images:,}", percent(each.agreed / each.images, digits=1)]
        for each in agreement.emotions
        if each.images
    ]
    return ["the majority says", "images", "read so"], rows


def update_sections(path: Path, reports: Sequence[Report]) -> tuple[str, ...]:
    """Fill every section of a file that `render_sections` knows; return their names.

    Raises:
        InputError: if the file cannot be read or has none of the sections.
        OutputError: if it cannot be written.
    """
    sections = render_sections(reports)
    names = tuple(name for name in check_sections(path) if name in sections)
    if not names:
        raise InputError(
            f"{path} has no section for this evaluation: expected one of "
            f"{', '.join(sections) or 'those of one with --votes'}"
        )
    for name in names:
        update_marked_section(path, name, sections[name])
    return names
