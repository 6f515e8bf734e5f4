"""Classification metrics: accuracy, F1, confusion, calibration, abstention, annotator agreement.

Conventions:

- The predicted class is the most probable one; ties go to the first.
- The accuracy of a class is its recall: the share of its images that are predicted correctly.
- Undefined values are None, never NaN: recall of a class without images, precision of a class that
  is never predicted. F1 is 0 for a class with images of which none is predicted correctly.
- Class means (macro, balanced) cover the classes with images; `Metrics.absent` lists the others.
- Intervals are 95 % Wilson score intervals (Wilson 1927), which hold for shares near 0 and 1 and
  for small samples, where the normal approximation fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import UsageError
from mien.data.votes import EMOTION_COLUMNS, VOTE_NAMES

Floats: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

MIN_PROBABILITY = 1e-7
"""Lower bound of probabilities in the cross-entropy, as in Keras."""

CALIBRATION_BINS = 15
"""Bins of the expected calibration error, as in Guo et al. 2017."""

AGREEMENT_BINS = 10
"""Bins of the diagram of scores against vote shares."""

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


# ---------------------------------------------------------------- intervals
@dataclass(frozen=True)
class Interval:
    """Confidence interval of a share, 0-1."""

    low: float
    high: float


def wilson_interval(correct: int, count: int, *, z: float = Z_95) -> Interval:
    """Return the Wilson score interval of ``correct / count``, by default at 95 %.

    Raises:
        UsageError: if ``count`` is below 1 or ``correct`` is not from 0 to ``count``.
    """
    if count < 1 or not 0 <= correct <= count:
        raise UsageError(f"expected 0 <= correct <= count and count >= 1, got {correct}/{count}")
    share = correct / count
    spread = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    centre = share + z * z / (2 * count)
    scale = 1 + z * z / count
    # Rounding must not push a bound past the share itself, or past 0 and 1.
    low = min(share, max(0.0, (centre - spread) / scale))
    high = max(share, min(1.0, (centre + spread) / scale))
    return Interval(low, high)


# ---------------------------------------------------------------- calibration and abstention
@dataclass(frozen=True)
class CalibrationBin:
    """Predictions whose confidence is in (low, high]; the first bin includes 0.

    Attributes:
        low, high: bin edges, 0-1.
        count: predictions in the bin.
        confidence: their mean confidence, None in an empty bin.
        accuracy: their accuracy, None in an empty bin.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Calibration of the confidence, the highest probability of an image.

    Attributes:
        error: expected calibration error, 0-1.
        confidence: mean confidence, 0-1.
        bins: bins of equal width, as in a reliability diagram.
    """

    error: float
    confidence: float
    bins: tuple[CalibrationBin, ...]


def measure_calibration(confidences: Floats, correct: Mask) -> Calibration:
    """Measure the calibration of predictions.

    Args:
        confidences: (N,), 0-1.
        correct: (N,), whether each prediction is correct.

    Raises:
        UsageError: if there are no predictions or the lengths differ.
    """
    if confidences.ndim != 1 or confidences.shape != correct.shape or confidences.size == 0:
        raise UsageError(
            "expected confidences (N,) and correct (N,) with N >= 1; "
            f"got {confidences.shape} and {correct.shape}"
        )
    binned = _binned_means(confidences, correct.astype(np.float64), CALIBRATION_BINS)
    bins = tuple(CalibrationBin(*values) for values in binned)
    error = sum(
        filled.count / confidences.size * abs(filled.confidence - filled.accuracy)
        for filled in bins
        if filled.confidence is not None and filled.accuracy is not None
    )
    return Calibration(error, float(confidences.mean()), bins)


def _binned_means(
    values: Floats, outcomes: Floats, bins: int
) -> Iterator[tuple[float, float, int, float | None, float | None]]:
    """Yield low, high, count, mean value and mean outcome of each equal-width bin of 0-1."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    indices = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, bins - 1)
    for index in range(bins):
        inside = indices == index
        count = int(inside.sum())
        means = (float(values[inside].mean()), float(outcomes[inside].mean())) if count else None
        yield float(edges[index]), float(edges[index + 1]), count, *(means or (None, None))


def calibration_error(probabilities: Floats, labels: Labels) -> float:
    """Return the expected calibration error, 0-1, of probabilities (N, classes)."""
    correct = probabilities.argmax(axis=1) == labels
    return measure_calibration(probabilities.max(axis=1), correct).error


def certain_mask(probabilities: Floats, thresholds: Floats) -> Mask:
    """Mark the predictions (N,) whose confidence reaches the threshold of the predicted class.

    Args:
        probabilities: (N, classes).
        thresholds: (classes,), 0-1.
    """
    reached = probabilities.max(axis=1) >= thresholds[probabilities.argmax(axis=1)]
    return np.asarray(reached, np.bool_)


@dataclass(frozen=True)
class SelectiveAccuracy:
    """Accuracy of the certain predictions, those that reach the threshold of their class.

    Attributes:
        count: certain predictions.
        correct: certain predictions that are correct.
        share: certain share of all predictions (the coverage), 0-1.
        accuracy: accuracy of the certain predictions, 0-1; None if there are none.
        accuracy_interval: its 95 % interval; None if there are none.
    """

    count: int
    correct: int
    share: float
    accuracy: float | None
    accuracy_interval: Interval | None


def selective_accuracy(
    probabilities: Floats, correct: Mask, thresholds: Floats
) -> SelectiveAccuracy:
    """Measure abstention: probabilities (N, classes), correct (N,), thresholds (classes,)."""
    certain = certain_mask(probabilities, thresholds)
    count, certain_correct = int(certain.sum()), int(correct[certain].sum())
    return SelectiveAccuracy(
        count=count,
        correct=certain_correct,
        share=count / len(probabilities),
        accuracy=certain_correct / count if count else None,
        accuracy_interval=wilson_interval(certain_correct, count) if count else None,
    )


# ---------------------------------------------------------------- metrics against labels
@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class; shares are 0-1, None where undefined."""

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
    """Precision, recall and F1 averaged over classes, 0-1."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Metrics:
    """Metrics of one set of images; shares are 0-1.

    Attributes:
        count: number of images.
        correct: images predicted correctly.
        loss: mean cross-entropy in nats.
        accuracy: share of images predicted correctly.
        accuracy_interval: its 95 % interval.
        macro: averages over classes; the precision of a class that is never predicted counts as 0.
        weighted: averages weighted by the support of each class.
        balanced_accuracy: mean recall.
        classes: metrics of each class, in label order.
        confusion: counts (classes, classes); rows are true classes, columns predicted ones.
        confusion_rates: counts divided by their row's sum; None for a row without images.
        calibration: calibration of the confidence.
        absent: classes without images.
        certain: accuracy with abstention; None for a model without thresholds.
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
        """F1 averaged over the classes with images, 0-1."""
        return self.macro.f1

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as JSON-compatible values."""
        return {**asdict(self), "macro_f1": self.macro_f1}


@dataclass(frozen=True)
class Evaluation:
    """Metrics on all images and, where known, on those without a duplicate in Training."""

    all: Metrics
    clean: Metrics | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as JSON-compatible values."""
        clean = None if self.clean is None else self.clean.to_dict()
        return {"all": self.all.to_dict(), "clean": clean}


def evaluate(
    probabilities: npt.NDArray[np.floating[Any]],
    labels: Labels,
    *,
    clean: Mask | None = None,
    classes: Sequence[str] = EMOTIONS,
    thresholds: Floats | None = None,
) -> Evaluation:
    """Compute metrics on all images and on the clean ones.

    Args:
        probabilities: (N, classes), rows sum to 1.
        labels: (N,), indices into ``classes``.
        clean: (N,), True for images without a pixel-identical copy in Training; None if unknown.
        classes: class names.
        thresholds: (classes,), minimum confidence of a certain prediction; None for no abstention.

    Raises:
        UsageError: if the arrays do not match (see `measure`).
    """
    overall = measure(probabilities, labels, classes=classes, thresholds=thresholds)
    if clean is not None and clean.shape != labels.shape:
        raise UsageError(f"expected a clean mask of shape {labels.shape}, got {clean.shape}")
    if clean is None or not clean.any():
        return Evaluation(overall)
    subset = measure(probabilities[clean], labels[clean], classes=classes, thresholds=thresholds)
    return Evaluation(overall, subset)


def measure(
    probabilities: npt.NDArray[np.floating[Any]],
    labels: Labels,
    *,
    classes: Sequence[str] = EMOTIONS,
    thresholds: Floats | None = None,
) -> Metrics:
    """Compute the metrics of probabilities (N, classes) against labels (N,).

    Raises:
        UsageError: if N is 0, shapes differ, a label is out of range, or rows are not
            probabilities.
    """
    _check(probabilities, labels, len(classes))
    rows = probabilities.astype(np.float64)
    rows /= rows.sum(axis=1, keepdims=True)
    predicted = rows.argmax(axis=1)
    correct = predicted == labels
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    entries = tuple(_class_metrics(confusion, index, name) for index, name in enumerate(classes))
    present = [entry for entry in entries if entry.support]
    support = np.array([entry.support for entry in present], np.float64)
    of_label = rows[np.arange(len(labels)), labels]
    return Metrics(
        count=len(labels),
        correct=int(correct.sum()),
        loss=float(-np.log(np.maximum(of_label, MIN_PROBABILITY)).mean()),
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


def _check(probabilities: npt.NDArray[Any], labels: npt.NDArray[Any], classes: int) -> None:
    if labels.ndim != 1 or probabilities.shape != (len(labels), classes):
        raise UsageError(
            f"expected probabilities (N, {classes}) and labels (N,), "
            f"got {probabilities.shape} and {labels.shape}"
        )
    if len(labels) == 0:
        raise UsageError("nothing to evaluate: there are no images")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= classes:
        raise UsageError(f"expected integer labels from 0 to {classes - 1}")
    sums = probabilities.sum(axis=1, dtype=np.float64)
    # NaN fails these comparisons too, so it never counts as a prediction of class 0.
    if not (np.all(probabilities >= 0) and np.all(np.abs(sums - 1) < 1e-3)):
        raise UsageError("expected probabilities from 0 to 1 whose rows sum to 1")


def _class_metrics(confusion: Labels, index: int, name: str) -> ClassMetrics:
    correct = int(confusion[index, index])
    support, predicted = int(confusion[index].sum()), int(confusion[:, index].sum())
    recall = correct / support if support else None
    return ClassMetrics(
        emotion=name,
        support=support,
        correct=correct,
        predicted=predicted,
        accuracy=recall,
        accuracy_interval=wilson_interval(correct, support) if support else None,
        precision=correct / predicted if predicted else None,
        recall=recall,
        f1=2 * correct / (support + predicted) if support else None,
    )


def _averages(entries: list[ClassMetrics], weights: Floats) -> Averages:
    values = [[entry.precision or 0.0, entry.recall or 0.0, entry.f1 or 0.0] for entry in entries]
    return Averages(*np.average(values, axis=0, weights=weights).tolist())


# ---------------------------------------------------------------- agreement with FER+ annotators
@dataclass(frozen=True)
class EmotionAgreement:
    """Images whose majority vote is one emotion, and how many are predicted as it."""

    emotion: str
    images: int
    agreed: int


@dataclass(frozen=True)
class ShareBin:
    """Scores of any emotion in (low, high], and the vote shares; the first bin includes 0.

    Attributes:
        low, high: bin edges, 0-1.
        count: scores in the bin.
        score: their mean.
        share: mean share of annotators who chose the emotion.
    """

    low: float
    high: float
    count: int
    score: float
    share: float


@dataclass(frozen=True)
class Agreement:
    """Agreement of predictions with FER+ votes; shares are 0-1.

    Attributes:
        images: images with a majority (more than half) of the votes for the seven emotions.
        agreed: images predicted as their majority vote.
        accuracy: ``agreed / images``.
        accuracy_interval: its 95 % interval.
        emotions: the same for each emotion.
        official_images: images with a label under FER+'s own protocol, see `official_majority`.
        official_agreed: those predicted as that label; contempt has no score, so it never agrees.
        cross_entropy: of the scores against the vote shares, in nats.
        share_error: mean absolute difference of score and vote share, over ``bins``.
        bins: reliability diagram of scores against vote shares.
    """

    images: int
    agreed: int
    accuracy: float
    accuracy_interval: Interval
    emotions: tuple[EmotionAgreement, ...]
    official_images: int
    official_agreed: int
    cross_entropy: float
    share_error: float
    bins: tuple[ShareBin, ...]

    @property
    def official_accuracy(self) -> float:
        """Accuracy under FER+'s own protocol, 0-1."""
        return self.official_agreed / max(self.official_images, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the agreement as JSON-compatible values."""
        return {**asdict(self), "official_accuracy": self.official_accuracy}


def measure_agreement(
    probabilities: npt.NDArray[np.floating[Any]], counts: Labels
) -> Agreement | None:
    """Compare probabilities (N, 7) with vote counts (N, 10) from `align_votes`.

    Returns:
        None if no image has a majority.
    """
    predicted = probabilities.argmax(axis=1)
    votes = counts[:, EMOTION_COLUMNS]
    total, majority = votes.sum(axis=1), votes.argmax(axis=1)
    has_majority = 2 * votes.max(axis=1) > total
    if not has_majority.any():
        return None
    agrees = predicted == majority
    emotions = []
    for index, name in enumerate(EMOTIONS):
        chosen = has_majority & (majority == index)
        emotions.append(EmotionAgreement(name, int(chosen.sum()), int(agrees[chosen].sum())))
    voted = total > 0
    shares = votes[voted] / total[voted, None]
    scores = np.asarray(probabilities[voted], np.float64)
    bins = tuple(
        ShareBin(low, high, count, score, share)
        for low, high, count, score, share in _binned_means(
            scores.ravel(), shares.ravel(), AGREEMENT_BINS
        )
        if score is not None and share is not None
    )
    official = official_majority(counts)
    labelled = official >= 0
    images, agreed = int(has_majority.sum()), int(agrees[has_majority].sum())
    return Agreement(
        images=images,
        agreed=agreed,
        accuracy=agreed / images,
        accuracy_interval=wilson_interval(agreed, images),
        emotions=tuple(emotions),
        official_images=int(labelled.sum()),
        official_agreed=int((EMOTION_COLUMNS[predicted] == official)[labelled].sum()),
        cross_entropy=float(
            -(shares * np.log(np.maximum(scores, MIN_PROBABILITY))).sum(axis=1).mean()
        ),
        share_error=sum(row.count * abs(row.score - row.share) for row in bins) / scores.size,
        bins=bins,
    )


def official_majority(counts: Labels) -> Labels:
    """Return the FER+ "majority" labels of vote counts (N, 10) (Barsoum et al. 2016).

    Single votes are dropped as outliers; then one of the eight emotions (the seven and contempt)
    needs more than half of the remaining votes, "unknown" and "not a face" included.

    Returns:
        (N,), indices into `VOTE_NAMES`; -1 for an image without such a majority.
    """
    kept = np.where(counts > 1, counts, 0)
    winner = kept.argmax(axis=1)
    is_emotion = winner <= VOTE_NAMES.index("contempt")
    return np.where((2 * kept.max(axis=1) > kept.sum(axis=1)) & is_emotion, winner, -1)
