from __future__ import annotations

from typing import Any

import pytest

from mien.core.errors import ModelError
from mien.training.onnx_graph import keras_to_onnx
from network_maker import HEIGHT, WIDTH, Body, assert_as_in_keras, network


def _squeeze_and_excite(layers: Any, x: Any) -> Any:
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Reshape((1, 1, 4))(gate)
    gate = layers.Conv2D(2, 1, activation="swish")(gate)
    gate = layers.Conv2D(4, 1, activation="sigmoid")(gate)
    return layers.Multiply()([x, gate])


def _branches(layers: Any, x: Any) -> list[Any]:
    return [layers.Conv2D(4, 1)(x), layers.Activation("sigmoid")(x), x]


def _vector(layers: Any, x: Any) -> Any:
    x = layers.Dense(12, activation="relu")(layers.Flatten()(x))
    x = layers.BatchNormalization()(layers.Normalization()(x))
    return layers.Multiply()([layers.Concatenate()([x, x]), layers.Dense(24)(x)])


BODIES: dict[str, Body] = {
    "conv valid": lambda k, x: k.Conv2D(5, (3, 2))(x),
    "conv same": lambda k, x: k.Conv2D(5, (2, 4), padding="same")(x),
    "conv same, stride 2": lambda k, x: k.Conv2D(5, 3, strides=2, padding="same")(x),
    "conv same, strides 2 and 3": lambda k, x: k.Conv2D(5, (5, 2), (2, 3), padding="same")(x),
    "conv dilated": lambda k, x: k.Conv2D(5, 3, dilation_rate=2, padding="same")(x),
    "conv in groups": lambda k, x: k.Conv2D(6, 3, groups=2)(x),
    "conv without bias": lambda k, x: k.Conv2D(5, 1, use_bias=False, activation="swish")(x),
    "depthwise": lambda k, x: k.DepthwiseConv2D(3, padding="same", use_bias=False)(x),
    "depthwise, two each": lambda k, x: k.DepthwiseConv2D(5, 2, "same", depth_multiplier=2)(x),
    "batch norm": lambda k, x: k.BatchNormalization(epsilon=0.01)(x),
    "batch norm without scale": lambda k, x: k.BatchNormalization(scale=False)(x),
    "batch norm without centre": lambda k, x: k.BatchNormalization(center=False)(x),
    "zero padding": lambda k, x: k.ZeroPadding2D(((1, 2), (0, 3)))(x),
    "max pool": lambda k, x: k.MaxPooling2D(2)(x),
    "max pool same": lambda k, x: k.MaxPooling2D(3, strides=2, padding="same")(x),
    "average pool": lambda k, x: k.AveragePooling2D((3, 2), strides=1)(x),
    "average pool same": lambda k, x: k.AveragePooling2D(3, strides=2, padding="same")(x),
    "global pool": lambda k, x: k.GlobalAveragePooling2D()(x),
    "global pool, keepdims": lambda k, x: k.GlobalAveragePooling2D(keepdims=True)(x),
    "squeeze and excite": _squeeze_and_excite,
    "dropout": lambda k, x: k.Dropout(0.5)(x),
    "dropout of samples": lambda k, x: k.Dropout(0.5, noise_shape=(None, 1, 1, 1))(x),
    "rescaling": lambda k, x: k.Rescaling(0.3, 0.1)(x),
    "rescaling a channel": lambda k, x: k.Rescaling([1.0, 2.0, 0.5, -1.0], [0.1, 0, 1, 0])(x),
    "normalization": lambda k, x: k.Normalization()(x),
    "resizing up": lambda k, x: k.Resizing(23, 17)(x),
    "resizing down": lambda k, x: k.Resizing(7, 5)(x),
    "resizing to the same": lambda k, x: k.Resizing(HEIGHT, WIDTH)(x),
    "concatenate channels": lambda k, x: k.Concatenate()(_branches(k, x)),
    "concatenate rows": lambda k, x: k.Concatenate(axis=1)(_branches(k, x)),
    "concatenate columns": lambda k, x: k.Concatenate(axis=-2)(_branches(k, x)),
    "add": lambda k, x: k.Add()(_branches(k, x)),
    "multiply": lambda k, x: k.Multiply()(_branches(k, x)),
    "flatten": lambda k, x: k.Flatten()(x),
    "reshape to a plane": lambda k, x: k.Reshape((WIDTH, HEIGHT, 4))(x),
    "reshape to other channels": lambda k, x: k.Reshape((4, HEIGHT, WIDTH))(x),
    "reshape to a vector": lambda k, x: k.Reshape((-1,))(x),
    "reshape a vector": lambda k, x: k.Reshape((2, 1, 3))(k.Dense(6)(k.Flatten()(x))),
    "vectors": _vector,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_every_layer_gives_what_it_gives_in_keras(keras: Any, ort: Any, body: Body) -> None:
    assert_as_in_keras(keras, ort, body)


@pytest.mark.parametrize(
    "body",
    [
        lambda k, x: k.Dense(3, name="odd_one")(x),
        lambda k, x: k.BatchNormalization(axis=1, name="odd_one")(x),
        lambda k, x: k.Normalization(axis=1, name="odd_one")(x),
        lambda k, x: k.Normalization(mean=0.0, variance=2.0, name="odd_one")(x),
        lambda k, x: k.Rescaling([[[1.0]], [[2.0]]] * 4 + [[[1.0]]] * 3, name="odd_one")(x),
        lambda k, x: k.Resizing(9, 9, interpolation="nearest", name="odd_one")(x),
        lambda k, x: k.Resizing(9, 9, antialias=True, name="odd_one")(x),
        lambda k, x: k.Flatten()(k.Reshape((HEIGHT, WIDTH, 2, 2), name="odd_one")(x)),
        lambda k, x: k.Add(name="odd_one")([x, k.GlobalAveragePooling2D()(x)]),
    ],
)
def test_options_that_have_no_form_in_onnx_are_refused(keras: Any, body: Body) -> None:
    with pytest.raises(ModelError, match="'odd_one'"):
        keras_to_onnx(network(keras, body))
