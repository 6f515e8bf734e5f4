"""Keras networks and their ONNX form give the same; weights come back bit for bit.

Keras is imported inside the tests only, so that collecting them costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.core.emotions import EMOTIONS
from mien.core.errors import ModelError
from mien.training.onnx_converter import keras_to_onnx, load_onnx_weights, read_weights
from mien.training.recipe import config_from_tables

HEIGHT, WIDTH = 11, 8
Body = Callable[[Any, Any], Any]
"""Takes ``keras.layers`` and a tensor (N, HEIGHT, WIDTH, 4), returns a tensor."""


def network(keras: Any, body: Body, *, seed: int = 0) -> Any:
    """Faces -> four channels of mixed sign -> the layers under test -> seven probabilities."""
    layers = keras.layers
    faces = layers.Input((HEIGHT, WIDTH, 1), name="faces")
    x = layers.Rescaling(1 / 64, -2)(faces)
    x = body(layers, layers.Conv2D(4, 3, padding="same", name="stem")(x))
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D()(x)
    logits = layers.Dense(len(EMOTIONS), name="logits")(x)
    model = keras.Model(faces, layers.Activation("softmax", name="probabilities")(logits))
    randomise(model, seed)
    return model


def efficientnet(size: int = 48) -> Any:
    from mien.training.model import build_model

    tables = {"model": {"weights": "none", "input_size": size}}
    model = build_model(config_from_tables(tables).model, size=size)
    randomise(model, 1)
    return model


def randomise(model: Any, seed: int) -> None:
    """Give every weight a different value, so that a mix-up is noticed."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        for variable in layer.weights:
            if variable.name == "count":
                continue
            shape = tuple(variable.shape)
            positive = variable.name in ("variance", "moving_variance", "gamma")
            reach = 1.5 / max(1, int(np.prod(shape[:-1]))) ** 0.5
            low, high = (0.5, 2.0) if positive else (-reach, reach)
            variable.assign(random.uniform(low, high, shape).astype(np.float32))
        if type(layer).__name__ == "Normalization":
            layer.finalize_state()


def draw_faces(count: int, height: int = HEIGHT, width: int = WIDTH) -> Any:
    return np.random.default_rng(count).integers(0, 256, (count, height, width)).astype(np.uint8)


def run_onnx(ort: Any, proto: Any, faces: Any) -> tuple[Any, Any]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    logits, features = session.run(["logits", "features"], {"faces": faces})
    return logits, features


def keras_values(keras: Any, model: Any, faces: Any) -> tuple[Any, Any]:
    """Logits, and the output of the last layer that gives a plane."""
    last = [layer.output for layer in model.layers if len(layer.output.shape) == 4][-1]
    parts = keras.Model(model.inputs[0], [model.get_layer("logits").output, last])
    values = parts(faces[..., None].astype(np.float32), training=False)
    logits, features = (keras.ops.convert_to_numpy(value) for value in values)
    return logits, features


# ---------------------------------------------------------------- each layer
def _gate(layers: Any, x: Any) -> Any:
    gate = layers.Reshape((1, 1, 4))(layers.GlobalAveragePooling2D()(x))
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
    "conv same, strides wider than it": lambda k, x: k.Conv2D(5, 1, 4, padding="same")(x),
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
    "squeeze and excite": _gate,
    "dropout": lambda k, x: k.Dropout(0.5)(x),
    "dropout of samples": lambda k, x: k.Dropout(0.5, noise_shape=(None, 1, 1, 1))(x),
    "rescaling": lambda k, x: k.Rescaling(0.3, 0.1)(x),
    "rescaling a channel": lambda k, x: k.Rescaling([1.0, 2.0, 0.5, -1.0], [0.1, 0, 1, 0])(x),
    "normalization": lambda k, x: k.Normalization()(x),
    "resizing up": lambda k, x: k.Resizing(23, 17)(x),
    "resizing down": lambda k, x: k.Resizing(7, 5)(x),
    "resizing to the same": lambda k, x: k.Resizing(HEIGHT, WIDTH)(x),
    "concatenate channels": lambda k, x: k.Concatenate()(_branches(k, x)),
    "add": lambda k, x: k.Add()(_branches(k, x)),
    "multiply": lambda k, x: k.Multiply()(_branches(k, x)),
    "flatten": lambda k, x: k.Flatten()(x),
    "reshape to a vector": lambda k, x: k.Reshape((-1,))(x),
    "reshape a plane to 1x1": lambda k, x: k.Reshape((1, 1, -1))(x),
    "vectors": _vector,
    "linear": lambda k, x: k.Activation("linear")(x),
    "relu": lambda k, x: k.Activation("relu")(x),
    "relu6": lambda k, x: k.Activation("relu6")(k.Rescaling(9)(x)),
    "sigmoid": lambda k, x: k.Activation("sigmoid")(x),
    "swish": lambda k, x: k.Activation("swish")(x),
    "relu layer": lambda k, x: k.ReLU()(x),
    "relu layer with a limit": lambda k, x: k.ReLU(max_value=0.4)(x),
    "activation of a layer": lambda k, x: k.Conv2D(5, 1, activation="relu6")(k.Rescaling(9)(x)),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_every_layer_gives_the_outputs_of_keras(keras: Any, ort: Any, body: Body) -> None:
    model = network(keras, body)
    faces = draw_faces(3)
    logits, features = run_onnx(ort, keras_to_onnx(model), faces)
    expected_logits, expected_features = keras_values(keras, model, faces)
    assert logits.std() > 1e-3
    np.testing.assert_allclose(logits, expected_logits, atol=2e-5)
    np.testing.assert_allclose(features, expected_features, atol=2e-5)


def _own_class(layers: Any, x: Any) -> Any:
    class Dropout(layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any) -> Any:
            return 2 * inputs

    return Dropout(name="odd_one")(x)


def _used_twice(layers: Any, x: Any) -> Any:
    shared = layers.Conv2D(4, 3, padding="same")
    return layers.Flatten(name="odd_one")(shared(shared(x)))


def _own_activation(layers: Any, x: Any) -> Any:
    return layers.Dense(3, activation=lambda y: 2 * y, name="odd_one")(layers.Flatten()(x))


def _of_two_ranks(layers: Any, x: Any) -> Any:
    return layers.Add(name="odd_one")([x, layers.GlobalAveragePooling2D()(x)])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (lambda k, x: k.LayerNormalization(name="odd_one")(x), ""),
        (_own_class, ""),
        (_used_twice, "its input comes from keras.ops, or from a layer used more than once"),
        (lambda k, x: k.Flatten(name="odd_one")(x + 1), "its input comes from keras.ops"),
        (lambda k, x: k.Dense(3, name="odd_one")(x), r"its input has shape \(11, 8, 4\)"),
        (lambda k, x: k.BatchNormalization(axis=1, name="odd_one")(x), "axis 1"),
        (lambda k, x: k.Normalization(axis=1, name="odd_one")(x), "only adapted statistics"),
        (lambda k, x: k.Normalization(mean=0.0, variance=2.0, name="odd_one")(x), "only adapted"),
        (lambda k, x: k.Rescaling([[[1.0]] * 8] * 11, name="odd_one")(x), "other than one number"),
        (lambda k, x: k.Resizing(9, 9, "nearest", name="odd_one")(x), "interpolation nearest"),
        (lambda k, x: k.Resizing(9, 9, antialias=True, name="odd_one")(x), ".*antialias"),
        (
            lambda k, x: k.Flatten()(k.Reshape((HEIGHT, WIDTH, 2, 2), name="odd_one")(x)),
            r"from \(11, 8, 4\) to",
        ),
        (lambda k, x: k.Reshape((WIDTH, HEIGHT, 4), name="odd_one")(x), r"from \(11, 8, 4\) to"),
        (lambda k, x: k.Concatenate(1, name="odd_one")([x, x]), "axis 1"),
        (_of_two_ranks, r"inputs of ranks \[2, 4\]"),
        (lambda k, x: k.Activation("gelu", name="odd_one")(x), "activation 'gelu'"),
        (_own_activation, "activation '<lambda>'"),
        (lambda k, x: k.ReLU(negative_slope=0.1, name="odd_one")(x), "a slope or threshold"),
    ],
)
def test_unsupported_layers_are_named(keras: Any, body: Body, why: str) -> None:
    expected = rf"'odd_one' \(\w+(: )?{why}.*expected layers among Activation, Add"
    with pytest.raises(ModelError, match=expected) as caught:
        keras_to_onnx(network(keras, body))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the whole network
def test_the_network_gives_the_logits_of_keras_and_the_file_has_the_size_of_its_weights(
    keras: Any, ort: Any
) -> None:
    model = efficientnet()
    proto = keras_to_onnx(model)
    for count in (1, 32):
        faces = draw_faces(count, 48, 48)
        logits, features = run_onnx(ort, proto, faces)
        expected_logits, expected_features = keras_values(keras, model, faces)
        assert features.shape == (count, 2, 2, 1280)
        np.testing.assert_allclose(logits, expected_logits, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(features, expected_features, rtol=1e-3, atol=1e-3)
    weights = 4 * model.count_params()
    assert weights < len(proto.SerializeToString()) < weights + 100_000
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("Transpose") == 1, "feature maps are turned at the output alone"


def test_any_batch_size_works_even_zero(keras: Any, ort: Any) -> None:
    proto = keras_to_onnx(network(keras, _gate))
    logits, features = run_onnx(ort, proto, draw_faces(5))
    alone = np.concatenate([run_onnx(ort, proto, face[None])[0] for face in draw_faces(5)])
    np.testing.assert_allclose(alone, logits, atol=1e-6)
    assert features.shape == (5, HEIGHT, WIDTH, 4)
    assert run_onnx(ort, proto, draw_faces(5)[:0])[0].shape == (0, 7)


def test_the_file_has_metadata(keras: Any, ort: Any) -> None:
    model = network(keras, lambda k, x: k.Conv2D(5, 3, padding="same")(x))
    proto = keras_to_onnx(model, version="2.1.0")
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    ends = [
        (end.name, end.type, end.shape) for end in (*session.get_inputs(), *session.get_outputs())
    ]
    assert ends == [
        ("faces", "tensor(uint8)", ["batch", HEIGHT, WIDTH]),
        ("logits", "tensor(float)", ["batch", 7]),
        ("features", "tensor(float)", ["batch", HEIGHT, WIDTH, 5]),
    ]
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["labels"]) == list(EMOTIONS)
    assert (notes["producer"], notes["version"]) == ("mien", "2.1.0")
    # What ONNX Runtime 1.18, the oldest that is allowed, can read.
    assert proto.ir_version <= 10
    assert proto.opset_import[0].version <= 21


def test_a_sequential_network_is_converted_too(keras: Any, ort: Any) -> None:
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((HEIGHT, WIDTH, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(7, name="logits"),
            layers.Softmax(),
        ]
    )
    faces = draw_faces(4)
    logits, _ = run_onnx(ort, keras_to_onnx(model), faces)
    np.testing.assert_allclose(logits, keras_values(keras, model, faces)[0], atol=2e-5)


def test_a_network_with_other_inputs_or_outputs_is_refused(keras: Any) -> None:
    layers = keras.layers
    faces = layers.Input((HEIGHT, WIDTH, 1))

    def ended(source: Any, units: int = 7, activation: str = "softmax") -> Any:
        pooled = layers.GlobalAveragePooling2D()(source)
        return keras.Model(source, layers.Activation(activation)(layers.Dense(units)(pooled)))

    for model, expected in [
        (ended(layers.Input((HEIGHT, WIDTH, 3))), "one input"),
        (ended(layers.Input((None, None, 1))), "one input"),
        (ended(faces, units=8), r"one output \(N, 7\)"),
        (ended(faces, activation="sigmoid"), "a softmax at its end"),
    ]:
        with pytest.raises(ModelError, match=f"expected {expected}"):
            keras_to_onnx(model)


# ---------------------------------------------------------------- and back
def _all_kinds(layers: Any, x: Any) -> Any:
    x = layers.Normalization()(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(6, (3, 2), groups=2)(x)
    x = layers.BatchNormalization(center=False)(x)
    return layers.Dense(5, use_bias=False)(layers.Flatten()(layers.Dropout(0.5)(x)))


@pytest.fixture
def exported(keras: Any, tmp_path: Path) -> tuple[Any, Path]:
    model = network(keras, _all_kinds)
    path = tmp_path / "model.onnx"
    path.write_bytes(keras_to_onnx(model).SerializeToString())
    return model, path


def test_every_weight_is_read_back_exactly(keras: Any, exported: tuple[Any, Path]) -> None:
    model, path = exported
    other = network(keras, _all_kinds, seed=1)
    load_onnx_weights(path, other)
    for before, after in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy(), strict=True)
    values = [keras_values(keras, each, draw_faces(2)) for each in (model, other)]
    for one, two in zip(*values, strict=True):
        np.testing.assert_array_equal(one, two)


def test_weights_have_the_names_and_shapes_of_keras(exported: tuple[Any, Path]) -> None:
    shapes = {name: value.shape for name, value in read_weights(exported[1]).items()}
    assert shapes["stem/kernel"] == (3, 3, 1, 4)
    assert shapes["depthwise_conv2d/kernel"] == (3, 3, 4, 2)
    assert shapes["conv2d/kernel"] == (3, 2, 4, 6)
    assert shapes["batch_normalization/moving_variance"] == (8,)
    assert shapes["batch_normalization_1/gamma"] == (6,)
    assert shapes["normalization/mean"] == (4,)
    assert shapes["logits/kernel"] == (5, 7)
    assert "batch_normalization_1/beta" not in shapes


@pytest.mark.usefixtures("keras")
def test_the_network_is_read_back_at_another_input_size(tmp_path: Path) -> None:
    model, other = efficientnet(48), efficientnet(64)
    other.set_weights([np.zeros_like(value) for value in other.get_weights()])
    path = tmp_path / "model.onnx"
    path.write_bytes(keras_to_onnx(model).SerializeToString())
    load_onnx_weights(path, other)
    for before, after in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())


def test_the_bytes_depend_on_the_network_and_not_on_what_keras_built_before(keras: Any) -> None:
    one, two = network(keras, _all_kinds), network(keras, _all_kinds)
    assert [layer.name for layer in one.layers] != [layer.name for layer in two.layers]
    assert keras_to_onnx(one).SerializeToString() == keras_to_onnx(two).SerializeToString()


def _wider(layers: Any, x: Any) -> Any:
    return layers.Dense(5, name="another")(_all_kinds(layers, x))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (_wider, "has no another/bias"),
        (
            lambda k, x: k.Dense(5, use_bias=False)(k.Flatten()(x)),
            "the network has no batch_normalization/beta",
        ),
        (lambda k, x: _all_kinds(k, k.ZeroPadding2D(1)(x)), r"dense/kernel has shape \(2"),
    ],
)
def test_weights_of_another_architecture_are_refused_and_nothing_is_changed(
    keras: Any, exported: tuple[Any, Path], body: Body, expected: str
) -> None:
    other = network(keras, body, seed=1)
    before = other.get_weights()
    with pytest.raises(ModelError, match=expected):
        load_onnx_weights(exported[1], other)
    for old, new in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.usefixtures("keras")
def test_what_is_not_an_exported_network_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="cannot read"):
        read_weights(tmp_path / "nowhere.onnx")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff not a model")
    with pytest.raises(ModelError, match="damaged or not an ONNX file"):
        read_weights(path)
    with pytest.raises(ModelError, match="holds no weights of Keras layers"):
        read_weights(tiny_model / "model.onnx")
