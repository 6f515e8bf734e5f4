"""A report as plain text and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from mien.evaluation.metrics import Metrics
from mien.evaluation.report import Report
from mien.evaluation.report_tables import (
    Table,
    agreement_table,
    calibration_table,
    class_table,
    classification_table,
    confusion_table,
    results_table,
    summary_table,
)
from mien.evaluation.tables import markdown_table, text_table

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
    """Write a report as Markdown.

    Args:
        report: the evaluation.
        others: all evaluations of the same model, listed at the end.
        figures: captions and the file names of their pictures, shown after the summary.
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
    return "\n".join(
        textwrap.fill(
            f"{name.ljust(width)}  {value}",
            _WIDTH,
            subsequent_indent=" " * (width + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, value in pairs.items()
    )


def _absent(report: Report) -> str:
    return f"No images of: {', '.join(report.evaluation.all.absent)}."
