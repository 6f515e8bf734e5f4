"""The processes that train one network together, as the trainer sees them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mien.core.errors import InputError, UsageError
from mien.training.config import Config
from mien.training.stepping import Stepper, make_stepper

Value = TypeVar("Value")


class Team:
    """A team of one: this process alone, which is how training runs unless told otherwise.

    In a larger team every member runs the whole trainer: it makes the same batches, trains on its
    part of each, and comes to the same weights and decisions. The leader alone writes files.

    Attributes:
        rank: this process's number; 0 is the leader.
        size: how many there are.
    """

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """Tell whether this process is the one that writes the run's folder."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Return this member's part of so many images: together they are all, once each."""
        whole, over = divmod(count, self.size)
        start = self.rank * whole + min(self.rank, over)
        return slice(start, start + whole + (self.rank < over))

    def share(self, value: Value) -> Value:
        """Return the leader's value, to every member."""
        return value

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all members in the order of their ranks, to every member."""
        return [value]

    def joined(self, part: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the parts of all members (their first axis, see `part`) as one array."""
        return np.concatenate(self.gather(part))

    def align(self, model: Any) -> None:
        """Give every member's compiled network the leader's variables."""

    def stepper(self, model: Any, backend: str) -> Stepper:
        """Return what runs the steps of a compiled network; gives whole batches to `Stepper`."""
        return make_stepper(model, backend)

    def heed(self, stop: threading.Event) -> None:
        """Set an event, after a step and for all members alike, once one of them is to stop."""


def check_team(team: Team, config: Config) -> None:
    """Check that a recipe is one that a team can train.

    Raises:
        UsageError: if it is of another backend than torch, or has less images a batch than members.
    """
    if team.size == 1:
        return
    settings = config.training
    if settings.backend != "torch":
        raise UsageError(
            f'several workers train on Keras\' backend "torch" alone, not "{settings.backend}"'
        )
    if settings.batch_size < team.size:
        raise UsageError(
            f"training.batch_size = {settings.batch_size} is split over {team.size} workers: "
            "expected at least an image for each"
        )


def check_same_images(fingerprints: Sequence[str], source: str) -> None:
    """Raise InputError unless all members have the same images, by their fingerprints."""
    if len(set(fingerprints)) > 1:
        raise InputError(
            f"the workers see different images in {source}: give all machines the same ones"
        )
