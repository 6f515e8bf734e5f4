"""The faster layers compute what Keras' own do: outputs, gradients, statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mien.training.recipe import ModelSettings

pytestmark = pytest.mark.usefixtures("keras_ready")

RANDOM = np.random.default_rng(5)


def depthwise(size: int, kernel: int, stride: int, padding: str) -> Callable[[], Any]:
    """A function that builds the same network of one depthwise convolution each time."""
    import keras

    def make() -> Any:
        keras.utils.set_random_seed(3)
        inputs = keras.Input((size, size, 6))
        layer = keras.layers.DepthwiseConv2D(
            kernel, strides=stride, padding=padding, use_bias=False
        )
        return keras.Model(inputs, layer(inputs))

    return make


def norm() -> Any:
    """A network of one trained BatchNorm."""
    import keras

    inputs = keras.Input((5, 5, 6))
    model = keras.Model(inputs, keras.layers.BatchNormalization(momentum=0.9)(inputs))
    model.set_weights([np.linspace(0.5, 2.0, 6) + part for part in range(4)])
    return model


def gradients(model: Any, images: Any) -> list[Any]:
    """The output, and the gradients of a sum of it by the images and all weights."""
    import tensorflow

    images = tensorflow.constant(images)
    with tensorflow.GradientTape() as tape:
        tape.watch(images)
        outputs = model(images, training=True)
        weighed = outputs * np.cos(np.arange(np.prod(outputs.shape))).reshape(outputs.shape)
        total = tensorflow.reduce_sum(weighed)
    found = tape.gradient(total, [images, *(each.value for each in model.trainable_variables)])
    return [np.array(value) for value in (outputs, *found)]


def faster(model: Any) -> Any:
    from mien.training.keras_extensions import with_fast_layers

    return with_fast_layers(model)


def is_replaced(layer: Any) -> bool:
    return type(layer).__module__ == "mien.training.keras_extensions"


def assert_all_close(one: list[Any], other: list[Any], *, tolerance: float = 1e-4) -> None:
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("size", "kernel", "stride"), [
    (2, 5, 1), (2, 3, 1), (3, 5, 1), (5, 5, 2), (7, 5, 2), (8, 5, 1), (8, 5, 2),
])  # fmt: skip
def test_depthwise_convolutions_of_small_maps_have_the_outputs_and_gradients_of_keras(
    size: int, kernel: int, stride: int, padding: str
) -> None:
    if padding == "valid" and size < kernel:
        pytest.skip("the kernel is larger than what it sees")
    make = depthwise(size, kernel, stride, padding)
    plain, fast = make(), make()
    fast = faster(fast)
    assert is_replaced(fast.layers[1])
    images = RANDOM.normal(size=(4, size, size, 6)).astype(np.float32)
    assert_all_close(gradients(fast, images), gradients(plain, images))


@pytest.mark.parametrize(("size", "kernel"), [(16, 5), (8, 3)])
def test_fast_depthwise_convolutions_are_not_replaced(size: int, kernel: int) -> None:
    model = depthwise(size, kernel, 1, "same")()
    model = faster(model)
    assert not is_replaced(model.layers[1])


def test_tap_places_give_a_convolution_as_a_sum() -> None:
    row, taps = np.array([1.0, 10.0, 100.0, 1000.0]), np.array([1.0, 2.0, 3.0])
    image, kernel = np.outer(row, row).ravel(), np.outer(taps, taps).ravel()
    from mien.training.keras_extensions import tap_positions

    places = tap_positions(4, 2, kernel=3, stride=2, before=0)
    along = [1 + 20 + 300, 100 + 2000]
    sums = np.einsum("p,t,pot->o", image, kernel, places)
    np.testing.assert_allclose(sums, np.outer(along, along).ravel())


def test_batch_norm_has_the_outputs_gradients_and_statistics_of_keras() -> None:
    plain, fast = norm(), norm()
    fast = faster(fast)
    images = RANDOM.normal(2.0, 3.0, (7, 5, 5, 6)).astype(np.float32)
    for _ in range(3):
        assert_all_close(gradients(fast, images), gradients(plain, images))
    assert_all_close(fast.get_weights(), plain.get_weights())
    assert not np.allclose(fast.get_weights()[2], norm().get_weights()[2])
    assert_all_close([np.array(fast(images))], [np.array(plain(images))])


def test_a_frozen_batch_norm_uses_its_statistics_unchanged() -> None:
    model = norm()
    model = faster(model)
    model.layers[1].trainable = False
    images = RANDOM.normal(size=(3, 5, 5, 6)).astype(np.float32)
    np.testing.assert_array_equal(model(images, training=True), norm()(images))
    assert_all_close(model.get_weights(), norm().get_weights(), tolerance=0)


def test_changing_the_momentum_gives_the_mean_over_batches() -> None:
    model = norm()
    model = faster(model)
    batches = [RANDOM.normal(size=(2, 5, 5, 6)).astype(np.float32) for _ in range(3)]
    for seen, images in enumerate(batches):
        model.layers[1].momentum = seen / (seen + 1)
        model(images, training=True)
    means = np.mean([images.mean(axis=(0, 1, 2)) for images in batches], axis=0)
    np.testing.assert_allclose(model.get_weights()[2], means, atol=1e-5)


def test_gradients_of_a_step_in_efficientnet_are_those_of_keras() -> None:
    import keras

    from mien.training.architectures import update_normalization
    from mien.training.model import build_model

    settings = ModelSettings(weights="none", drop_connect=0.0, head_dropout=(0.0, 0.0))
    keras.utils.set_random_seed(1)
    plain = build_model(settings, size=64)
    fast = faster(plain)
    update_normalization(fast)
    assert sum(is_replaced(layer) for layer in fast.layers) == 49 + 9
    images = RANDOM.uniform(0, 255, (6, 48, 48, 1)).astype(np.float32)
    mine, theirs = (
        np.concatenate([part.ravel() for part in gradients(model, images)[1:]])
        for model in (fast, plain)
    )
    # As a whole: the shifts before another BatchNorm have no gradient but rounding's.
    assert np.linalg.norm(mine - theirs) < 1e-3 * np.linalg.norm(theirs)
