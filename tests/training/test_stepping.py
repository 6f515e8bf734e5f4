from __future__ import annotations

from typing import Any

import numpy as np

from mien.training.stepping import JaxStepper, Stepper, make_stepper


class Variable:
    def __init__(self, value: Any) -> None:
        self.value = np.asarray(value, np.float32)

    def assign(self, value: Any) -> None:
        self.value = np.asarray(value, np.float32)


class Optimizer:
    def __init__(self) -> None:
        self.learning_rate = Variable(0)
        self.variables = [Variable(3), self.learning_rate]


class Network:
    """Notes the rates it is trained at."""

    def __init__(self) -> None:
        self.optimizer = Optimizer()
        self.rates: list[float] = []

    def train_on_batch(self, *_: Any, return_dict: bool) -> dict[str, float]:
        assert return_dict
        self.rates.append(float(self.optimizer.learning_rate.value))
        return {"loss": 2.0}


def test_a_step_trains_at_its_rate_and_gives_its_logs() -> None:
    network = Network()
    stepper = Stepper(network)
    arrays = (np.zeros(1), np.zeros(1), np.zeros(1))
    assert stepper.step(arrays, 0.5) == {"loss": 2.0}
    stepper.step(arrays, 0.25)
    stepper.settle()
    assert network.rates == [0.5, 0.25]


def test_only_jax_runs_ahead() -> None:
    assert type(make_stepper(Network(), "tensorflow")) is Stepper
    assert type(make_stepper(Network(), "torch")) is Stepper
    assert type(make_stepper(Network(), "jax")) is JaxStepper
    assert (Stepper.ahead, JaxStepper.ahead > 1) == (1, True)
