"""Whether a confidence of 80 % is right 80 % of the time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError

BIN_COUNT = 15
"""As Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2."""


@dataclass(frozen=True)
class CalibrationBin:
    """The predictions whose confidence lies in (low, high]; the first bin also holds 0.

    Attributes:
        low: lower edge, 0-1.
        high: upper edge, 0-1.
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


def calibrate(
    confidences: npt.NDArray[np.float64],
    correct: npt.NDArray[np.bool_],
    *,
    bin_count: int = BIN_COUNT,
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
    edges = np.linspace(0.0, 1.0, bin_count + 1)
    index = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, bin_count - 1)
    bins: list[CalibrationBin] = []
    error = 0.0
    for number in range(bin_count):
        inside = index == number
        count = int(inside.sum())
        confidence = float(confidences[inside].mean()) if count else None
        accuracy = float(correct[inside].mean()) if count else None
        if confidence is not None and accuracy is not None:
            error += count / confidences.size * abs(confidence - accuracy)
        bins.append(
            CalibrationBin(
                float(edges[number]), float(edges[number + 1]), count, confidence, accuracy
            )
        )
    return Calibration(error, float(confidences.mean()), tuple(bins))


TEMPERATURES = (0.05, 20.0)
"""Between which a temperature is looked for."""


def fit_temperature(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """Find the temperature T at which softmax(logits / T) gives the labels the least cross-entropy.

    As Guo et al. 2017, section 4.2. The cross-entropy is convex in 1 / T, so its slope is halved in
    on; answers do not change, confidences do.

    Args:
        logits: (N, classes).
        labels: (N,), the right classes.

    Returns:
        A number within `TEMPERATURES`; an end of it where no temperature is best (all right, or no
        better than chance).

    Raises:
        UsageError: if there are no logits or the lengths differ.
    """
    _check_rows("logits", logits, labels)
    right = logits[np.arange(len(labels)), labels]

    def slope(temperature: float) -> float:
        """Derivative of the cross-entropy by 1 / T: the mean expected logit less the right one."""
        powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
        expected = (powers * logits).sum(axis=1) / powers.sum(axis=1)
        return float((expected - right).mean())

    low, high = TEMPERATURES
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(np.sqrt(low * high))


LEAST_READINGS = 100
"""An emotion that is read less often gets the threshold of all readings: its own would be luck."""


def fit_thresholds(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Find for each class the confidence below which a reading of it had better not be trusted.

    That is the one that best tells its right readings from its wrong ones: with it, the right ones
    below and the wrong ones above are the fewest. So below it at least half are wrong, and above it
    at least half are right.

    Args:
        probabilities: (N, classes), calibrated.
        labels: (N,), the right classes.

    Returns:
        (classes,), 0-1: 0 for a class that is always to be trusted, 1 for one that never is.

    Raises:
        UsageError: if there are no probabilities or the lengths differ.
    """
    _check_rows("probabilities", probabilities, labels)
    read = probabilities.argmax(axis=1)
    confidences, correct = probabilities.max(axis=1), read == labels
    thresholds = np.full(probabilities.shape[1], _best_cut(confidences, correct))
    for label in range(len(thresholds)):
        mine = read == label
        if mine.sum() >= LEAST_READINGS:
            thresholds[label] = _best_cut(confidences[mine], correct[mine])
    return thresholds


def _best_cut(confidences: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]) -> float:
    order = np.argsort(confidences)
    rising = confidences[order]
    # How many more wrong than right ones a cut below the first, the second, ... leaves below it.
    gains = np.concatenate([[0], np.cumsum(np.where(correct[order], -1, 1))])
    cuts = np.concatenate([[0.0], (rising[:-1] + rising[1:]) / 2, [1.0]])
    # Equal confidences cannot be told apart.
    possible = np.concatenate([[True], rising[:-1] < rising[1:], [True]])
    return float(cuts[np.where(possible, gains, -len(order) - 1).argmax()])


def _check_rows(what: str, rows: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> None:
    if rows.ndim != 2 or labels.shape != rows.shape[:1] or labels.size == 0:
        raise UsageError(
            f"expected as many rows of {what} as labels, at least one; "
            f"got {rows.shape} and {labels.shape}"
        )
