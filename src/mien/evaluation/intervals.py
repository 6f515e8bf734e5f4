"""How far chance can move a share that was counted."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from mien.core.errors import UsageError

Z_95 = 1.959963984540054
"""The standard normal's 97.5 % point."""


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
