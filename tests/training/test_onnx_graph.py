"""Keras is imported inside the tests only, so that collecting them costs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.core.emotions import EMOTIONS
from mien.core.errors import ModelError
from mien.training.config import config_from_tables
from mien.training.onnx_graph import keras_to_onnx, load_onnx_weights, read_weights
from network_maker import (
    HEIGHT,
    WIDTH,
    Body,
    draw_faces,
    keras_values,
    network,
    randomise,
    run_onnx,
)


def _efficientnet(size: int = 48) -> Any:
    from mien.training.model import build_model

    tables = {"model": {"weights": "none", "input_size": size}}
    model = build_model(config_from_tables(tables).model, size=size)
    randomise(model, 1)
    return model


def test_the_whole_network_gives_keras_probabilities_and_weighs_what_its_weights_do(
    keras: Any, ort: Any
) -> None:
    model = _efficientnet()
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


def _gated(layers: Any, x: Any) -> Any:
    gate = layers.Reshape((1, 1, 4))(layers.GlobalAveragePooling2D()(x))
    return layers.Multiply()([x, gate])


def _five_channels(layers: Any, x: Any) -> Any:
    return layers.Conv2D(5, 3, padding="same")(x)


def test_any_size_of_batch_goes_through_also_none(keras: Any, ort: Any) -> None:
    proto = keras_to_onnx(network(keras, _gated))
    logits, features = run_onnx(ort, proto, draw_faces(5))
    alone = np.concatenate([run_onnx(ort, proto, face[None])[0] for face in draw_faces(5)])
    np.testing.assert_allclose(alone, logits, atol=1e-6)
    assert features.shape == (5, HEIGHT, WIDTH, 4)
    assert run_onnx(ort, proto, draw_faces(5)[:0])[0].shape == (0, 7)


def test_the_file_says_what_it_is(keras: Any, ort: Any) -> None:
    proto = keras_to_onnx(network(keras, _five_channels), version="2.1.0")
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
    faces = draw_faces(4)
    logits, _ = run_onnx(ort, keras_to_onnx(model), faces)
    np.testing.assert_allclose(logits, keras_values(keras, model, faces)[0], atol=2e-5)


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
        lambda k, x: k.Dense(3, name="odd_one")(x),
        lambda k, x: k.Flatten(name="odd_one")(x + 1),
        _own_class,
        _used_twice,
    ],
)
def test_a_layer_that_has_no_form_in_onnx_is_named(keras: Any, body: Body) -> None:
    with pytest.raises(ModelError, match=r"'odd_one'.*expected layers among Activation, Add") as no:
        keras_to_onnx(network(keras, body))
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
    model = network(keras, _all_kinds)
    path = tmp_path / "model.onnx"
    path.write_bytes(keras_to_onnx(model).SerializeToString())
    return model, path


def test_the_file_gives_every_weight_back_bit_for_bit(
    keras: Any, exported: tuple[Any, Path]
) -> None:
    model, path = exported
    other = network(keras, _all_kinds, seed=1)
    load_onnx_weights(path, other)
    for before, after in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy(), strict=True)
    faces = draw_faces(2)
    for one, two in zip(
        keras_values(keras, model, faces), keras_values(keras, other, faces), strict=True
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
    one, two = network(keras, _all_kinds), network(keras, _all_kinds)
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
