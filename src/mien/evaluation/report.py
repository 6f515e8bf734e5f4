"""An evaluation and what it was made with: as JSON and back, as tables, plain text and Markdown."""

from __future__ import annotations

import dataclasses
import json
import platform
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import mien
from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, UsageError, error_reason
from mien.core.files import write_atomically
from mien.core.formats import json_text
from mien.core.process import package_version
from mien.core.results import ModelInfo
from mien.evaluation.markdown import (
    NOTHING,
    Table,
    decimal,
    markdown_table,
    percent,
    percent_range,
    text_table,
)
from mien.evaluation.metrics import Agreement, Evaluation, Metrics

SCHEMA = "mien-report/1"

SPLIT_ORDER: tuple[str, ...] = ("val", "test", "train", "all")
"""Order of evaluations: for choices, for claims, for training,
and a folder without splits."""

_PACKAGES = (
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "scikit-learn",
    "matplotlib",
    "seaborn",
)

CLEAN_NOTE = "Clean images are those without a pixel-identical copy in Training."
INTERVAL_NOTE = "Intervals are Wilson's, at 95 %."
CERTAIN_NOTE = "Certain readings are those that are not called uncertain."
_NOTES = (
    f"{CLEAN_NOTE} {INTERVAL_NOTE} An emotion's accuracy is the share of its images that is read "
    "right. Averages are over the emotions that have images. The calibration error is the mean "
    "distance between confidence and accuracy, over 15 bins of equal width. "
    f"{CERTAIN_NOTE}"
)
_WIDTH = 100


@dataclass(frozen=True)
class Report:
    """One evaluation of one model on one split.

    Attributes:
        model: its name, version and hash.
        data: name of the data set.
        split: "train", "val", "test", or "all" of a folder without splits.
        tta: whether test-time augmentation was used.
        evaluation: the metrics.
        seed: of the choice of the sample pictures.
        command: the command line that makes this report.
        skipped: files of the split that could not be read.
        left_out: how many images there are of each class that the model lacks.
        trained: images left out because the model was trained on them.
        with_trained: whether such images were taken in instead; the others are the clean ones.
        images_sha256: of the images and labels, None where unknown.
        versions: of Python and of the packages.
        agreement: with FER+'s votes on all images, None where there were none.
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
        """What tells the evaluations of one model apart: ``test``, ``test-tta``, ``val`` ..."""
        parts = {
            self.split: True,
            "people": self.model.labels == "people",
            "tta": self.tta,
            "with-trained": self.with_trained,
        }
        return "-".join(part for part, is_so in parts.items() if is_so)

    def to_dict(self) -> dict[str, Any]:
        """Return the report ready for JSON."""
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "model": self.model.to_dict(),
            "labels": self.model.labels,
        }
        for name in (each.name for each in dataclasses.fields(self)):
            value = getattr(self, name)
            if name not in ("model", "evaluation"):
                content[name] = value.to_dict() if isinstance(value, Agreement) else value
        return {**content, **self.evaluation.to_dict()}


@dataclass(frozen=True)
class Samples:
    """The images that sample pictures are chosen from, and their predictions.

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


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that an evaluation rests on."""
    # The metadata of an editable install may be out of date.
    found = {"python": platform.python_version(), "mien": mien.__version__}
    # Other builds have other names (opencv-python, onnxruntime-gpu).
    return found | {name: package_version(name) or "unknown" for name in _PACKAGES}


def write_report_json(report: Report, path: Path) -> None:
    """Write a report as JSON; raises OutputError if it cannot be written."""
    write_atomically(path, (json_text(report.to_dict()) + "\n").encode())


def read_report_json(path: Path) -> Report:
    """Read a report that `write_report_json` wrote.

    Raises:
        DataError: if the file is missing, damaged or of another kind.
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
        raise DataError(f"{path} is no report of mien evaluate: {error!r}; delete it") from error


def read_reports(folder: Path, model: ModelInfo) -> tuple[Report, ...]:
    """Read the reports ``*.json`` in a folder that are of exactly this model, sorted by `order`.

    Raises:
        DataError: if a file is damaged.
    """
    reports = [read_report_json(path) for path in sorted(folder.glob("*.json"))]
    return tuple(sorted((report for report in reports if report.model == model), key=order))


def order(report: Report) -> tuple[int, bool, bool]:
    """Sort key: by split as `SPLIT_ORDER`, each without, then with augmentation."""
    return (SPLIT_ORDER.index(report.split), report.tta, report.with_trained)


def _from_json(kind: Any, content: Any) -> Any:
    """Return the value of a type hint from what `dataclasses.asdict` and JSON made of it.

    Raises KeyError, TypeError or AttributeError if the content is of something else.
    """
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(one for one in typing.get_args(kind) if one is not types.NoneType)
        if content is None:
            return None
    if typing.get_origin(kind) is tuple:
        return tuple(_from_json(typing.get_args(kind)[0], each) for each in content)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return content
    hints = typing.get_type_hints(kind)
    names = [each.name for each in dataclasses.fields(kind) if each.name in content]
    return kind(**{name: _from_json(hints[name], content[name]) for name in names})


# ---------------------------------------------------------------- tables
def summary_table(report: Report) -> Table:
    """One row a number, one column for all images and one for the clean ones."""
    sets = list(named_sets(report))
    lines = {
        "accuracy": [percent(m.accuracy) for _, m in sets],
        "95 % interval": [percent_range(m.accuracy_interval) for _, m in sets],
        "macro-F1": [percent(m.macro_f1) for _, m in sets],
        "balanced accuracy": [percent(m.balanced_accuracy) for _, m in sets],
        "loss (cross-entropy)": [decimal(m.loss, digits=4) for _, m in sets],
        "calibration error": [percent(m.calibration.error) for _, m in sets],
        "mean confidence": [percent(m.calibration.confidence) for _, m in sets],
    }
    certain = [m.certain for _, m in sets if m.certain is not None]
    if certain:
        lines["certain readings"] = [percent(readings.share) for readings in certain]
        lines["right of these"] = [percent(readings.accuracy) for readings in certain]
        lines["its 95 % interval"] = [percent_range(each.accuracy_interval) for each in certain]
    return ["", *(name for name, _ in sets)], [[name, *cells] for name, cells in lines.items()]


def agreement_table(report: Report) -> Table | None:
    """Agreement with FER+'s annotators; None without votes."""
    found = list(named_agreements(report))
    if not found:
        return None
    lines = {
        "agree with the majority": [percent(each.accuracy) for _, each in found],
        "95 % interval": [percent_range(each.accuracy_interval) for _, each in found],
        "FER+'s own protocol, eight classes": [
            percent(each.official_accuracy) for _, each in found
        ],
        "its images": [f"{each.official_images:,}" for _, each in found],
        "score and share of people differ by": [percent(each.share_error) for _, each in found],
        "cross-entropy to the votes": [decimal(each.cross_entropy, digits=4) for _, each in found],
    }
    for place, emotion in enumerate(found[0][1].emotions):
        cells = [each.emotions[place] for _, each in found]
        lines[f"of those called {emotion.emotion}"] = [
            f"{percent(cell.agreed / cell.images, digits=1)} of {cell.images:,}"
            if cell.images
            else NOTHING
            for cell in cells
        ]
    return ["votes", *(name for name, _ in found)], [
        [name, *cells] for name, cells in lines.items()
    ]


def people_table(reports: Sequence[Report]) -> Table:
    """Agreement with FER+'s annotators, a row for each evaluation and set of images."""
    header = ["images", "TTA", "agree with the majority", "95 % interval", "FER+'s protocol"]
    rows = [
        [
            f"{report.split}, {name}",
            "yes" if report.tta else "no",
            percent(each.accuracy),
            percent_range(each.accuracy_interval),
            percent(each.official_accuracy),
            f"{100 * each.share_error:.2f} points",
        ]
        for report in reports
        for name, each in named_agreements(report)
    ]
    return [*header, "score and share differ by"], rows


def class_table(report: Report) -> Table:
    """Each emotion's accuracy with its interval, and that on the clean images."""
    header = ["emotion", "images", "right", "accuracy", "95 % interval"]
    clean = report.evaluation.clean
    rows = [
        [
            entry.emotion,
            f"{entry.support:,}",
            f"{entry.correct:,}",
            percent(entry.accuracy, digits=1),
            percent_range(entry.accuracy_interval, digits=1),
        ]
        for entry in report.evaluation.all.classes
    ]
    if clean is not None:
        header += ["clean images", "clean accuracy"]
        for row, entry in zip(rows, clean.classes, strict=True):
            row += [f"{entry.support:,}", percent(entry.accuracy, digits=1)]
    return header, rows


def classification_table(metrics: Metrics) -> Table:
    """Precision, recall and F1 of each emotion and their means."""
    rows = [
        [
            entry.emotion,
            decimal(entry.precision),
            decimal(entry.recall),
            decimal(entry.f1),
            f"{entry.support:,}",
        ]
        for entry in metrics.classes
    ]
    for name, mean in (("macro average", metrics.macro), ("weighted average", metrics.weighted)):
        cells = [decimal(mean.precision), decimal(mean.recall), decimal(mean.f1)]
        rows.append([name, *cells, f"{metrics.count:,}"])
    return ["", "precision", "recall", "f1-score", "support"], rows


def confusion_table(metrics: Metrics, *, rates: bool) -> Table:
    """The confusion matrix: counts, or per cent of each row."""
    rows: list[list[str]] = []
    names = [entry.emotion for entry in metrics.classes]
    for emotion, counts, shares in zip(
        names, metrics.confusion, metrics.confusion_rates, strict=True
    ):
        if not rates:
            cells = [str(count) for count in counts]
        elif shares is None:
            cells = [NOTHING] * len(names)
        else:
            cells = [decimal(100 * share, digits=1) for share in shares]
        rows.append([emotion, *cells])
    return ["true \\ predicted", *names], rows


def calibration_table(metrics: Metrics) -> Table:
    """The bins of the reliability diagram that hold any prediction."""
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


def results_table(reports: Sequence[Report]) -> Table:
    """Several evaluations of one model: a row for all images of each and one for the clean."""
    rows = [
        [
            f"{report.split}{' with trained' if report.with_trained else ''}, {name}",
            "yes" if report.tta else "no",
            percent(metrics.accuracy),
            percent_range(metrics.accuracy_interval, digits=1),
            percent(metrics.macro_f1),
            percent(metrics.balanced_accuracy),
            percent(metrics.calibration.error, digits=1),
            *_certain_cells(metrics),
        ]
        for report in reports
        for name, metrics in named_sets(report)
    ]
    header = ["images", "TTA", "accuracy", "95 % interval", "macro-F1", "balanced accuracy"]
    return [*header, "calibration error", "certain", "right of these"], rows


def _certain_cells(metrics: Metrics) -> list[str]:
    if metrics.certain is None:
        return [NOTHING, NOTHING]
    share, accuracy = metrics.certain.share, metrics.certain.accuracy
    return [percent(share, digits=1), percent(accuracy, digits=1)]


def named_sets(report: Report) -> Iterator[tuple[str, Metrics]]:
    """Yield the sets of images that were measured, with a name that counts them."""
    yield f"all {report.evaluation.all.count:,}", report.evaluation.all
    if report.evaluation.clean is not None:
        yield f"clean {report.evaluation.clean.count:,}", report.evaluation.clean


def named_agreements(report: Report) -> Iterator[tuple[str, Agreement]]:
    """Yield the same of the agreement with FER+'s annotators; nothing without votes."""
    for name, agreement in (("all", report.agreement), ("clean", report.clean_agreement)):
        if agreement is not None:
            yield f"{name} {agreement.images:,}", agreement


# ---------------------------------------------------------------- text and Markdown
def title(report: Report) -> str:
    """Name the model, the split and whether test-time augmentation was used."""
    tta = " with test-time augmentation" if report.tta else ""
    part = f"all of {report.data}" if report.split == "all" and report.data else report.split
    trained = ", images that it was trained on too" if report.with_trained else ""
    labels = ", read as people do" if report.model.labels == "people" else ""
    return f"{report.model.name} {report.model.version}{labels} on {part}{tta}{trained}"


def render_text(report: Report, others: Sequence[Report] = ()) -> str:
    """Write a report as plain text with aligned tables; ``others`` are listed at the end."""
    heading = f"Evaluation of {title(report)}"
    blocks = [
        f"{heading}\n{'=' * len(heading)}",
        _facts(report),
        text_table(*summary_table(report)),
        textwrap.fill(_NOTES, _WIDTH),
    ]
    blocks += [_absent(report)] if report.evaluation.all.absent else []
    for name, table in _parts(report, others).items():
        blocks.append(f"{name}\n{'-' * len(name)}\n{text_table(*table)}")
    return "\n\n".join(blocks) + "\n"


def render_markdown(
    report: Report, others: Sequence[Report] = (), figures: Mapping[str, str] | None = None
) -> str:
    """Write a report as Markdown; ``others`` are listed at the end.

    ``figures`` maps captions to the file names of their pictures, shown after the summary.
    """
    blocks = [
        f"# Evaluation of {title(report)}",
        "\n".join(f"- {name}: {value}" for name, value in _fact_pairs(report, code="`").items()),
        markdown_table(*summary_table(report)),
        _NOTES,
    ]
    blocks += [_absent(report)] if report.evaluation.all.absent else []
    blocks += [f"![{caption}]({file})" for caption, file in (figures or {}).items()]
    for name, table in _parts(report, others).items():
        blocks += [f"## {name}", markdown_table(*table)]
    return "\n\n".join(blocks) + "\n"


def _parts(report: Report, others: Sequence[Report]) -> dict[str, Table]:
    evaluation = report.evaluation
    parts: dict[str, Table] = {}
    agreement = agreement_table(report)
    if agreement is not None:
        parts["Agreement with FER+'s annotators"] = agreement
    parts["Accuracy of each emotion"] = class_table(report)
    parts |= _metric_parts(evaluation.all, "")
    if evaluation.clean is not None:
        parts |= _metric_parts(evaluation.clean, ", clean images")
    if len(others) > 1:
        parts["All evaluations of this model"] = results_table(others)
    return parts


def _metric_parts(metrics: Metrics, suffix: str) -> dict[str, Table]:
    return {
        f"Classification report{suffix}": classification_table(metrics),
        f"Confusion matrix{suffix}": confusion_table(metrics, rates=False),
        f"Confusion matrix{suffix}, % of each row": confusion_table(metrics, rates=True),
        f"Calibration{suffix}": calibration_table(metrics),
    }


def _fact_pairs(report: Report, *, code: str = "") -> dict[str, str]:
    every, clean = report.evaluation.all, report.evaluation.clean
    images = f"{every.count:,}"
    if clean is not None:
        images += f", of which {clean.count:,} clean"
    if report.skipped:
        images += f" ({report.skipped:,} files could not be read)"
    if report.left_out:
        lacking = ", ".join(f"{name} {count:,}" for name, count in report.left_out.items())
        images += f"; left out, for the model has no such class: {lacking}"
    if report.trained:
        images += f"; left out, for the model was trained on them: {report.trained:,}"
    facts = {
        "model": f"{report.model.name} {report.model.version}",
        "sha256": f"{code}{report.model.sha256}{code}",
        "data": ", ".join(part for part in (report.data, report.split) if part and part != "all"),
        "images": images,
        "test-time augmentation": "yes" if report.tta else "no",
        "sample pictures": f"chosen with seed {report.seed}",
        "command": f"{code}{report.command}{code}",
        "versions": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
    }
    return {name: value for name, value in facts.items() if value.strip("`")}


def _facts(report: Report) -> str:
    pairs = _fact_pairs(report)
    width = max(len(name) for name in pairs)
    wrap = textwrap.TextWrapper(
        _WIDTH,
        subsequent_indent=" " * (width + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrap.fill(f"{name.ljust(width)}  {value}") for name, value in pairs.items())


def _absent(report: Report) -> str:
    return f"No images of: {', '.join(report.evaluation.all.absent)}."
