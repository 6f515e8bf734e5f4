"""Whether a confidence of 80 % is right 80 % of the time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mien.core.calibration import Temperature
from mien.core.errors import UsageError
from mien.evaluation.thresholds import check_rows

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
    check_rows("logits", logits, labels)
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


LEAST_IMAGES = 500
"""With fewer, one temperature is fitted for all faces: an exponent would be luck."""

_STEPS = 6
_ROUNDS = 7
_BASES, _EXPONENTS = (0.1, 10.0), (-0.25, 1.0)


def fit_softening(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> Temperature:
    """Find the temperatures at which a face's confidence says how often such readings are right.

    What is made least is the cross-entropy of "is the reading right?", not of the classes: the
    smoothed labels that a network has learned leave the latter's best temperature too cool.
    `docs/evaluation.md` compares both.

    Args:
        logits: (N, classes); for a mean over views, `mien.core.calibration.log_of_mean`.
        labels: (N,), the right classes.

    Returns:
        With fewer than `LEAST_IMAGES`, `fit_temperature`'s.

    Raises:
        UsageError: if there are no logits or the lengths differ.
    """
    check_rows("logits", logits, labels)
    if len(labels) < LEAST_IMAGES:
        return Temperature(fit_temperature(logits, labels))
    right = logits.argmax(axis=1) == labels

    def loss(log_base: float, exponent: float) -> float:
        sure = Temperature(float(np.exp(log_base)), exponent).probabilities(logits).max(axis=1)
        sure = np.clip(sure, 1e-7, 1 - 1e-7)
        return float(-np.where(right, np.log(sure), np.log1p(-sure)).mean())

    # A grid that closes in on its best point: two parameters need no more, and it is repeatable.
    (low, high), (least, most) = np.log(_BASES), _EXPONENTS
    best = (0.0, 0.0)
    for _ in range(_ROUNDS):
        points = [
            (float(base), float(exponent))
            for base in np.linspace(low, high, _STEPS + 1)
            for exponent in np.linspace(least, most, _STEPS + 1)
        ]
        best = min(points, key=lambda point: loss(*point))
        # Half of each side is left: the best of all is seldom further from the best point.
        wide, tall = (high - low) / 4, (most - least) / 4
        low, high = best[0] - wide, best[0] + wide
        least, most = best[1] - tall, best[1] + tall
    return Temperature(float(np.exp(best[0])), best[1])
