"""The network that is evaluated and saved: averaged weights, recalibrated BatchNorm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mien.training.model import (
    build_model,
    ema_weights,
    inference_network,
    interpolate_weights,
    recalibrate_batch_norms,
    set_trainable,
)
from mien.training.transforms import Batch
from step_maker import FACES, ONES, TARGETS, compiled, equal, step, values
from training_maker import tiny_config

pytestmark = pytest.mark.usefixtures("keras_ready")


def network(*, blocks: int = -1, **changes: Any) -> Any:
    """A tiny untrained network."""
    built = build_model(tiny_config(**changes).model, size=32)
    set_trainable(built, blocks=blocks)
    return built


def test_averages_are_saved_and_training_continues_from_the_raw_weights() -> None:
    model = compiled(training_ema=0.8)
    step(model)
    averages = values(model.trainable_variables)
    for _ in range(3):
        step(model)
        raw = values(model.trainable_variables)
        averages = [0.8 * old + 0.2 * new for old, new in zip(averages, raw, strict=True)]
    kept = network()
    kept.set_weights(ema_weights(model))
    found = values(kept.trainable_variables)
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(found, averages, strict=True))
    assert not equal(found, raw)
    assert equal(values(model.trainable_variables), raw)


def test_without_averages_the_raw_weights_are_saved() -> None:
    model = compiled(training_ema=0.0)
    step(model)
    assert equal(ema_weights(model), inference_network(model).get_weights())
    assert not any("average" in variable.name for variable in model.optimizer.variables)


def test_changed_weights_are_interpolated_with_the_initial_ones() -> None:
    start, kept = network().get_weights(), network()
    trained = kept.get_weights()
    trained[0] = start[0]  # as in a frozen layer
    kept.set_weights(trained)
    interpolate_weights(kept, start, 0.7)
    for variable, first, own in zip(kept.weights, start, trained, strict=True):
        if np.array_equal(first, own):
            assert np.array_equal(variable.numpy(), own), variable.path
        else:
            assert np.allclose(variable.numpy(), 0.7 * own + 0.3 * first, atol=1e-6), variable.path


def brighter_batches(count: int) -> list[Batch]:
    """Batches of the same faces, each brighter than the one before."""
    return [Batch(FACES * (0.4 + 0.3 * n), TARGETS, ONES) for n in range(count)]


def statistics(model: Any, name: str) -> list[np.ndarray[Any, Any]]:
    return values(model.get_layer(name).non_trainable_variables)


@pytest.mark.parametrize("count", [1, 3])
def test_statistics_are_the_mean_over_the_batches(count: int) -> None:
    import keras

    model, batches = network(), brighter_batches(count)
    first = keras.Model(model.input, model.get_layer("block1_conv").output)
    outputs = [np.asarray(first(batch.faces)) for batch in batches]
    weights = values(model.trainable_variables)
    recalibrate_batch_norms(model, batches)
    mean, variance = statistics(model, "block1_bn")
    axes = (0, 1, 2)
    assert np.allclose(mean, np.mean([o.mean(axis=axes) for o in outputs], axis=0), atol=1e-4)
    assert np.allclose(variance, np.mean([o.var(axis=axes) for o in outputs], axis=0), rtol=1e-3)
    assert equal(values(model.trainable_variables), weights)
    assert model.get_layer("block1_bn").momentum == 0.8


def test_statistics_are_computed_without_dropout() -> None:
    units: dict[str, Any] = {"model_head_units": [8, 8]}
    dropping = network(model_head_dropout=[0.6, 0.6], **units)
    whole = network(model_head_dropout=[0.0, 0.0], **units)
    whole.set_weights(dropping.get_weights())
    found = []
    for model in (dropping, whole):
        recalibrate_batch_norms(model, brighter_batches(3))
        found.append(statistics(model, "head2_bn"))
    assert all(np.allclose(one, other, atol=1e-5) for one, other in zip(*found, strict=True))
    assert dropping.get_layer("head1_dropout").rate == 0.6


@pytest.mark.parametrize(("count", "changed"), [(0, False), (2, True)])
def test_frozen_layers_keep_their_statistics(count: int, changed: bool) -> None:
    frozen = network(blocks=0)
    before = {name: statistics(frozen, name) for name in ("block2_bn", "head1_bn")}
    recalibrate_batch_norms(frozen, brighter_batches(count))
    assert equal(statistics(frozen, "block2_bn"), before["block2_bn"])
    assert equal(statistics(frozen, "head1_bn"), before["head1_bn"]) != changed
