from __future__ import annotations

from typing import Any

import pytest

from mien.core.errors import ModelError
from mien.training.onnx_graph import keras_to_onnx
from network_maker import Body, assert_as_in_keras, network

BODIES: dict[str, Body] = {
    "linear": lambda k, x: k.Activation("linear")(x),
    "relu": lambda k, x: k.Activation("relu")(x),
    "relu6": lambda k, x: k.Activation("relu6")(k.Rescaling(9)(x)),
    "sigmoid": lambda k, x: k.Activation("sigmoid")(x),
    "swish": lambda k, x: k.Activation("swish")(x),
    "softmax of channels": lambda k, x: k.Activation("softmax")(x),
    "relu layer": lambda k, x: k.ReLU()(x),
    "relu layer with a limit": lambda k, x: k.ReLU(max_value=0.4)(x),
    "softmax layer": lambda k, x: k.Softmax()(x),
    "inside a layer": lambda k, x: k.Conv2D(5, 1, activation="relu6")(k.Rescaling(9)(x)),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_every_activation_gives_what_it_gives_in_keras(keras: Any, ort: Any, body: Body) -> None:
    assert_as_in_keras(keras, ort, body)


def _of_its_own(layers: Any, x: Any) -> Any:
    return layers.Dense(3, activation=lambda y: 2 * y, name="odd_one")(layers.Flatten()(x))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (lambda k, x: k.Activation("gelu", name="odd_one")(x), "activation 'gelu'"),
        (_of_its_own, "activation '<lambda>'"),
        (lambda k, x: k.ReLU(negative_slope=0.1, name="odd_one")(x), "a slope or threshold"),
        (lambda k, x: k.Softmax(axis=1, name="odd_one")(x), "axis 1"),
    ],
)
def test_an_activation_that_has_no_form_in_onnx_is_refused(
    keras: Any, body: Body, why: str
) -> None:
    with pytest.raises(ModelError, match=rf"'odd_one' \(\w+: {why}"):
        keras_to_onnx(network(keras, body))
