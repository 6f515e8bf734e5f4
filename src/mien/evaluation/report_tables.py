"""The tables of a report as rows of texts, before they become aligned text or Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mien.evaluation.metrics import Metrics
from mien.evaluation.report import Report
from mien.evaluation.tables import NOTHING, decimal, percent, percent_range

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


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
    """How far readings agree with FER+'s annotators; None where there were no votes."""
    sets = [("all", report.agreement), ("clean", report.clean_agreement)]
    found = [(name, each) for name, each in sets if each is not None]
    if not found:
        return None
    names = [f"{name} {each.images:,}" for name, each in found]
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
    return ["votes", *names], [[name, *cells] for name, cells in lines.items()]


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
