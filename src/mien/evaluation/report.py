"""Reports: one evaluation of a model as JSON, text, Markdown and figures.

A report's folder::

    outputs/<run>/report/
      report.md, report.txt, report.json    the latest evaluation
      confusion.png, per_class.png, reliability.png, samples.png, curves.png
      evaluations/test.json, test-tta.json, val.json ...    all evaluations of the model so far
"""

from __future__ import annotations

import dataclasses
import json
import platform
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import mien
from mien.core.errors import DataError, InputError, UsageError, error_reason
from mien.core.files import write_atomically
from mien.core.formats import json_text
from mien.core.process import package_version
from mien.core.results import ModelInfo
from mien.evaluation.figures import (
    History,
    accuracy_figure,
    confusion_figure,
    reliability_figure,
    share_figure,
    training_curves,
)
from mien.evaluation.metrics import Agreement, Evaluation, Metrics
from mien.evaluation.pictures import Samples, prediction_grid, sample_tiles
from mien.evaluation.tables import (
    Table,
    agreement_table,
    calibration_table,
    class_table,
    classification_table,
    confusion_table,
    majority_table,
    markdown_table,
    percent,
    percent_range,
    section_names,
    summary_table,
    text_table,
    update_marked_section,
)

SCHEMA = "mien-report/1"

SPLIT_ORDER: tuple[str, ...] = ("val", "test", "train", "all")
"""Splits in the order of listing; "all" is a folder without splits."""

EVALUATIONS = "evaluations"

_CAPTIONS = {
    "confusion.png": "Confusion matrix",
    "per_class.png": "Accuracy of each emotion",
    "reliability.png": "Reliability diagram",
    "shares.png": "Scores and vote shares",
    "samples.png": "Correct and incorrect predictions",
    "curves.png": "Training curves",
}

REPORTS: tuple[str, ...] = ("report.json", "report.txt", "report.md")
FIGURES: tuple[str, ...] = tuple(_CAPTIONS)
"""Files of a report's folder, besides `EVALUATIONS`."""

SECTIONS: tuple[str, ...] = ("results", "per-class", "confusion", "agreement")
"""Marked sections that `render_sections` can fill."""

_OWNERS = ("report.json", "robustness.json", "pictures.json")
"""Files that record the model and the data of a folder's contents."""

_PACKAGES = (
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "scikit-learn",
    "matplotlib",
    "seaborn",
)

_CLEAN_NOTE = "Clean images have no pixel-identical copy in Training."
_INTERVAL_NOTE = "Intervals are 95 % Wilson score intervals."
_CERTAIN_NOTE = "Certain predictions are those not flagged as uncertain."
_GAP_NOTE = (
    "The score-share gap is the mean absolute difference between a score and the share of "
    "annotators who chose the emotion."
)
_NOTES = (
    f"{_CLEAN_NOTE} {_INTERVAL_NOTE} The accuracy of an emotion is its recall, the share of its "
    "images predicted correctly. Averages are over the emotions that have images. The calibration "
    "error is the mean absolute difference between confidence and accuracy over 15 bins of equal "
    f"width. {_CERTAIN_NOTE}"
)
_TEXT_WIDTH = 100


@dataclass(frozen=True)
class Report:
    """One evaluation of one model on one split.

    Attributes:
        model: name, version and hash of the model.
        data: name of the data set.
        split: "train", "val", "test", or "all" for a folder without splits.
        tta: whether test-time augmentation was used.
        evaluation: the metrics.
        seed: random seed of the sample images.
        command: command line that reproduces the report.
        skipped: number of files that could not be read.
        left_out: number of images of each class that the model does not have.
        trained: number of images excluded because the model was trained on them.
        with_trained: whether such images are included instead; the others are the clean ones.
        images_sha256: hash of the images and labels, None if unknown.
        versions: versions of Python and of the packages.
        agreement: agreement with FER+ votes on all images, None without votes.
        clean_agreement: the same on the clean images.
    """

    model: ModelInfo
    data: str
    split: str
    tta: bool
    evaluation: Evaluation
    seed: int = 0
    command: str = ""
    skipped: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    trained: int = 0
    with_trained: bool = False
    images_sha256: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    agreement: Agreement | None = None
    clean_agreement: Agreement | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLIT_ORDER:
            raise UsageError(f"expected a split of {', '.join(SPLIT_ORDER)}, got {self.split!r}")

    @property
    def key(self) -> str:
        """Name of the evaluation among those of its model: ``test``, ``test-tta``, ``val`` ..."""
        parts = {
            self.split: True,
            "people": self.model.labels == "people",
            "tta": self.tta,
            "with-trained": self.with_trained,
        }
        return "-".join(part for part, applies in parts.items() if applies)

    @property
    def title(self) -> str:
        """The model, its labels and the evaluated images, in words."""
        labels = " (people's labels)" if self.model.labels == "people" else ""
        images = f"all of {self.data}" if self.split == "all" and self.data else self.split
        tta = " with test-time augmentation" if self.tta else ""
        trained = ", including its training images" if self.with_trained else ""
        return f"{self.model.name} {self.model.version}{labels} on {images}{tta}{trained}"

    @property
    def metric_sets(self) -> dict[str, Metrics]:
        """Metrics of all images and of the clean ones, each named with its number of images."""
        sets = {"all": self.evaluation.all, "clean": self.evaluation.clean}
        return {f"{name} {part.count:,}": part for name, part in sets.items() if part is not None}

    @property
    def agreement_sets(self) -> dict[str, Agreement]:
        """Agreement with annotators, as `metric_sets`; empty without votes."""
        sets = {"all": self.agreement, "clean": self.clean_agreement}
        return {f"{name} {part.images:,}": part for name, part in sets.items() if part is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-compatible values."""
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "model": self.model.to_dict(),
            "labels": self.model.labels,
        }
        for name in (entry.name for entry in dataclasses.fields(self)):
            value = getattr(self, name)
            if name not in ("model", "evaluation"):
                content[name] = value.to_dict() if isinstance(value, Agreement) else value
        return {**content, **self.evaluation.to_dict()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that determine an evaluation."""
    # The metadata of an editable install may be out of date, so mien's version is its own.
    found = {"python": platform.python_version(), "mien": mien.__version__}
    # package_version() also finds alternative builds (opencv-python, onnxruntime-gpu).
    return found | {name: package_version(name) or "unknown" for name in _PACKAGES}


# ---------------------------------------------------------------- JSON
def write_report_json(report: Report, path: Path) -> None:
    """Write a report as JSON; raises OutputError."""
    write_atomically(path, (json_text(report.to_dict()) + "\n").encode())


def read_report_json(path: Path) -> Report:
    """Read a report written by `write_report_json`.

    Raises:
        DataError: if the file is missing, damaged or not a report.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}, not {SCHEMA!r}")
        model = {**content["model"], "labels": content.get("labels", "fer2013")}
        evaluation = {"all": content["all"], "clean": content["clean"]}
        report: Report = _from_json(Report, {**content, "model": model, "evaluation": evaluation})
        return report
    except OSError as error:
        raise DataError(f"cannot read the report {path}: {error_reason(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is not a report of mien evaluate: {error!r}; delete it") from error


def read_reports(folder: Path, model: ModelInfo) -> tuple[Report, ...]:
    """Read the reports on exactly this model in a folder, in the order of listing.

    Raises:
        DataError: if a file is damaged.
    """
    reports = [read_report_json(path) for path in sorted(folder.glob("*.json"))]
    reports = [report for report in reports if report.model == model]
    reports.sort(key=lambda item: (SPLIT_ORDER.index(item.split), item.tta, item.with_trained))
    return tuple(reports)


def _from_json(hint: Any, value: Any) -> Any:
    """Build a value of a type hint from what `dataclasses.asdict` and JSON made of it.

    Raises KeyError, TypeError or AttributeError if the value is of another type.
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not types.NoneType)
        if value is None:
            return None
    if typing.get_origin(hint) is tuple:
        return tuple(_from_json(typing.get_args(hint)[0], item) for item in value)
    if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
        return value
    hints = typing.get_type_hints(hint)
    names = [entry.name for entry in dataclasses.fields(hint) if entry.name in value]
    return hint(**{name: _from_json(hints[name], value[name]) for name in names})


# ---------------------------------------------------------------- text and Markdown
def render_summary(report: Report) -> str:
    """Return the key figures as plain text."""
    tables = [summary_table(report.metric_sets)]
    tables += [agreement_table(report.agreement_sets)] if report.agreement_sets else []
    tables.append(class_table(report.evaluation))
    return "\n\n".join([report.title, *(text_table(*table) for table in tables)]) + "\n"


def render_text(report: Report, evaluations: Sequence[Report] = ()) -> str:
    """Return a report as plain text; ``evaluations`` of the same model are listed at the end."""
    heading = f"Evaluation of {report.title}"
    facts = _facts(report)
    width = max(len(name) for name in facts)
    wrapper = textwrap.TextWrapper(
        _TEXT_WIDTH,
        subsequent_indent=" " * (width + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
    blocks = [
        f"{heading}\n{'=' * len(heading)}",
        "\n".join(wrapper.fill(f"{name.ljust(width)}  {fact}") for name, fact in facts.items()),
        text_table(*summary_table(report.metric_sets)),
        *(textwrap.fill(note, _TEXT_WIDTH) for note in _notes(report)),
    ]
    for name, table in _tables(report, evaluations).items():
        blocks.append(f"{name}\n{'-' * len(name)}\n{text_table(*table)}")
    return "\n\n".join(blocks) + "\n"


def render_markdown(
    report: Report, evaluations: Sequence[Report] = (), figures: Sequence[str] = ()
) -> str:
    """Return a report as Markdown; ``evaluations`` of the same model are listed at the end.

    ``figures`` are file names among `FIGURES`, shown after the summary.
    """
    blocks = [
        f"# Evaluation of {report.title}",
        "\n".join(f"- {name}: {fact}" for name, fact in _facts(report, code="`").items()),
        markdown_table(*summary_table(report.metric_sets)),
        *_notes(report),
        *(f"![{_CAPTIONS[file]}]({file})" for file in figures),
    ]
    for name, table in _tables(report, evaluations).items():
        blocks += [f"## {name}", markdown_table(*table)]
    return "\n\n".join(blocks) + "\n"


def _notes(report: Report) -> list[str]:
    absent = report.evaluation.all.absent
    return [_NOTES, *([f"No images of: {', '.join(absent)}."] if absent else [])]


def _facts(report: Report, *, code: str = "") -> dict[str, str]:
    """Return what was evaluated and how, ``code`` marking hashes and commands."""
    overall, clean = report.evaluation.all, report.evaluation.clean
    images = f"{overall.count:,}"
    if clean is not None:
        images += f", of which {clean.count:,} clean"
    if report.skipped:
        images += f" ({report.skipped:,} files could not be read)"
    if report.left_out:
        excluded = ", ".join(f"{name} {count:,}" for name, count in report.left_out.items())
        images += f"; excluded, as the model has no such class: {excluded}"
    if report.trained:
        images += f"; excluded, as the model was trained on them: {report.trained:,}"
    facts = {
        "model": f"{report.model.name} {report.model.version}",
        "sha256": f"{code}{report.model.sha256}{code}",
        "data": ", ".join(part for part in (report.data, report.split) if part and part != "all"),
        "images": images,
        "test-time augmentation": "yes" if report.tta else "no",
        "sample images": f"random, seed {report.seed}",
        "command": f"{code}{report.command}{code}",
        "versions": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
    }
    return {name: fact for name, fact in facts.items() if fact.strip("`")}


def _tables(report: Report, evaluations: Sequence[Report]) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    if report.agreement_sets:
        tables["Agreement with FER+ annotators"] = agreement_table(report.agreement_sets)
    tables["Accuracy of each emotion"] = class_table(report.evaluation)
    for metrics, suffix in (
        (report.evaluation.all, ""),
        (report.evaluation.clean, ", clean images"),
    ):
        if metrics is not None:
            tables |= {
                f"Classification report{suffix}": classification_table(metrics),
                f"Confusion matrix{suffix}": confusion_table(metrics, rates=False),
                f"Confusion matrix{suffix}, % of each row": confusion_table(metrics, rates=True),
                f"Calibration{suffix}": calibration_table(metrics),
            }
    if len(evaluations) > 1:
        tables["All evaluations of this model"] = results_table(evaluations)
    return tables


def results_table(reports: Sequence[Report]) -> Table:
    """Key metrics of several evaluations, a row for each set of images."""
    rows = []
    for report in reports:
        trained = " with trained" if report.with_trained else ""
        for name, metrics in report.metric_sets.items():
            subset = metrics.certain
            share, accuracy = (subset.share, subset.accuracy) if subset else (None, None)
            rows.append(
                [
                    f"{report.split}{trained}, {name}",
                    "yes" if report.tta else "no",
                    percent(metrics.accuracy),
                    percent_range(metrics.accuracy_interval, digits=1),
                    percent(metrics.macro_f1),
                    percent(metrics.balanced_accuracy),
                    percent(metrics.calibration.error, digits=1),
                    percent(share, digits=1),
                    percent(accuracy, digits=1),
                ]
            )
    header = ["images", "TTA", "accuracy", "95 % interval", "macro-F1", "balanced accuracy"]
    return [*header, "calibration error", "certain", "their accuracy"], rows


def people_table(reports: Sequence[Report]) -> Table:
    """Agreement with FER+ annotators in several evaluations, a row for each set of images."""
    rows = [
        [
            f"{report.split}, {name}",
            "yes" if report.tta else "no",
            percent(agreement.accuracy),
            percent_range(agreement.accuracy_interval),
            percent(agreement.official_accuracy),
            f"{100 * agreement.share_error:.2f} points",
        ]
        for report in reports
        for name, agreement in report.agreement_sets.items()
    ]
    header = ["images", "TTA", "agreement with majority", "95 % interval", "FER+ protocol"]
    return [*header, "score-share gap"], rows


# ---------------------------------------------------------------- the folder
def write_report(
    report: Report, folder: Path, *, samples: Samples, history: History | None = None
) -> tuple[Report, ...]:
    """Write a report and its figures, replacing the previous report in the folder.

    Args:
        report: the evaluation.
        folder: created if missing.
        samples: the evaluated images and their predictions.
        history: columns of the training run (see `training_curves`), None if unknown.

    Returns:
        All evaluations of this model in the folder, this one included, in the order of listing.

    Raises:
        OutputError: if a file cannot be written.
        DataError: if the folder holds a damaged earlier evaluation.
        MissingExtra: without Matplotlib or Seaborn.
    """
    write_report_json(report, folder / EVALUATIONS / f"{report.key}.json")
    evaluations = read_reports(folder / EVALUATIONS, report.model)
    figures = write_figures(report, folder, history=history)
    prediction_grid(
        sample_tiles(samples, seed=report.seed),
        folder / "samples.png",
        title=f"Correct (top) and incorrect (bottom) predictions: {report.title}",
        note=f"one column per emotion, random images (seed {report.seed})",
    )
    markdown = render_markdown(report, evaluations, (*figures, "samples.png"))
    write_report_json(report, folder / "report.json")
    write_atomically(folder / "report.txt", render_text(report, evaluations).encode())
    write_atomically(folder / "report.md", markdown.encode())
    return evaluations


def write_figures(
    report: Report, folder: Path, *, history: History | None = None
) -> tuple[str, ...]:
    """Draw the figures that show no image of the data set; return their file names.

    Raises as `write_report`.
    """
    metrics, title = report.evaluation.all, report.title
    confusion_figure(metrics, folder / "confusion.png", title=f"Confusion: {title}")
    accuracy_figure(metrics, folder / "per_class.png", title=f"Accuracy of each emotion: {title}")
    reliability_figure(
        metrics.calibration, folder / "reliability.png", title=f"Reliability: {title}"
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
    """Draw scores against vote shares, if there are votes."""
    if report.agreement is not None:
        model = report.model
        title = f"Scores and vote shares: {model.name} {model.version}, {report.split}"
        share_figure(report.agreement, folder / "shares.png", title=title)


def choose_report_folder(
    base: Path,
    model: ModelInfo,
    data: str,
    *,
    given: bool = False,
    force: bool = False,
    key: str = "",
    images_sha256: str | None = None,
) -> Path:
    """Return the folder to write a report to.

    Args:
        base: preferred folder.
        model: the evaluated model.
        data: name of the data.
        given: whether the user named ``base``, which allows no other folder.
        force: use ``base`` whatever it holds.
        key: `Report.key` of the evaluation.
        images_sha256: hash of its images, which tells apart different data of the same name.

    Returns:
        ``base`` if it is free or holds results of the same model and data, otherwise the first
        such folder of ``base-2``, ``base-3``, ...

    Raises:
        UsageError: if the user named ``base`` and it holds results of another model or data.
    """

    def is_usable(folder: Path) -> bool:
        owners = [_read_owner(folder / name) for name in _OWNERS]
        if any((own["model"], own["data"]) != (model.to_dict(), data) for own in owners if own):
            return False
        previous = _read_owner(folder / EVALUATIONS / f"{key}.json") or {}
        other_model = previous.get("model") != model.to_dict()
        return other_model or previous.get("images_sha256") in (None, images_sha256)

    if force or is_usable(base):
        return base
    if given:
        raise UsageError(
            f"{base} holds a report on another model or other data: choose another --output, "
            "or --force to replace it"
        )
    numbered = (base.with_name(f"{base.name}-{number}") for number in count(2))
    return next(folder for folder in numbered if is_usable(folder))


def _read_owner(path: Path) -> dict[str, Any] | None:
    """Read a JSON report; None if there is none, and without model and data if it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        content = None
    return {"model": None, "data": None, **(content if isinstance(content, dict) else {})}


# ---------------------------------------------------------------- sections of Markdown files
def check_sections(path: Path) -> tuple[str, ...]:
    """Return which of `SECTIONS` a file has, in its order.

    Raises:
        InputError: if the file cannot be read or has none of them.
    """
    names = tuple(name for name in section_names(path) if name in SECTIONS)
    if not names:
        raise InputError(
            f"{path} has no section to update: expected <!-- figures:begin NAME --> and "
            f"<!-- figures:end NAME -->, with NAME one of {', '.join(SECTIONS)}"
        )
    return names


def render_sections(reports: Sequence[Report]) -> dict[str, str]:
    """Return the Markdown of each section that evaluations (at least one) of one model can fill.

    ``results`` lists all evaluations; ``per-class`` and ``confusion`` detail the test split without
    augmentation, or the first evaluation if that is missing. The people's labels have ``agreement``
    instead, if there are votes.
    """
    plain = [report for report in reports if report.split == "test" and not report.tta]
    detailed = (plain or reports)[0]
    model, title = detailed.model, detailed.title
    source = f"{model.name} {model.version}, SHA-256 `{model.sha256[:12]}…`."
    if model.labels == "people":
        if detailed.agreement is None:
            return {}
        return {
            "agreement": (
                f"{markdown_table(*people_table(reports))}\n\n"
                f"{source} {_CLEAN_NOTE} {_INTERVAL_NOTE} {_GAP_NOTE}\n\n"
                f"{title}:\n\n{markdown_table(*majority_table(detailed.agreement))}"
            )
        }
    classes = markdown_table(*class_table(detailed.evaluation))
    confusion = markdown_table(*confusion_table(detailed.evaluation.all, rates=True))
    notes = f"{_CLEAN_NOTE} {_INTERVAL_NOTE} {_CERTAIN_NOTE} TTA: test-time augmentation."
    return {
        "results": f"{markdown_table(*results_table(reports))}\n\n{source} {notes}",
        "per-class": f"{title}:\n\n{classes}\n\n{_INTERVAL_NOTE}",
        "confusion": f"{title}, % of each row:\n\n{confusion}",
    }


def update_sections(path: Path, reports: Sequence[Report]) -> tuple[str, ...]:
    """Fill every section of a file that `render_sections` returns; return their names.

    Raises:
        InputError: if the file cannot be read or has none of the sections.
        OutputError: if it cannot be written.
    """
    sections = render_sections(reports)
    names = tuple(name for name in check_sections(path) if name in sections)
    if not names:
        raise InputError(
            f"{path} has no section for this evaluation: expected one of "
            f"{', '.join(sections) or 'those of an evaluation with --votes'}"
        )
    for name in names:
        update_marked_section(path, name, sections[name])
    return names
