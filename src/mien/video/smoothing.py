"""Smooths each person's scores over time."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mien.core.errors import UsageError
from mien.core.results import Smoothed

SMOOTHING_S = 0.5
"""Seconds in which a change of expression has come through by 63 %."""


class Smoother:
    """Exponential smoothing by the time that has passed, a mean for each person.

    What was seen t seconds ago counts exp(-t / constant): a gap or an uneven rate changes nothing
    in how long the past is remembered.
    """

    def __init__(self, constant_s: float = SMOOTHING_S) -> None:
        """Take the time constant in seconds, 0 for none.

        Raises:
            UsageError: if the constant is negative or not finite.
        """
        if not (math.isfinite(constant_s) and constant_s >= 0):
            raise UsageError(f"expected smoothing over 0 seconds or more, got {constant_s}")
        self._constant_s = constant_s
        self._people: dict[int, tuple[float, dict[str, float]]] = {}

    def update(self, time_s: float, track_id: int, scores: Mapping[str, float]) -> Smoothed:
        """Take a person's scores at a moment and return the smoothed ones."""
        last = self._people.get(track_id)
        if last is None or self._constant_s == 0:
            mean = dict(scores)
        else:
            new = 1.0 - math.exp(-max(0.0, time_s - last[0]) / self._constant_s)
            mean = {name: old + new * (scores[name] - old) for name, old in last[1].items()}
        self._people[track_id] = (time_s, mean)
        emotion = max(mean, key=mean.__getitem__)
        return Smoothed(emotion, mean[emotion], mean)

    def forget_before(self, time_s: float) -> None:
        """Forget who was last seen before this moment."""
        self._people = {
            number: known for number, known in self._people.items() if known[0] >= time_s
        }
