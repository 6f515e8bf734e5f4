"""A tiny network, the same each time, and single training steps of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_maker import make_tiny_split
from mien.training.model import compiled_model
from training_maker import tiny_config

SPLIT = make_tiny_split("train", per_class=2)
FACES = SPLIT.images[..., None].astype(np.float32)
TARGETS = np.eye(7, dtype=np.float32)[SPLIT.labels]
ONES = np.ones(len(SPLIT), np.float32)


def compiled(blocks: int = -1, **changes: Any) -> Any:
    """A compiled tiny network, the same each time."""
    import keras

    keras.utils.set_random_seed(1)
    return compiled_model(tiny_config(**changes), blocks=blocks, size=32, initialise=True)


def step(model: Any, weights: np.ndarray[Any, Any] = ONES, *, rate: float = 0.01) -> float:
    model.optimizer.learning_rate.assign(rate)
    return float(model.train_on_batch(FACES, TARGETS, weights, return_dict=True)["loss"])


def values(variables: list[Any]) -> list[np.ndarray[Any, Any]]:
    return [np.array(variable.numpy()) for variable in variables]


def equal(first: list[Any], second: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
