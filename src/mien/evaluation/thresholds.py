"""Below which confidence a reading of an emotion is called uncertain.

How often readings of a confidence are right differs between emotions: "happy" at 60 % is right more
often than "sad" at 60 %. So each emotion's chance of being right is fitted, rising with the
confidence; a reading is certain if its chance is high enough, and that level, the same for all
emotions, is the lowest at which the certain readings together are right as often as asked for
and a standard error more often: readings of other images are to keep the word, too.
This way the fewest readings are called uncertain, and the doubtful ones of each emotion alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError
from mien.evaluation.extra import train_extra
from mien.evaluation.intervals import wilson_interval

LEAST_READINGS = 100
"""An emotion that is read less often is judged like all readings: its own would be luck."""

LEAST_CERTAIN = 20
"""Fewer certain readings than this prove nothing of how often such are right."""

CERTAIN_ACCURACY = 0.85
"""How often a reading that is not called uncertain has to be right."""

_FOLDS = 5
_STANDARD_ERRORS = 1.0
_CONFIDENCES = np.arange(1001) / 1000


def fit_thresholds(
    probabilities: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    *,
    accuracy: float = CERTAIN_ACCURACY,
) -> npt.NDArray[np.float64]:
    """Find for each class the confidence from which on its readings are certain.

    Args:
        probabilities: (N, classes), calibrated.
        labels: (N,), the right classes.
        accuracy: how often all certain readings together are to be right, 0-1; no number of
            readings proves that all are.

    Returns:
        (classes,), 0-1 in steps of 0.001: 0 for a class that is always certain, 1 for one that
        never is.

    Raises:
        UsageError: if there are no probabilities or the lengths differ.
        MissingExtra: if scikit-learn is not installed.
    """
    check_rows("probabilities", probabilities, labels)
    read = probabilities.argmax(axis=1)
    confidences, correct = probabilities.max(axis=1), read == labels
    curves = _curves(confidences, correct, read, probabilities.shape[1])
    # Looked up where the thresholds will lie, so that both see the same.
    places = np.searchsorted(_CONFIDENCES, confidences, side="right") - 1
    level = _lowest_level(curves[read, places], correct, accuracy)
    # On the readings they were fitted on, curves are a little too good: they are to hold on
    # others, too.
    fresh = curves[read, places]
    for part in np.array_split(np.random.default_rng(0).permutation(len(read)), _FOLDS):
        rest = np.setdiff1d(np.arange(len(read)), part)
        if len(rest):
            others = _curves(confidences[rest], correct[rest], read[rest], len(curves))
            fresh[part] = others[read[part], places[part]]
    level = max(level, _lowest_level(fresh, correct, accuracy))
    certain_from = np.array([np.searchsorted(curve, level) for curve in curves])
    return np.asarray(_CONFIDENCES[np.minimum(certain_from, len(_CONFIDENCES) - 1)], np.float64)


def _curves(
    confidences: npt.NDArray[np.float64],
    correct: npt.NDArray[np.bool_],
    read: npt.NDArray[np.int64],
    classes: int,
) -> npt.NDArray[np.float64]:
    """Return the chances of each class, (classes, 1001)."""
    curves = np.tile(_chances(confidences, correct), (classes, 1))
    for label in range(classes):
        mine = read == label
        if mine.sum() >= LEAST_READINGS:
            curves[label] = _chances(confidences[mine], correct[mine])
    return curves


def _chances(
    confidences: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return how often a reading is right at each of `_CONFIDENCES`, never falling."""
    with train_extra("Fitting thresholds"):
        from sklearn.isotonic import IsotonicRegression

    regression = IsotonicRegression(out_of_bounds="clip")
    regression.fit(confidences, correct.astype(np.float64))
    return np.maximum.accumulate(np.asarray(regression.predict(_CONFIDENCES), np.float64))


def _lowest_level(
    chances: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_], accuracy: float
) -> float:
    """Return the least chance from which on readings prove right as asked; 2 if none do."""
    order = np.argsort(-chances, kind="stable")
    falling = chances[order]
    counts = np.arange(1, len(order) + 1)
    # Above the first, the first two, ... of the surest; equal chances cannot be told apart.
    possible = np.append(falling[:-1] > falling[1:], True) & (counts >= LEAST_CERTAIN)
    right = np.cumsum(correct[order])
    for place in np.flatnonzero(possible)[::-1]:
        proven = wilson_interval(int(right[place]), int(counts[place]), z=_STANDARD_ERRORS)
        if proven.low >= accuracy:
            return float(falling[place])
    return 2.0


def check_rows(what: str, rows: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> None:
    """Raise UsageError unless there are as many rows (N, classes) as labels (N,), and some."""
    if rows.ndim != 2 or labels.shape != rows.shape[:1] or labels.size == 0:
        raise UsageError(
            f"expected as many rows of {what} as labels, at least one; "
            f"got {rows.shape} and {labels.shape}"
        )
