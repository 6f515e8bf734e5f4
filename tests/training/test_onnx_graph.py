"""Keras is imported inside the tests only, so that collecting them costs nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.core.emotions import EMOTIONS
from mien.core.errors import ModelError
from mien.training.config import config_from_tables
from mien.training.onnx_graph import keras_to_onnx, load_onnx_weights, read_weights

HEIGHT, WIDTH = 11, 8
Body = Callable[[Any, Any], Any]
"""Takes ``keras.layers`` and a tensor (N, HEIGHT, WIDTH, 4), returns a tensor."""


@pytest.fixture(scope="module")
def keras() -> Any:
    pytest.importorskip("onnx")
    return pytest.importorskip("keras")


@pytest.fixture(scope="module")
def ort() -> Any:
    return pytest.importorskip("onnxruntime")


def _network(keras: Any, body: Body, *, seed: int = 0) -> Any:
    """Faces -> four channels of mixed sign -> the layers under test -> seven probabilities."""
    layers = keras.layers
    faces = layers.Input((HEIGHT, WIDTH, 1), name="faces")
    x = layers.Rescaling(1 / 64, -2)(faces)
    x = body(layers, layers.Conv2D(4, 3, padding="same", name="stem")(x))
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D()(x)
    logits = layers.Dense(len(EMOTIONS), name="logits")(x)
    model = keras.Model(faces, layers.Activation("softmax", name="probabilities")(logits))
    _randomise(model, seed)
    return model


def _randomise(model: Any, seed: int) -> None:
    """Give every weight a value of its own, so that none can stand in another's place."""
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


def _faces(count: int, height: int = HEIGHT, width: int = WIDTH) -> Any:
    return np.random.default_rng(count).integers(0, 256, (count, height, width)).astype(np.uint8)


def _run(ort: Any, proto: Any, faces: Any) -> tuple[Any, Any]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    logits, features = session.run(["logits", "features"], {"faces": faces})
    return logits, features


def _keras_values(keras: Any, model: Any, faces: Any) -> tuple[Any, Any]:
    """Logits, and the output of the last layer that gives a plane."""
    last = [layer.output for layer in model.layers if len(layer.output.shape) == 4][-1]
    parts = keras.Model(model.inputs[0], [model.get_layer("logits").output, last])
    values = parts(faces[..., None].astype(np.float32), training=False)
    logits, features = (keras.ops.convert_to_numpy(value) for value in values)
    return logits, features


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
    "linear": lambda k, x: k.Activation("linear")(x),
    "relu": lambda k, x: k.Activation("relu")(x),
    "relu6": lambda k, x: k.Activation("relu6")(k.Rescaling(9)(x)),
    "sigmoid": lambda k, x: k.Activation("sigmoid")(x),
    "swish": lambda k, x: k.Activation("swish")(x),
    "softmax of channels": lambda k, x: k.Activation("softmax")(x),
    "relu layer": lambda k, x: k.ReLU()(x),
    "relu layer with a limit": lambda k, x: k.ReLU(max_value=0.4)(x),
    "softmax layer": lambda k, x: k.Softmax()(x),
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
    model = _network(keras, body)
    faces = _faces(3)
    logits, features = _run(ort, keras_to_onnx(model), faces)
    expected_logits, expected_features = _keras_values(keras, model, faces)
    assert logits.std() > 1e-3
    np.testing.assert_allclose(logits, expected_logits, atol=2e-5)
    np.testing.assert_allclose(features, expected_features, atol=2e-5)


def _efficientnet(size: int = 48) -> Any:
    from mien.training.model import build_model

    tables = {"model": {"weights": "none", "input_size": size}}
    model = build_model(config_from_tables(tables).model, size=size)
    _randomise(model, 1)
    return model


def test_the_whole_network_gives_keras_probabilities_and_weighs_what_its_weights_do(
    keras: Any, ort: Any
) -> None:
    model = _efficientnet()
    proto = keras_to_onnx(model)
    for count in (1, 32):
        faces = _faces(count, 48, 48)
        logits, features = _run(ort, proto, faces)
        expected_logits, expected_features = _keras_values(keras, model, faces)
        assert features.shape == (count, 2, 2, 1280)
        np.testing.assert_allclose(logits, expected_logits, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(features, expected_features, rtol=1e-3, atol=1e-3)
    weights = 4 * model.count_params()
    assert weights < len(proto.SerializeToString()) < weights + 100_000


def test_any_size_of_batch_goes_through_also_none(keras: Any, ort: Any) -> None:
    proto = keras_to_onnx(_network(keras, _squeeze_and_excite))
    logits, features = _run(ort, proto, _faces(5))
    alone = np.concatenate([_run(ort, proto, face[None])[0] for face in _faces(5)])
    np.testing.assert_allclose(alone, logits, atol=1e-6)
    assert features.shape == (5, HEIGHT, WIDTH, 4)
    assert _run(ort, proto, _faces(5)[:0])[0].shape == (0, 7)


def test_the_file_says_what_it_is(keras: Any, ort: Any) -> None:
    proto = keras_to_onnx(_network(keras, BODIES["conv same"]), version="2.1.0")
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (faces,) = session.get_inputs()
    assert (faces.name, faces.type, faces.shape) == (
        "faces",
        "tensor(uint8)",
        ["batch", HEIGHT, WIDTH],
    )
    assert [(out.name, out.shape) for out in session.get_outputs()] == [
        ("logits", ["batch", 7]),
        ("features", ["batch", HEIGHT, WIDTH, 5]),
    ]
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["labels"]) == list(EMOTIONS)
    assert (notes["producer"], notes["version"]) == ("mien", "2.1.0")
    assert proto.producer_name == "mien"
    # What ONNX Runtime 1.18, the oldest that is allowed, can read.
    assert proto.ir_version <= 10
    assert proto.opset_import[0].version <= 21


@pytest.mark.usefixtures("keras")
def test_planes_are_turned_at_the_output_alone() -> None:
    kinds = [node.op_type for node in keras_to_onnx(_efficientnet()).graph.node]
    assert kinds.count("Transpose") == 1


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
    faces = _faces(4)
    logits, _ = _run(ort, keras_to_onnx(model), faces)
    np.testing.assert_allclose(logits, _keras_values(keras, model, faces)[0], atol=2e-5)


# ---------------------------------------------------------------- what is refused
def _own_class(layers: Any, x: Any) -> Any:
    class Dropout(layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any) -> Any:
            return 2 * inputs

    return Dropout(name="odd_one")(x)


def _used_twice(layers: Any, x: Any) -> Any:
    shared = layers.Conv2D(4, 3, padding="same")
    return layers.Flatten(name="odd_one")(shared(shared(x)))


@pytest.mark.parametrize(
    "body",
    [
        lambda k, x: k.LayerNormalization(name="odd_one")(x),
        lambda k, x: k.Activation("gelu", name="odd_one")(x),
        lambda k, x: k.Dense(3, activation=lambda y: 2 * y, name="odd_one")(k.Flatten()(x)),
        lambda k, x: k.Dense(3, name="odd_one")(x),
        lambda k, x: k.ReLU(negative_slope=0.1, name="odd_one")(x),
        lambda k, x: k.Softmax(axis=1, name="odd_one")(x),
        lambda k, x: k.BatchNormalization(axis=1, name="odd_one")(x),
        lambda k, x: k.Normalization(axis=1, name="odd_one")(x),
        lambda k, x: k.Normalization(mean=0.0, variance=2.0, name="odd_one")(x),
        lambda k, x: k.Rescaling([[[1.0]], [[2.0]]] * 4 + [[[1.0]]] * 3, name="odd_one")(x),
        lambda k, x: k.Resizing(9, 9, interpolation="nearest", name="odd_one")(x),
        lambda k, x: k.Resizing(9, 9, antialias=True, name="odd_one")(x),
        lambda k, x: k.Flatten()(k.Reshape((HEIGHT, WIDTH, 2, 2), name="odd_one")(x)),
        lambda k, x: k.Add(name="odd_one")([x, k.GlobalAveragePooling2D()(x)]),
        lambda k, x: k.Flatten(name="odd_one")(x + 1),
        _own_class,
        _used_twice,
    ],
)
def test_a_layer_that_has_no_form_in_onnx_is_named(keras: Any, body: Body) -> None:
    with pytest.raises(ModelError, match=r"'odd_one'.*expected layers among Activation, Add") as no:
        keras_to_onnx(_network(keras, body))
    assert "\n" not in str(no.value)


def test_a_network_with_other_ends_is_refused(keras: Any) -> None:
    layers = keras.layers
    faces = layers.Input((HEIGHT, WIDTH, 1))
    colour = layers.Input((HEIGHT, WIDTH, 3))
    any_size = layers.Input((None, None, 1))

    def ended(source: Any, units: int = 7, activation: str = "softmax") -> Any:
        pooled = layers.GlobalAveragePooling2D()(source)
        return keras.Model(source, layers.Activation(activation)(layers.Dense(units)(pooled)))

    for model, expected in [
        (ended(colour), "one input"),
        (ended(any_size), "one input"),
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
    model = _network(keras, _all_kinds)
    path = tmp_path / "model.onnx"
    path.write_bytes(keras_to_onnx(model).SerializeToString())
    return model, path


def test_the_file_gives_every_weight_back_bit_for_bit(
    keras: Any, exported: tuple[Any, Path]
) -> None:
    model, path = exported
    other = _network(keras, _all_kinds, seed=1)
    load_onnx_weights(path, other)
    for before, after in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy(), strict=True)
    faces = _faces(2)
    for one, two in zip(
        _keras_values(keras, model, faces), _keras_values(keras, other, faces), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_weights_have_their_names_and_shapes_of_keras(exported: tuple[Any, Path]) -> None:
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
def test_the_whole_network_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model, other = _efficientnet(48), _efficientnet(64)
    other.set_weights([np.zeros_like(value) for value in other.get_weights()])
    path = tmp_path / "model.onnx"
    path.write_bytes(keras_to_onnx(model).SerializeToString())
    load_onnx_weights(path, other)
    for before, after in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())


def test_the_bytes_depend_on_the_network_and_not_on_what_keras_built_before(keras: Any) -> None:
    one, two = _network(keras, _all_kinds), _network(keras, _all_kinds)
    assert [layer.name for layer in one.layers] != [layer.name for layer in two.layers]
    assert keras_to_onnx(one).SerializeToString() == keras_to_onnx(two).SerializeToString()


def test_weights_of_another_architecture_are_refused_and_nothing_is_changed(
    keras: Any, exported: tuple[Any, Path]
) -> None:
    def wider(layers: Any, x: Any) -> Any:
        x = _all_kinds(layers, x)
        return layers.Dense(5, name="another")(x)

    def narrower(layers: Any, x: Any) -> Any:
        return layers.Dense(5, use_bias=False)(layers.Flatten()(x))

    for body, expected in [
        (wider, "has no another/bias"),
        (narrower, "the network has no batch_normalization/beta"),
        (lambda k, x: _all_kinds(k, k.ZeroPadding2D(1)(x)), r"dense/kernel has shape \(2"),
    ]:
        other = _network(keras, body, seed=1)
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
