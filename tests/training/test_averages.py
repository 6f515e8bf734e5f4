"""What is evaluated and kept: averaged weights, with BatchNorm statistics of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mien.training.model import build_model
from mien.training.trainer import _trained, averaged_weights, recalibrated_statistics
from mien.training.transforms import Batch
from step_maker import FACES, ONES, TARGETS, compiled, equal, step, values
from training_maker import tiny_config

pytestmark = pytest.mark.usefixtures("keras_ready")


def test_averages_are_evaluated_and_training_goes_on_from_the_raw_weights() -> None:
    model = compiled(training_ema=0.8)
    step(model)
    averages = values(model.trainable_variables)
    for _ in range(3):
        step(model)
        raw = values(model.trainable_variables)
        averages = [0.8 * old + 0.2 * new for old, new in zip(averages, raw, strict=True)]
    with averaged_weights(model):
        inside = values(model.trainable_variables)
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(inside, averages, strict=True))
    assert not equal(inside, raw)
    assert equal(values(model.trainable_variables), raw)
    with pytest.raises(OSError, match="full"), averaged_weights(model):
        raise OSError("full")
    assert equal(values(model.trainable_variables), raw)


def test_a_share_of_the_starting_weights_is_mixed_into_the_averages_for_a_while() -> None:
    import keras

    model = compiled(training_ema=0.8)
    keras.utils.set_random_seed(1)  # as `compiled` does: the same start
    start = {
        name: np.array(variable.numpy())
        for name, variable in _trained(build_model(tiny_config().model, size=32)).items()
    }
    for _ in range(3):
        step(model)
    raw = values(model.trainable_variables)
    with averaged_weights(model):
        averages = values(model.trainable_variables)
    with averaged_weights(model, start=start, alpha=0.75):
        inside = values(model.trainable_variables)
        kernel = np.array(model.get_layer("block1_conv").kernel.numpy())
    assert equal(values(model.trainable_variables), raw)
    with averaged_weights(model, start=start, alpha=1e-9):
        begun = values(model.trainable_variables)
    for mixed, average, first in zip(inside, averages, begun, strict=True):
        assert np.allclose(mixed, 0.75 * average + 0.25 * first, atol=1e-5)
    assert not np.allclose(begun[0], averages[0], atol=1e-6)
    # What the start lacks, as a head that is dropped in the end, is the average alone.
    lacking = {name: array for name, array in start.items() if name[0] != "block1_conv"}
    with averaged_weights(model, start=lacking, alpha=0.75):
        alone = np.array(model.get_layer("block1_conv").kernel.numpy())
    assert not np.allclose(alone, kernel, atol=1e-7)
    assert any(np.allclose(alone, average) for average in averages if average.shape == alone.shape)


def brighter_batches(count: int) -> list[Batch]:
    """Batches of the same faces, ever brighter."""
    return [Batch(FACES * (0.4 + 0.3 * n), TARGETS, ONES) for n in range(count)]


def norms_of(model: Any) -> dict[str, list[np.ndarray[Any, Any]]]:
    names = ("block1_bn", "block2_bn", "head1_bn")
    return {name: values(model.get_layer(name).non_trainable_variables) for name in names}


def test_statistics_are_the_mean_over_the_batches_and_only_lent() -> None:
    import keras

    model = compiled(model_head_dropout=[0.0])
    before = norms_of(model)
    batches = brighter_batches(3)
    first = keras.Model(model.input, model.get_layer("block1_conv").output)
    outputs = [np.asarray(first(batch.faces)) for batch in batches]
    with recalibrated_statistics(model, iter(batches), count=9):
        inside = norms_of(model)
    mean, variance = inside["block1_bn"]
    axes = (0, 1, 2)
    assert np.allclose(mean, np.mean([o.mean(axis=axes) for o in outputs], axis=0), atol=1e-4)
    assert np.allclose(variance, np.mean([o.var(axis=axes) for o in outputs], axis=0), rtol=1e-3)
    assert not equal(inside["head1_bn"], before["head1_bn"])
    assert all(equal(norms_of(model)[name], before[name]) for name in before)
    assert model.get_layer("block1_bn").momentum == 0.8
    with recalibrated_statistics(model, iter(batches), count=1):
        fewer = norms_of(model)
    assert np.allclose(fewer["block1_bn"][0], outputs[0].mean(axis=axes), atol=1e-4)


def test_statistics_are_those_of_reading_without_dropout() -> None:
    units: dict[str, Any] = {"model_head_units": [8, 8]}
    dropping = compiled(model_head_dropout=[0.6, 0.6], **units)
    whole = compiled(model_head_dropout=[0.0, 0.0], **units)
    whole.set_weights(dropping.get_weights())
    found = []
    for model in (dropping, whole):
        with recalibrated_statistics(model, iter(brighter_batches(3)), count=3):
            found.append(values(model.get_layer("head2_bn").non_trainable_variables))
    assert all(np.allclose(one, other, atol=1e-5) for one, other in zip(*found, strict=True))
    assert dropping.get_layer("head1_dropout").rate == 0.6


def test_statistics_come_back_after_an_error_too() -> None:
    model = compiled()
    before = norms_of(model)
    with (
        pytest.raises(OSError, match="full"),
        recalibrated_statistics(model, iter(brighter_batches(2)), count=2),
    ):
        raise OSError("full")
    assert all(equal(norms_of(model)[name], before[name]) for name in before)


def test_statistics_are_left_alone_where_frozen_off_or_without_averages() -> None:
    frozen = compiled(0)
    before = norms_of(frozen)
    with recalibrated_statistics(frozen, iter(brighter_batches(2)), count=2):
        inside = norms_of(frozen)
    assert equal(inside["block2_bn"], before["block2_bn"])
    assert not equal(inside["head1_bn"], before["head1_bn"])
    for model, count in ((frozen, 0), (compiled(training_ema=0.0), 2)):
        before = norms_of(model)
        with recalibrated_statistics(model, iter(brighter_batches(2)), count=count):
            assert all(equal(norms_of(model)[name], before[name]) for name in before)


def test_without_averages_the_weights_themselves_are_evaluated() -> None:
    model = compiled(training_ema=0.0)
    raw = values(model.trainable_variables)
    with averaged_weights(model):
        assert equal(values(model.trainable_variables), raw)
    assert not any("average" in variable.name for variable in model.optimizer.variables)
