"""How long the rest of a run will take, from the steps of this sitting."""

from __future__ import annotations

from mien.training.config import Config
from mien.training.stages import stage_of

_FROZEN_COST = 0.4
"""Of a step with a frozen backbone, as a share of one that trains it: no way back through it."""


def stage_cost(config: Config, epoch: int) -> float:
    """Return what a step of an epoch costs, relative to those of other epochs of the run."""
    stage = stage_of(config, epoch)
    return stage.size**2 * (_FROZEN_COST if stage.blocks == 0 else 1.0)


class Pace:
    """Seconds for each unit of cost, over the steps seen so far."""

    def __init__(self) -> None:
        """Begin without having seen any; the first step is not counted."""
        self._seconds = 0.0
        self._cost = 0.0
        self._skip = True

    def skip_one(self) -> None:
        """Leave the next step out: it compiles the network's graph, as no other will."""
        self._skip = True

    def count(self, cost: float, seconds: float) -> None:
        """Count a step."""
        if not self._skip:
            self._seconds += seconds
            self._cost += cost
        self._skip = False

    def seconds_for(self, cost: float) -> float | None:
        """Return how long steps of that cost in all will take, None if no step has been counted."""
        return None if self._cost == 0 else self._seconds / self._cost * cost
