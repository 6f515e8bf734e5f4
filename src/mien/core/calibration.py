"""Calibration: temperature scaling whose temperature depends on a face's entropy.

One temperature for all faces (Guo et al. 2017, "On Calibration of Modern Neural Networks") cannot
calibrate a network that is overconfident where it is unsure and underconfident where it is sure, as
label smoothing makes them. So the temperature grows with the entropy of a face's probabilities
(after Balanya et al. 2022, "Adaptive Temperature Scaling for Robust Calibration of Deep Neural
Networks"). The order of a face's classes never changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_LEAST_ENTROPY = 1e-3  # added, so that a face of entropy 0 has a temperature too
# Far wider than anything fitted, and narrow enough that no quotient overflows.
_BASES = (1e-3, 1e3)
_MOST_EXPONENT = 10.0


@dataclass(frozen=True)
class Temperature:
    """``base * (entropy + 0.001) ** exponent``, the entropy normalised to 0-1.

    Attributes:
        base: the temperature at entropy 1 (uniform probabilities), 0.001 to 1000.
        exponent: how much the temperature falls with the entropy, -10 to 10; 0: it is constant.
    """

    base: float = 1.0
    exponent: float = 0.0

    def __post_init__(self) -> None:
        if not _BASES[0] <= self.base <= _BASES[1]:
            raise ValueError(f"expected a temperature from 0.001 to 1000, got {self.base!r}")
        if not abs(self.exponent) <= _MOST_EXPONENT:
            raise ValueError(f"expected an exponent from -10 to 10, got {self.exponent!r}")

    def probabilities(self, logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """Turn logits (N, classes) into probabilities (N, classes) whose rows sum to 1."""
        if not self.exponent:
            return softmax(np.asarray(logits / self.base, np.float64))
        shifted = _shifted(logits)
        each = self.base * (_entropy_of(shifted) + _LEAST_ENTROPY)[:, None] ** self.exponent
        # The maximum stays 0, so the softmax need not subtract it again.
        return _shares(shifted / each)


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Turn logits (N, classes) into probabilities (N, classes) whose rows sum to 1."""
    return _shares(_shifted(logits))


def log_mean(views: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Return the logarithm of the mean of several views' probabilities, each (N, classes)."""
    mean = sum(views[1:], views[0]) / len(views)
    return np.asarray(np.log(np.maximum(mean, np.finfo(np.float64).tiny)), np.float64)


# For a single face the cost is in the calls, not the arithmetic: hence the bare reductions,
# which take half the time of an array's own methods.
def _shifted(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return logits with each row's maximum subtracted."""
    greatest = np.maximum.reduce(logits, axis=1, keepdims=True)
    return np.asarray(np.subtract(logits, greatest, dtype=np.float64), np.float64)


def _shares(shifted: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the softmax of what `_shifted` returned, divided by a temperature or not."""
    powers = np.exp(shifted)
    return np.asarray(powers / np.add.reduce(powers, axis=1, keepdims=True), np.float64)


def _entropy_of(shifted: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the normalised entropy (N,) of what `_shifted` returned: 1 where it is uniform."""
    powers = np.exp(shifted)
    sums = np.add.reduce(powers, axis=1)
    nats = np.log(sums) - np.add.reduce(powers * shifted, axis=1) / sums
    # `np.clip` takes longer than all of the rest where there is one face.
    shares = np.minimum(np.maximum(nats / math.log(shifted.shape[1]), 0.0), 1.0)
    return np.asarray(shares, np.float64)
