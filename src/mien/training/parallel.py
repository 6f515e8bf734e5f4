"""A team that trains on Keras' torch backend, joined by torch.distributed.

A step gives the numbers that one process would get from the whole batch, but for the order of its
sums: each member has its part of the batch, BatchNorm takes its statistics over all parts, and the
gradients are summed, each image counting as much as any other, before the optimizer sees them.

torch is imported at once here: only `mien.training.ray_training` imports this module.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as distributed

from mien.training.checkpoint import all_variables
from mien.training.model import refresh
from mien.training.objective import accuracy_of
from mien.training.stepping import Logs, Stepper
from mien.training.team import Team, Value


class TorchTeam(Team):
    """All processes of torch.distributed's default group, which must be there.

    Args:
        asked_to_stop: asked after each step; any member's yes stops all of them.
    """

    def __init__(self, asked_to_stop: Callable[[], bool] = lambda: False) -> None:
        """See the class."""
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()
        self._asked_to_stop = asked_to_stop
        self._stop = threading.Event()

    def share(self, value: Value) -> Value:
        """Return the leader's value, to every member."""
        values = [value if self.leads else None]
        distributed.broadcast_object_list(values, src=0)
        return cast("Value", values[0])

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all members in the order of their ranks, to every member."""
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def align(self, model: Any) -> None:
        """Give every member's compiled network the leader's variables."""
        variables = all_variables(model)
        values = self.share([np.array(variable.numpy()) for variable in variables])
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        refresh(model)

    def stepper(self, model: Any, backend: str) -> Stepper:
        """Return what runs the steps of a compiled network, each member's part of them."""
        assert backend == "torch"
        return ParallelStepper(model, self)

    def heed(self, stop: threading.Event) -> None:
        """Set an event, after a step and for all members alike, once one of them is to stop."""
        self._stop = stop

    def end_step(self, sums: Sequence[float]) -> list[float]:
        """Return sums over the members' numbers, and hear whether one of them is to stop."""
        total = torch.tensor([*sums, float(self._asked_to_stop())], dtype=torch.float64)
        distributed.all_reduce(total)
        *numbers, stops = total.tolist()
        if stops:
            self._stop.set()
        return [float(number) for number in numbers]


class ParallelStepper(Stepper):
    """Runs this member's part of each step; changes the network and its optimizer to that end."""

    def __init__(self, model: Any, team: TorchTeam) -> None:
        """Take the compiled network, whose steps all members will run together from now on."""
        super().__init__(model)
        self._team = team
        for layer in model.layers:
            if type(layer).__name__ == "BatchNormalization":
                _synchronise(layer, team)
        _sum_gradients(model.optimizer)

    def step(self, arrays: tuple[Any, Any, Any], rate: float) -> Logs:
        """Run one step on the whole batch's (faces, targets, weights) at a learning rate."""
        faces, targets, weights = arrays
        part = self._team.part(len(faces))
        share = (part.stop - part.start) / len(faces)
        # Keras takes the mean over this part; weighed by its share, the parts sum to the mean of
        # all, and so do their gradients.
        mine = (
            faces[part],
            _each(targets, lambda array: array[part]),
            _each(weights, lambda array: array[part] * np.float32(share)),
        )
        logs = super().step(mine, rate)
        numbers = [float(logs["loss"]), accuracy_of(logs) * share]
        loss, accuracy = self._team.end_step(numbers)
        return {"loss": loss, "accuracy": accuracy}

    def estimate(self, norms: list[Any], batches: Iterable[Any]) -> None:
        """Give BatchNorm layers the mean statistics of whole batches; spoils their momentum."""
        super().estimate(norms, (faces[self._team.part(len(faces))] for faces in batches))


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return an array changed, or all arrays of a dictionary."""
    if isinstance(value, dict):
        return {name: change(array) for name, array in value.items()}
    return change(value)


# ---------------------------------------------------------------- gradients
def _sum_gradients(optimizer: Any) -> None:
    """Make an optimizer sum the gradients over the team before it does anything with them."""
    alone = optimizer.apply

    def apply(gradients: Sequence[Any], variables: Sequence[Any] | None = None) -> Any:
        return alone(_summed(gradients), variables)

    optimizer.apply = apply


def _summed(gradients: Sequence[Any]) -> list[Any]:
    """Return tensors summed over the team, in one message; a None stays one."""
    present = [one for one in gradients if one is not None]
    flat = torch.cat([one.reshape(-1) for one in present])
    distributed.all_reduce(flat)
    parts = iter(flat.split([one.numel() for one in present]))
    return [None if one is None else next(parts).reshape(one.shape) for one in gradients]


# ---------------------------------------------------------------- BatchNorm
def _synchronise(layer: Any, team: TorchTeam) -> None:
    """Make a BatchNorm layer take its statistics over all parts of a batch.

    Keras has an option for that, which its torch backend refuses, and torch's own layer for it
    wants a GPU.
    """
    alone = layer._moments

    def moments(inputs: Any, mask: Any) -> tuple[Any, Any]:
        mean, variance = alone(inputs, mask)
        count = torch.full_like(mean, float(len(inputs)))
        means, variances, counts = _Gathered.apply(
            torch.stack([mean, variance, count]), team.rank, team.size
        ).unbind(1)
        shares = counts / counts.sum(0)
        mean = (shares * means).sum(0)
        # Each part's own variance, and that of the parts' means.
        return mean, (shares * (variances + (means - mean) ** 2)).sum(0)

    layer._moments = moments


class _Gathered(torch.autograd.Function):  # type: ignore[misc]
    """A tensor of every member, stacked; its gradient is the sum of what all members found."""

    @staticmethod
    def forward(context: Any, mine: Any, rank: int, size: int) -> Any:
        """Return (size, ...) from each member's (...)."""
        context.rank = rank
        mine = mine.contiguous()
        parts = [torch.empty_like(mine) for _ in range(size)]
        distributed.all_gather(parts, mine)
        return torch.stack(parts)

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total[context.rank], None, None
