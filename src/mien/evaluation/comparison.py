"""A fine-tuned model and the one that it started from, on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.files import write_atomically
from mien.core.results import ModelInfo
from mien.data.class_folder import find_label
from mien.data.dataset import Split
from mien.evaluation.evaluate import predict
from mien.evaluation.figures import FAINT, draw_matrix, drawing
from mien.evaluation.markdown import NOTHING, Table, markdown_table, percent, text_table
from mien.evaluation.metrics import Metrics, measure
from mien.inference.classifier import Classifier

FIGURE = "before_after.png"
PAGE = "before_after.md"

_DISTINCT = 12
"""With more classes, the figure has smaller text."""


@dataclass(frozen=True)
class Comparison:
    """How the classes of a fine-tuned model were predicted before and after.

    Attributes:
        split: the name of the part that was measured on.
        classes: of the fine-tuned model.
        known: those that the model before knows.
        before: its metrics on the images of these, choosing among these; None if it knows fewer
            than two.
        after: the fine-tuned model's metrics on all images.
        after_known: the same on the images of the known classes; None where ``before`` is.
        models: the model before and the fine-tuned one.
    """

    split: str
    classes: tuple[str, ...]
    known: tuple[str, ...]
    before: Metrics | None
    after: Metrics
    after_known: Metrics | None
    models: tuple[ModelInfo, ModelInfo]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison ready for JSON."""
        named = {"before": self.before, "after": self.after, "after_known": self.after_known}
        return {
            "split": self.split,
            "classes": list(self.classes),
            "known": list(self.known),
            "models": [model.to_dict() for model in self.models],
            **{key: None if one is None else one.to_dict() for key, one in named.items()},
        }


def compare(
    old: Classifier,
    new: Classifier,
    split: Split,
    *,
    meanings: Mapping[str, Sequence[str]] | None = None,
    quiet: bool = False,
) -> Comparison:
    """Measure a model and the one fine-tuned from it on the same images.

    The old model's probabilities are summed over the labels that a class is made of (``meanings``,
    see `mien.data.class_folder.find_label`) and renormalised over the classes that it knows.

    Raises:
        ModelError: if a network fails.
    """
    classes = new.labels
    after = predict(new.classify, split.images, label="reading after", quiet=quiet)
    owners = [find_label(label, classes, meanings) for label in old.labels]
    known = tuple(name for name in classes if name in owners)
    asked = np.isin(split.labels, [classes.index(name) for name in known])
    before = after_known = None
    if len(known) > 1 and asked.any():
        rows = predict(old.classify, split.images[asked], label="reading before", quiet=quiet)
        before = measure(_renormalised(rows, owners, classes), split.labels[asked], classes=classes)
        after_known = measure(after[asked], split.labels[asked], classes=classes)
    return Comparison(
        split=split.name,
        classes=classes,
        known=known,
        before=before,
        after=measure(after, split.labels, classes=classes),
        after_known=after_known,
        models=(old.manifest.info, new.manifest.info),
    )


def _renormalised(
    rows: npt.NDArray[np.float32], owners: Sequence[str | None], classes: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Turn probabilities (N, labels) into those of classes (N, classes), rows sum to 1."""
    shared = np.zeros((len(rows), len(classes)))
    for place, owner in enumerate(owners):
        if owner is not None:
            # Negligible, but keeps a row from being all zeros.
            shared[:, classes.index(owner)] += rows[:, place].astype(np.float64) + 1e-12
    return np.asarray(shared / shared.sum(axis=1, keepdims=True), np.float64)


# ---------------------------------------------------------------- as text
def comparison_text(compared: Comparison) -> str:
    """Return both confusion matrices as aligned text, with accuracies."""
    blocks = []
    for heading, sentence, table in _parts(compared):
        blocks += [f"{heading}\n{sentence}", text_table(*table)]
    return "\n\n".join(blocks) + "\n"


def write_comparison(compared: Comparison, folder: Path) -> None:
    """Write both confusion matrices as a page and a picture; raises OutputError, MissingExtra."""
    comparison_figure(compared, folder / FIGURE)
    blocks = ["# Before and after fine-tuning", f"![Confusion before and after]({FIGURE})"]
    for heading, sentence, table in _parts(compared):
        blocks += [f"## {heading}", sentence, markdown_table(*table)]
    write_atomically(folder / PAGE, ("\n\n".join(blocks) + "\n").encode())


def _parts(compared: Comparison) -> list[tuple[str, str, Table]]:
    old, new = compared.models
    return [
        (
            f"before: {old.name} {old.version}",
            _before_sentence(compared),
            matrix_table(compared.before, compared.classes, compared.known),
        ),
        (
            f"after: {new.name} {new.version}",
            _after_sentence(compared),
            matrix_table(compared.after, compared.classes, compared.classes),
        ),
    ]


def _before_sentence(compared: Comparison) -> str:
    if compared.before is None:
        if not compared.known:
            return "knows none of these classes"
        known = ", ".join(compared.known)
        if len(compared.known) == 1:
            return f"knows only {known} of these classes: there is nothing to compare"
        return f"there are no images of the classes that it knows: {known}"
    figure = f"accuracy {percent(compared.before.accuracy, digits=1)}"
    if len(compared.known) == len(compared.classes):
        return f"{figure}, macro-F1 {percent(compared.before.macro_f1, digits=1)}"
    unknown = [name for name in compared.classes if name not in compared.known]
    return (
        f"{figure} on the {compared.before.count:,} images of the classes that it knows "
        f"(not: {', '.join(unknown)})"
    )


def _after_sentence(compared: Comparison) -> str:
    figures = compared.after
    text = (
        f"accuracy {percent(figures.accuracy, digits=1)}, "
        f"macro-F1 {percent(figures.macro_f1, digits=1)}, {figures.count:,} images"
    )
    if compared.after_known is None or len(compared.known) == len(compared.classes):
        return text
    share = percent(compared.after_known.accuracy, digits=1)
    return f"{text}; {share} on the {compared.after_known.count:,} that the model before knows"


def matrix_table(metrics: Metrics | None, classes: Sequence[str], known: Sequence[str]) -> Table:
    """Return a confusion matrix of counts and shares read right; "-" where a class is unknown."""
    rows = []
    for place, name in enumerate(classes):
        cells = [NOTHING] * len(classes)
        share = NOTHING
        if metrics is not None and name in known:
            counts = metrics.confusion[place]
            cells = [
                str(count) if column in known else NOTHING
                for column, count in zip(classes, counts, strict=True)
            ]
            share = percent(metrics.classes[place].accuracy, digits=0)
        rows.append([name, *cells, share])
    return ["true \\ read as", *classes, "right"], rows


# ---------------------------------------------------------------- as a picture
def comparison_figure(compared: Comparison, path: Path) -> None:
    """Draw both confusion matrices side by side: counts, coloured by the share of each row."""
    count = len(compared.classes)
    side = min(9.0, max(4.2, 1.6 + 0.72 * count))
    with drawing(path, 2 * side, side + 0.9) as figure:
        figure.suptitle(f"Before and after fine-tuning, on {compared.split}")
        sides = (
            (compared.before, compared.known, compared.models[0]),
            (compared.after, compared.classes, compared.models[1]),
        )
        for axes, (metrics, known, model) in zip(figure.subplots(1, 2), sides, strict=True):
            _, rows = matrix_table(metrics, compared.classes, known)
            texts = np.array([row[1:-1] for row in rows])
            shares, size = _rates(metrics, count), 11 if count <= _DISTINCT else 7
            draw_matrix(axes, shares, texts, compared.classes, "read as", text_size=size)
            share = "-" if metrics is None else percent(metrics.accuracy, digits=1)
            axes.set_title(f"{model.name}: {share} right")
        if len(compared.known) < count:
            figure.supxlabel("-: not known to the model before", fontsize=10, color=FAINT)


def _rates(metrics: Metrics | None, count: int) -> npt.NDArray[np.float64]:
    if metrics is None:
        return np.zeros((count, count))
    return np.array([row or (0.0,) * count for row in metrics.confusion_rates])
