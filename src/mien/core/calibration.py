"""Calibration: temperature scaling with a temperature that depends on each face's entropy.

Networks trained with label smoothing are overconfident on ambiguous faces and underconfident on
clear ones, which a single temperature (Guo et al. 2017, "On Calibration of Modern Neural Networks")
cannot correct. So the temperature is a function of the entropy of a face's probabilities (after
Balanya et al. 2022, "Adaptive Temperature Scaling for Robust Calibration of Deep Neural Networks").
The ranking of a face's classes never changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_MIN_ENTROPY = 1e-3  # added, so that a face of entropy 0 has a temperature too
# Far wider than any fitted value, and narrow enough that no quotient overflows.
_BASE_RANGE = (1e-3, 1e3)
_MAX_EXPONENT = 10.0


@dataclass(frozen=True)
class Temperature:
    """Temperature ``base * (entropy + 0.001) ** exponent``, with the entropy normalised to 0-1.

    Attributes:
        base: the temperature at entropy 1 (uniform probabilities), 0.001 to 1000.
        exponent: dependence on the entropy, -10 to 10; 0 for a constant temperature.
    """

    base: float = 1.0
    exponent: float = 0.0

    def __post_init__(self) -> None:
        if not _BASE_RANGE[0] <= self.base <= _BASE_RANGE[1]:
            raise ValueError(f"expected a temperature from 0.001 to 1000, got {self.base!r}")
        if not abs(self.exponent) <= _MAX_EXPONENT:
            raise ValueError(f"expected an exponent from -10 to 10, got {self.exponent!r}")

    def probabilities(self, logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """Convert logits (N, classes) to probabilities (N, classes) whose rows sum to 1."""
        if not self.exponent:
            return softmax(np.asarray(logits / self.base, np.float64))
        shifted = _shifted(logits)
        temperatures = self.base * (_entropy(shifted) + _MIN_ENTROPY)[:, None] ** self.exponent
        # The maximum stays 0, so the softmax need not subtract it again.
        return _shifted_softmax(shifted / temperatures)


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Convert logits (N, classes) to probabilities (N, classes) whose rows sum to 1."""
    return _shifted_softmax(_shifted(logits))


def log_mean(views: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Return the logarithm of the mean probabilities over several views, each (N, classes)."""
    mean = sum(views[1:], views[0]) / len(views)
    return np.asarray(np.log(np.maximum(mean, np.finfo(np.float64).tiny)), np.float64)


# For a single face, calls cost more than arithmetic, and ufunc reductions take half the time of
# array methods.
def _shifted(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return logits with each row's maximum subtracted."""
    maximum = np.maximum.reduce(logits, axis=1, keepdims=True)
    return np.asarray(np.subtract(logits, maximum, dtype=np.float64), np.float64)


def _shifted_softmax(shifted: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the softmax of logits whose row maxima are 0."""
    powers = np.exp(shifted)
    return np.asarray(powers / np.add.reduce(powers, axis=1, keepdims=True), np.float64)


def _entropy(shifted: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the normalised entropy (N,) of logits whose row maxima are 0; 1 if uniform."""
    powers = np.exp(shifted)
    sums = np.add.reduce(powers, axis=1)
    nats = np.log(sums) - np.add.reduce(powers * shifted, axis=1) / sums
    # For a single face, `np.clip` takes longer than all the rest.
    normalized = np.minimum(np.maximum(nats / math.log(shifted.shape[1]), 0.0), 1.0)
    return np.asarray(normalized, np.float64)
