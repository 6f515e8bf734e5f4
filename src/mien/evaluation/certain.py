"""The readings that a model is ready to stand by, and how often they are right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mien.evaluation.intervals import Interval, wilson_interval


@dataclass(frozen=True)
class CertainReadings:
    """The readings that are not `uncertain`: their confidence reaches their emotion's threshold.

    Attributes:
        count: how many there are.
        correct: how many of them are right.
        share: of all readings, 0-1.
        accuracy: the share of them that is right, 0-1; None where there are none.
        accuracy_interval: its 95 % interval; None where there are none.
    """

    count: int
    correct: int
    share: float
    accuracy: float | None
    accuracy_interval: Interval | None


def certain_readings(
    rows: npt.NDArray[np.float64],
    correct: npt.NDArray[np.bool_],
    thresholds: npt.NDArray[np.float64],
) -> CertainReadings:
    """Count the readings that are certain.

    Args:
        rows: probabilities (N, classes), N at least 1.
        correct: (N,), whether the highest of each is right.
        thresholds: (classes,), below which a reading of that class is uncertain.
    """
    certain = rows.max(axis=1) >= thresholds[rows.argmax(axis=1)]
    count, right = int(certain.sum()), int(correct[certain].sum())
    return CertainReadings(
        count=count,
        correct=right,
        share=count / len(rows),
        accuracy=right / count if count else None,
        accuracy_interval=wilson_interval(right, count) if count else None,
    )
