"""Predictions against labels: accuracy, F1, confusion, calibration, abstention; and against votes.

Conventions, where there is a choice:

- The prediction is the class of the highest probability; of equals, the first.
- A class's accuracy is the share of its images that is predicted right: its recall.
- What has no value is None, never NaN: recall of a class without images, precision of a class that
  is never predicted. F1 is 0 for a class that has images, none of them predicted right.
- Means over classes (macro, balanced) are over those that have images; `Metrics.absent` names the
  others.
- Intervals are Wilson's (1927) score intervals at 95 %: right for shares near 0 and 1 and for few
  images, where the normal approximation is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import UsageError
from mien.data.votes import EMOTION_COLUMNS, VOTE_NAMES

SMALLEST_PROBABILITY = 1e-7
"""Lower bound of probabilities in the loss, as in Keras."""

BIN_COUNT = 15
"""Bins of the calibration error, as in Guo et al. 2017."""

SHARE_BIN_COUNT = 10
"""Bins of the diagram of scores against shares of votes."""

Z_95 = 1.959963984540054
"""The standard normal's 97.5 % point."""


# ---------------------------------------------------------------- intervals
@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a share, both ends 0-1."""

    low: float
    high: float


def wilson_interval(correct: int, count: int, *, z: float = Z_95) -> Interval:
    """Return Wilson's score interval of the share ``correct / count``, by default at 95 %.

    Raises:
        UsageError: if ``count`` is below 1 or ``correct`` is not from 0 to ``count``.
    """
    if count < 1 or not 0 <= correct <= count:
        raise UsageError(f"expected 0 <= correct <= count and count >= 1, got {correct}/{count}")
    share = correct / count
    spread = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    centre = share + z * z / (2 * count)
    scale = 1 + z * z / count
    # Rounding must not push an end past the share itself, or past 0 and 1.
    low = min(share, max(0.0, (centre - spread) / scale))
    high = max(share, min(1.0, (centre + spread) / scale))
    return Interval(low, high)


# ---------------------------------------------------------------- calibration
@dataclass(frozen=True)
class CalibrationBin:
    """The predictions whose confidence is in (low, high]; the first bin includes 0.

    Attributes:
        low, high: the edges, 0-1.
        count: predictions in the bin.
        confidence: their mean top probability, None in an empty bin.
        accuracy: the share of them that is right, None in an empty bin.
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
        error: expected calibration error, 0-1: the mean distance between confidence and accuracy.
        confidence: mean top probability, 0-1.
        bins: of equal width, for the reliability diagram.
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
    bins = tuple(
        CalibrationBin(*each)
        for each in _binned_means(confidences, correct.astype(np.float64), BIN_COUNT)
    )
    error = sum(
        each.count / confidences.size * abs(each.confidence - each.accuracy)
        for each in bins
        if each.confidence is not None and each.accuracy is not None
    )
    return Calibration(error, float(confidences.mean()), bins)


def _binned_means(
    values: npt.NDArray[np.float64], outcomes: npt.NDArray[np.float64], bins: int
) -> Iterator[tuple[float, float, int, float | None, float | None]]:
    """Yield the edges, count and means of values and outcomes (N,) of equal-width bins in 0-1."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    places = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, bins - 1)
    for place in range(bins):
        inside = places == place
        count = int(inside.sum())
        means = (float(values[inside].mean()), float(outcomes[inside].mean())) if count else None
        yield float(edges[place]), float(edges[place + 1]), count, *(means or (None, None))


def calibration_error(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> float:
    """Return the expected calibration error, 0-1, of probabilities (N, classes)."""
    correct = probabilities.argmax(axis=1) == labels
    return measure_calibration(probabilities.max(axis=1), correct).error


@dataclass(frozen=True)
class SelectiveAccuracy:
    """Accuracy of the predictions that reach their class's threshold, the certain ones.

    Attributes:
        count: certain predictions.
        correct: how many of them are right.
        share: of all predictions, 0-1 (the coverage).
        accuracy: of the certain predictions, 0-1; None where there are none.
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
    """Measure abstention: probabilities (N, classes), correct (N,), thresholds (classes,)."""
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
    """The metrics of one class; shares are 0-1 (see the module for the conventions)."""

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
    """The metrics of one set of images; shares are 0-1.

    Attributes:
        count: images.
        correct: images predicted right.
        loss: mean cross-entropy in nats.
        accuracy: share of the images predicted right.
        accuracy_interval: its 95 % interval.
        macro: means over the classes that have images; precision counts 0 for a class that is never
            predicted.
        weighted: the same, weighted by each class's images.
        balanced_accuracy: mean recall.
        classes: one entry a class, in the order of the labels.
        confusion: counts (classes, classes): row the true class, column the predicted one.
        confusion_rates: the same, each row divided by its sum; None for a row without images.
        calibration: of the top probability.
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
        """Mean F1 of the classes that have images, 0-1."""
        return self.macro.f1

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics ready for JSON."""
        return {**asdict(self), "macro_f1": self.macro_f1}


@dataclass(frozen=True)
class Evaluation:
    """Metrics on all images and, where known, on those without a copy in Training."""

    all: Metrics
    clean: Metrics | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics ready for JSON; "clean" is None where there are none."""
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
        thresholds: (classes,), the least confidence of a certain prediction; None without.

    Raises:
        UsageError: if the arrays do not fit together (see `measure`).
    """
    every = measure(probabilities, labels, classes=classes, thresholds=thresholds)
    if clean is not None and clean.shape != labels.shape:
        raise UsageError(f"expected a clean mask of shape {labels.shape}, got {clean.shape}")
    if clean is None or not clean.any():
        return Evaluation(every)
    part = measure(probabilities[clean], labels[clean], classes=classes, thresholds=thresholds)
    return Evaluation(every, part)


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
    """
    _check(probabilities, labels, len(classes))
    rows = probabilities.astype(np.float64)
    rows /= rows.sum(axis=1, keepdims=True)
    predicted = rows.argmax(axis=1)
    correct = predicted == labels
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    entries = tuple(_class_metrics(confusion, place, name) for place, name in enumerate(classes))
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
    # A NaN fails the comparison too, instead of counting as "angry".
    if not (np.all(probabilities >= 0) and np.all(np.abs(sums - 1) < 1e-3)):
        raise UsageError("expected probabilities from 0 to 1 whose rows sum to 1")


def _class_metrics(confusion: npt.NDArray[np.int64], place: int, name: str) -> ClassMetrics:
    correct = int(confusion[place, place])
    support, predicted = int(confusion[place].sum()), int(confusion[:, place].sum())
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


def _averages(present: list[ClassMetrics], weights: npt.NDArray[np.float64]) -> Averages:
    def mean(values: list[float | None]) -> float:
        return float(np.average([value or 0.0 for value in values], weights=weights))

    return Averages(
        precision=mean([entry.precision for entry in present]),
        recall=mean([entry.recall for entry in present]),
        f1=mean([entry.f1 for entry in present]),
    )


# ---------------------------------------------------------------- agreement with FER+'s annotators
@dataclass(frozen=True)
class EmotionAgreement:
    """The images whose majority named an emotion, and how many are predicted as that."""

    emotion: str
    images: int
    agreed: int


@dataclass(frozen=True)
class ShareBin:
    """Scores in (low, high], of any emotion, and the votes for it; the first bin includes 0.

    Attributes:
        low, high: the edges, 0-1.
        count: scores in the bin.
        score: their mean.
        share: the mean share of people who named the emotion.
    """

    low: float
    high: float
    count: int
    score: float
    share: float


@dataclass(frozen=True)
class Agreement:
    """Predictions beside FER+'s votes; shares are 0-1.

    Attributes:
        images: those on which more than half of the votes for the seven emotions agree.
        agreed: how many of them are predicted as that majority says.
        accuracy: the share of these.
        accuracy_interval: its 95 % interval.
        emotions: the same for each emotion.
        official_images: those of FER+'s own protocol (Barsoum et al. 2016, "majority"), see
            `official_majority`.
        official_agreed: how many of them are predicted so; contempt, which has no score, never is.
        cross_entropy: of all scores against the shares of votes, in nats.
        share_error: the mean distance between a score and the share of people, over ``bins``.
        bins: of the reliability diagram: do seven of ten people say so where the score is 0.7?
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
        """The share of the official protocol's images that is predicted right, 0-1."""
        return self.official_agreed / max(self.official_images, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the agreement ready for JSON."""
        return {**asdict(self), "official_accuracy": self.official_accuracy}


def measure_agreement(
    probabilities: npt.NDArray[np.floating[Any]], counts: npt.NDArray[np.int64]
) -> Agreement | None:
    """Compare probabilities (N, 7) with votes (N, 10), see `align_votes`.

    Returns:
        None where no image has a majority.
    """
    predicted = probabilities.argmax(axis=1)
    votes = counts[:, EMOTION_COLUMNS]
    total = votes.sum(axis=1)
    clear = 2 * votes.max(axis=1) > total
    if not clear.any():
        return None
    majority = votes.argmax(axis=1)
    agrees = predicted == majority
    emotions = tuple(
        EmotionAgreement(
            name,
            int((clear & (majority == place)).sum()),
            int(agrees[clear & (majority == place)].sum()),
        )
        for place, name in enumerate(EMOTIONS)
    )
    voted = total > 0
    shares = votes[voted] / total[voted, None]
    scores = np.asarray(probabilities[voted], np.float64)
    bins = tuple(
        ShareBin(low, high, count, score, share)
        for low, high, count, score, share in _binned_means(
            scores.ravel(), shares.ravel(), SHARE_BIN_COUNT
        )
        if score is not None and share is not None
    )
    official = official_majority(counts)
    known = official >= 0
    agreed = int(agrees[clear].sum())
    return Agreement(
        images=int(clear.sum()),
        agreed=agreed,
        accuracy=agreed / int(clear.sum()),
        accuracy_interval=wilson_interval(agreed, int(clear.sum())),
        emotions=emotions,
        official_images=int(known.sum()),
        official_agreed=int((EMOTION_COLUMNS[predicted] == official)[known].sum()),
        cross_entropy=float(-(shares * np.log(np.maximum(scores, 1e-7))).sum(axis=1).mean()),
        share_error=sum(each.count * abs(each.score - each.share) for each in bins) / scores.size,
        bins=bins,
    )


def official_majority(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return FER+'s own majority label of votes (N, 10): index into `VOTE_NAMES`, -1 for none.

    Emotions with a single vote are dropped as outliers; then one of the eight (contempt is the last
    of them) needs more than half of the votes that are left, unknown and not-a-face among them.
    """
    kept = np.where(counts > 1, counts, 0)
    winner = kept.argmax(axis=1)
    clear = (2 * kept.max(axis=1) > kept.sum(axis=1)) & (winner <= VOTE_NAMES.index("contempt"))
    return np.where(clear, winner, -1)
