"""From probabilities and labels to accuracy, F1, confusion, calibration and selective accuracy.

Conventions, where there is a choice:

- An image is read as the emotion of its highest probability; of equals, the first.
- A class's accuracy is the share of its images that is read right, so it equals its recall.
- What has no value is None, never NaN: recall and accuracy of a class without images, precision of
  a class that is never predicted. F1 is 0 for a class that has images, none of them read right.
- Means over classes (macro, balanced) are over the classes that have images; `Metrics.absent` names
  the others.
- Intervals are Wilson's (1927) score intervals at 95 %: right for shares near 0 and 1 and for few
  images, where the usual plus-minus is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import UsageError, needs_extra

SMALLEST_PROBABILITY = 1e-7
"""Probabilities are raised to this before the logarithm of the loss, as Keras does."""

BIN_COUNT = 15
"""Of the calibration error: as Guo et al. 2017, "On Calibration of Modern Neural Networks", 2."""

Z_95 = 1.959963984540054
"""The standard normal's 97.5 % point."""


# ---------------------------------------------------------------- intervals
@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a share, both ends 0-1."""

    low: float
    high: float


def wilson_interval(correct: int, count: int, *, z: float = Z_95) -> Interval:
    """Return Wilson's score interval of the share ``correct / count``.

    Args:
        correct: 0 to ``count``.
        count: at least 1.
        z: the standard normal's quantile; 1.96 gives 95 %.

    Raises:
        UsageError: if ``count`` is 0 or ``correct`` out of its range.
    """
    if count < 1 or not 0 <= correct <= count:
        raise UsageError(f"expected 0 <= correct <= count and count >= 1, got {correct}/{count}")
    share = correct / count
    spread = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    centre = share + z * z / (2 * count)
    scale = 1 + z * z / count
    # The share itself always lies inside; rounding must not push an end past it or past 0 and 1.
    low = min(share, max(0.0, (centre - spread) / scale))
    high = max(share, min(1.0, (centre + spread) / scale))
    return Interval(low, high)


# ---------------------------------------------------------------- calibration
@dataclass(frozen=True)
class CalibrationBin:
    """The predictions whose confidence lies in (low, high]; the first bin also holds 0.

    Attributes:
        low, high: the edges, 0-1.
        count: predictions in the bin.
        confidence: their mean top probability, None where there are none.
        accuracy: the share of them that is right, None where there are none.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Calibration of the top probability.

    Attributes:
        error: expected calibration error, 0-1: the mean over all predictions of the distance
            between a bin's confidence and its accuracy.
        confidence: mean top probability, 0-1.
        bins: equal-width bins from 0 to 1, for the reliability diagram.
    """

    error: float
    confidence: float
    bins: tuple[CalibrationBin, ...]


def measure_calibration(
    confidences: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]
) -> Calibration:
    """Compare confidences (N,), 0-1, with whether each prediction is right (N,).

    Raises:
        UsageError: if there are no predictions or the lengths differ.
    """
    if confidences.ndim != 1 or confidences.shape != correct.shape or confidences.size == 0:
        raise UsageError(
            "expected as many confidences as answers, at least one; "
            f"got {confidences.shape} and {correct.shape}"
        )
    bins: list[CalibrationBin] = []
    error = 0.0
    for low, high, inside in binned(confidences, BIN_COUNT):
        count = int(inside.sum())
        confidence = float(confidences[inside].mean()) if count else None
        accuracy = float(correct[inside].mean()) if count else None
        if confidence is not None and accuracy is not None:
            error += count / confidences.size * abs(confidence - accuracy)
        bins.append(CalibrationBin(low, high, count, confidence, accuracy))
    return Calibration(error, float(confidences.mean()), tuple(bins))


def binned(
    values: npt.NDArray[np.float64], count: int
) -> Iterator[tuple[float, float, npt.NDArray[np.bool_]]]:
    """Yield the edges (low, high] of equal-width bins from 0 to 1, and the mask (N,) of each."""
    edges = np.linspace(0.0, 1.0, count + 1)
    places = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, count - 1)
    for place in range(count):
        yield float(edges[place]), float(edges[place + 1]), places == place


def calibration_error(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> float:
    """Return the expected calibration error, 0-1, of probabilities (N, classes)."""
    return measure_calibration(
        probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    ).error


@dataclass(frozen=True)
class SelectiveAccuracy:
    """Accuracy on the readings that are not `uncertain`, and their coverage.

    Attributes:
        count: the readings whose confidence reaches their emotion's threshold.
        correct: how many of them are right.
        share: of all readings, 0-1 (the coverage).
        accuracy: the share of them that is right, 0-1; None where there are none.
        accuracy_interval: its 95 % interval; None where there are none.
    """

    count: int
    correct: int
    share: float
    accuracy: float | None
    accuracy_interval: Interval | None


def selective_accuracy(
    rows: npt.NDArray[np.float64],
    correct: npt.NDArray[np.bool_],
    thresholds: npt.NDArray[np.float64],
) -> SelectiveAccuracy:
    """Measure accuracy with abstention.

    Args:
        rows: probabilities (N, classes), N at least 1.
        correct: (N,), whether the highest of each is right.
        thresholds: (classes,), below which a reading of that class is uncertain.
    """
    certain = rows.max(axis=1) >= thresholds[rows.argmax(axis=1)]
    count, right = int(certain.sum()), int(correct[certain].sum())
    return SelectiveAccuracy(
        count=count,
        correct=right,
        share=count / len(rows),
        accuracy=right / count if count else None,
        accuracy_interval=wilson_interval(right, count) if count else None,
    )


# ---------------------------------------------------------------- all metrics
@dataclass(frozen=True)
class ClassMetrics:
    """How well one emotion is read; shares are 0-1 (see the module for the conventions)."""

    emotion: str
    support: int
    correct: int
    predicted: int
    accuracy: float | None
    accuracy_interval: Interval | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Averages:
    """Means of the classes' numbers, 0-1."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Metrics:
    """The numbers of one set of images; shares are 0-1.

    Attributes:
        count: images.
        correct: images read right.
        loss: mean cross-entropy in nats.
        accuracy: share of the images read right.
        accuracy_interval: its 95 % interval.
        macro: plain means over the classes that have images; precision counts 0 for a class that
            is never predicted.
        weighted: the same, weighted by each class's images.
        balanced_accuracy: mean of the class accuracies.
        classes: one entry an emotion, in the order of the labels.
        confusion: counts (classes, classes): row the true emotion, column the predicted one.
        confusion_rates: the same, each row divided by its sum; None for a row without images.
        calibration: whether confidences can be trusted.
        absent: emotions without any image.
        certain: accuracy on the readings that are not uncertain; None for a model without
            thresholds.
    """

    count: int
    correct: int
    loss: float
    accuracy: float
    accuracy_interval: Interval
    macro: Averages
    weighted: Averages
    balanced_accuracy: float
    classes: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    confusion_rates: tuple[tuple[float, ...] | None, ...]
    calibration: Calibration
    absent: tuple[str, ...]
    certain: SelectiveAccuracy | None = None

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that have images, 0-1."""
        return self.macro.f1

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers ready for JSON."""
        return {**asdict(self), "macro_f1": self.macro_f1}


@dataclass(frozen=True)
class Evaluation:
    """Numbers on all images and, where known, on those without a copy in Training."""

    all: Metrics
    clean: Metrics | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers ready for JSON; "clean" is None where there are none."""
        clean = None if self.clean is None else self.clean.to_dict()
        return {"all": self.all.to_dict(), "clean": clean}


def evaluate(
    probabilities: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.int64],
    *,
    clean: npt.NDArray[np.bool_] | None = None,
    classes: Sequence[str] = EMOTIONS,
    thresholds: npt.NDArray[np.float64] | None = None,
) -> Evaluation:
    """Measure on all images and on the clean ones.

    Args:
        probabilities: (N, classes), rows sum to 1.
        labels: (N,), indices into ``classes``.
        clean: (N,), True for an image without a pixel-identical copy in Training; None if unknown.
        classes: their names.
        thresholds: (classes,), below which a reading is uncertain; None where the model has none.

    Raises:
        UsageError: if the arrays do not fit together (see `measure`).
    """
    every = measure(probabilities, labels, classes=classes, thresholds=thresholds)
    if clean is None:
        return Evaluation(every)
    if clean.shape != labels.shape:
        raise UsageError(f"expected a clean mask of shape {labels.shape}, got {clean.shape}")
    if not clean.any():
        return Evaluation(every)
    return Evaluation(
        every,
        measure(probabilities[clean], labels[clean], classes=classes, thresholds=thresholds),
    )


def measure(
    probabilities: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.int64],
    *,
    classes: Sequence[str] = EMOTIONS,
    thresholds: npt.NDArray[np.float64] | None = None,
) -> Metrics:
    """Compare probabilities (N, classes) with labels (N,); thresholds as in `evaluate`.

    Raises:
        UsageError: if N is 0, shapes differ, a label is no class, or rows are no probabilities.
        MissingExtra: without scikit-learn.
    """
    _check(probabilities, labels, len(classes))
    with needs_extra("train", "An evaluation"):
        from sklearn.metrics import confusion_matrix
    rows = probabilities.astype(np.float64)
    rows /= rows.sum(axis=1, keepdims=True)
    predicted = rows.argmax(axis=1)
    correct = predicted == labels
    confusion = confusion_matrix(labels, predicted, labels=range(len(classes)))
    entries = _class_metrics(labels, predicted, confusion, classes)
    present = [entry for entry in entries if entry.support]
    support = np.array([entry.support for entry in present], np.float64)
    chosen = rows[np.arange(len(labels)), labels]
    return Metrics(
        count=len(labels),
        correct=int(correct.sum()),
        loss=float(-np.log(np.maximum(chosen, SMALLEST_PROBABILITY)).mean()),
        accuracy=float(correct.mean()),
        accuracy_interval=wilson_interval(int(correct.sum()), len(labels)),
        macro=_averages(present, np.ones(len(present))),
        weighted=_averages(present, support),
        balanced_accuracy=float(np.mean([entry.recall for entry in present])),
        classes=entries,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        confusion_rates=tuple(
            tuple((row / row.sum()).tolist()) if row.sum() else None for row in confusion
        ),
        calibration=measure_calibration(rows.max(axis=1), correct),
        absent=tuple(entry.emotion for entry in entries if not entry.support),
        certain=None if thresholds is None else selective_accuracy(rows, correct, thresholds),
    )


def _check(probabilities: npt.NDArray[Any], labels: npt.NDArray[Any], width: int) -> None:
    count = len(labels)
    if labels.ndim != 1 or probabilities.shape != (count, width):
        raise UsageError(
            f"expected probabilities (N, {width}) and labels (N,), "
            f"got {probabilities.shape} and {labels.shape}"
        )
    if count == 0:
        raise UsageError("nothing to evaluate: there are no images")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= width:
        raise UsageError(f"expected labels as whole numbers from 0 to {width - 1}")
    sums = probabilities.sum(axis=1, dtype=np.float64)
    # A NaN fails the comparison too, so it is refused here rather than counted as "angry".
    if not (np.all(probabilities >= 0) and np.all(np.abs(sums - 1) < 1e-3)):
        raise UsageError("expected probabilities from 0 to 1 whose rows sum to 1")


def _class_metrics(
    labels: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    confusion: npt.NDArray[np.int64],
    classes: Sequence[str],
) -> tuple[ClassMetrics, ...]:
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0.0
    )
    entries: list[ClassMetrics] = []
    for index, emotion in enumerate(classes):
        count, right = int(support[index]), int(confusion[index, index])
        guesses = int(confusion[:, index].sum())
        share = float(recall[index]) if count else None
        entries.append(
            ClassMetrics(
                emotion=emotion,
                support=count,
                correct=right,
                predicted=guesses,
                accuracy=share,
                accuracy_interval=wilson_interval(right, count) if count else None,
                precision=float(precision[index]) if guesses else None,
                recall=share,
                f1=float(f1[index]) if count else None,
            )
        )
    return tuple(entries)


def _averages(present: list[ClassMetrics], weights: npt.NDArray[np.float64]) -> Averages:
    def mean(values: list[float | None]) -> float:
        return float(np.average([value or 0.0 for value in values], weights=weights))

    return Averages(
        precision=mean([entry.precision for entry in present]),
        recall=mean([entry.recall for entry in present]),
        f1=mean([entry.f1 for entry in present]),
    )
