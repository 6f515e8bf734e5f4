"""Training steps, one after the other, as fast as the backend can take them.

On JAX a step is only asked for here and done by the device meanwhile: what it gives is waited for
when it is read, and the network's variables are brought up to date when somebody needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

Logs = Mapping[str, Any]
"""The loss and the metrics of a step by name, as numbers or as what will become one."""

_JAX_AHEAD = 16


class Stepper:
    """Runs steps through ``train_on_batch``.

    Attributes:
        ahead: how many steps may be asked for before the logs of the first are read.
    """

    ahead = 1

    def __init__(self, model: Any) -> None:
        """Take the compiled network."""
        self.model = model

    def step(self, arrays: tuple[Any, Any, Any], rate: float) -> Logs:
        """Run one step on (faces, targets, weights) at a learning rate."""
        self.model.optimizer.learning_rate.assign(rate)
        logs: Logs = self.model.train_on_batch(*arrays, return_dict=True)
        return logs

    def settle(self) -> None:
        """Bring the network's variables up to date."""

    def estimate(self, norms: list[Any], batches: Iterable[Any]) -> None:
        """Give BatchNorm layers the mean statistics of batches of faces; spoils their momentum."""
        for seen, faces in enumerate(batches):
            for layer in norms:
                layer.momentum = seen / (seen + 1)  # makes the running mean a plain one
            self.model(faces, training=True)


class JaxStepper(Stepper):
    """Runs steps without waiting for them, and keeps what they change on the device.

    ``train_on_batch`` waits for each step and copies every variable into the network, which takes
    longer than the step itself where the device is fast. The arithmetic is the same, as is the
    compiled function: the first step of a sitting goes through ``train_on_batch``, which makes it.
    """

    ahead = _JAX_AHEAD

    def __init__(self, model: Any) -> None:
        """Take the compiled network."""
        super().__init__(model)
        self._state: tuple[list[Any], ...] | None = None
        self._add_statistics: Any = None
        self._rate_place = next(
            place
            for place, variable in enumerate(model.optimizer.variables)
            if variable is model.optimizer.learning_rate
        )

    def step(self, arrays: tuple[Any, Any, Any], rate: float) -> Logs:
        """Ask for one step on (faces, targets, weights) at a learning rate."""
        import jax  # type: ignore[import-not-found]

        if self.model.train_function is None:
            return super().step(arrays, rate)
        trainable, others, optimizer, metrics = self._state or self._read_state()
        self._state = None  # its arrays are used up by the step, whether or not it succeeds
        optimizer[self._rate_place] = jax.device_put(np.float32(rate))
        # The metrics are of this step alone.
        metrics = [jax.device_put(np.zeros(value.shape, value.dtype)) for value in metrics]
        batch = jax.device_put(arrays)
        state = (trainable, others, optimizer, metrics)
        logs, after = self.model.train_function(state, iter([batch]))
        self._state = tuple(list(part) for part in after)
        read: Logs = logs
        return read

    def settle(self) -> None:
        """Bring the network's variables up to date."""
        if self._state is None:
            return
        for variables, values in zip(self._variables(), self._state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        self._state = None

    def estimate(self, norms: list[Any], batches: Iterable[Any]) -> None:
        """Give BatchNorm layers the mean statistics of batches of faces; spoils their momentum.

        Compiled: left to itself, JAX would compile and start each operation alone.
        """
        for layer in norms:
            layer.momentum = 0.0  # makes the running statistics those of the batch
        others = self.model.non_trainable_variables
        running = {id(variable) for layer in norms for variable in layer.non_trainable_variables}
        places = [place for place, variable in enumerate(others) if id(variable) in running]
        if self._add_statistics is None:
            self._add_statistics = self._compiled_statistics(places)
        trainable_values = [variable.value for variable in self.model.trainable_variables]
        values = [variable.value for variable in others]
        total = [np.zeros(values[place].shape, np.float32) for place in places]
        seen = 0
        for faces in batches:
            total = self._add_statistics(trainable_values, values, total, faces)
            seen += 1
        for place, value in zip(places, total, strict=True):
            others[place].assign(value / seen)

    def _compiled_statistics(self, places: list[int]) -> Any:
        import jax

        def add(trainable: Any, others: Any, total: list[Any], faces: Any) -> list[Any]:
            _, after = self.model.stateless_call(trainable, others, faces, training=True)
            return [one + after[place] for one, place in zip(total, places, strict=True)]

        return jax.jit(add)

    def _variables(self) -> tuple[list[Any], ...]:
        model = self.model
        return (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )

    def _read_state(self) -> tuple[list[Any], ...]:
        return tuple([variable.value for variable in group] for group in self._variables())


def make_stepper(model: Any, backend: str) -> Stepper:
    """Return what runs the steps of a compiled network on a backend of Keras."""
    kinds: dict[str, Callable[[Any], Stepper]] = {"jax": JaxStepper}
    return kinds.get(backend, Stepper)(model)
