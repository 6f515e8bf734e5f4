"""The backbones: shape, size, blocks, input scaling, ImageNet weights, and conversion to ONNX."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.core.errors import InputError
from mien.training import architectures
from mien.training.architectures import APPLICATIONS, scaled
from mien.training.recipe import ModelSettings

FACES = np.random.default_rng(0).integers(0, 256, (4, 48, 48)).astype(np.uint8)
NARROW = 0.125
BLOCKS = {
    "Nano": ["block1", "block2", "block3", "block4"],
    "VGG": ["block1", "block2", "block3", "block4"],
    "ResNet18": [f"block{stage}{letter}" for stage in (1, 2, 3, 4) for letter in "ab"],
    "SEResNet18": [f"block{stage}{letter}" for stage in (1, 2, 3, 4) for letter in "ab"],
}

pytestmark = pytest.mark.usefixtures("keras_ready")


def build(backbone: str, **changes: Any) -> Any:
    from mien.training.model import build_model

    settings = ModelSettings(
        backbone=backbone, weights="none", input_size=48, head_units=(), head_dropout=()
    )
    return build_model(dataclasses.replace(settings, **changes), size=48)


def logits(model: Any) -> np.ndarray[Any, Any]:
    import keras

    part = keras.Model(model.input, model.get_layer("logits").output)
    return np.asarray(part(FACES[..., None].astype(np.float32), training=False))


def onnx_logits(model: Any) -> np.ndarray[Any, Any]:
    ort = pytest.importorskip("onnxruntime")
    from mien.training.onnx_converter import keras_to_onnx

    session = ort.InferenceSession(keras_to_onnx(model).SerializeToString())
    return np.asarray(session.run(["logits"], {"faces": FACES})[0])


def shaken(model: Any) -> Any:
    """The network with BatchNorm variables as after training, other than ones and zeros."""
    random = np.random.default_rng(1)
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            shape = layer.gamma.shape
            low = np.array([0.7, -0.3, -0.3, 0.7])[:, None]
            layer.set_weights(list(random.uniform(low, low + 0.6, (4, *shape))))
    return model


# ---------------------------------------------------------------- this project's own
def test_nano_has_less_than_a_million_weights_and_a_head_of_one_layer() -> None:
    model = build("Nano")
    assert 300_000 < model.count_params() < 1_000_000
    assert [layer.name for layer in model.layers[-3:]] == ["pool", "logits", "probabilities"]
    convolutions = [layer for layer in model.layers if type(layer).__name__ == "Conv2D"]
    # 16 channels to a register: what is less is computed as if it were more.
    assert {layer.filters % 16 for layer in convolutions} == {0}
    products = [np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:3])
                for layer in convolutions]  # fmt: skip
    assert sum(products) < 20e6


@pytest.mark.parametrize("backbone", sorted(BLOCKS))
def test_own_backbones_have_blocks_and_the_same_outputs_in_onnx(backbone: str) -> None:
    from mien.training.model import block_names, set_trainable

    model = shaken(build(backbone, width=NARROW, drop_connect=0.3))
    assert block_names(model) == BLOCKS[backbone]
    assert np.ptp(logits(model)) > 0.1
    assert np.allclose(onnx_logits(model), logits(model), atol=1e-4)
    drops = [layer.rate for layer in model.layers if layer.name.endswith("_drop")]
    assert drops == sorted(drops)
    assert drops == [] if backbone == "VGG" else drops[-1] == 0.3
    assert np.isfinite(model(FACES[..., None].astype(np.float32), training=True)).all()
    set_trainable(model, blocks=1)
    trained = {layer.name.split("_")[0] for layer in model.layers if layer.trainable_weights}
    assert trained == {BLOCKS[backbone][-1], "logits"}


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_branches_are_dropped_at_the_rate_during_training(rate: float, tmp_path: Path) -> None:
    import keras

    from mien.training.model import load_keras_model

    model = shaken(build("Nano", width=NARROW, drop_connect=rate))
    drop = model.get_layer("block3_drop")
    ones = np.ones((400, 2, 2, 3), np.float32)
    kept = np.asarray(keras.ops.convert_to_numpy(drop(ones, training=True)))
    # Whole images are kept or left out; what is kept makes up for what is not.
    shares = kept.reshape(400, -1)
    assert np.array_equal(shares.min(axis=1), shares.max(axis=1))
    assert (kept == 0).mean() == pytest.approx(rate, abs=0.08)
    model.save(tmp_path / "nano.keras")
    assert np.array_equal(logits(load_keras_model(tmp_path / "nano.keras")), logits(model))


def test_resnet34_has_its_sixteen_blocks() -> None:
    from mien.training.model import block_names

    names = block_names(build("ResNet34", width=NARROW))
    assert len(names) == 16
    assert (names[0], names[-1]) == ("block1a", "block4c")


def test_own_backbones_reduce_a_face_to_six_pixels_or_less_after_a_full_size_convolution() -> None:
    for backbone, side in {"Nano": 3, "VGG": 6, "ResNet18": 6}.items():
        model = build(backbone, width=NARROW)
        assert model.get_layer("pool").input.shape[1:3] == (side, side)
        first = next(layer for layer in model.layers if type(layer).__name__ == "Conv2D")
        assert first.output.shape[1:3] == (48, 48)


def test_the_gates_of_a_squeeze_and_excite_network_weigh_channels() -> None:
    model = build("SEResNet18", width=NARROW)
    before = logits(model)
    for layer in model.layers:
        if layer.name.endswith("_expand"):
            kernel, bias = layer.get_weights()
            layer.set_weights([0 * kernel, bias - 50])
    # Closed gates leave the ways around the blocks alone.
    assert not np.allclose(logits(model), before, atol=1e-3)


@pytest.mark.parametrize(("width", "factor", "expected"), [(64, 1, 64), (64, 1.5, 96), (8, 0.1, 8)])
def test_widths_are_scaled_to_multiples_of_eight(width: int, factor: float, expected: int) -> None:
    assert scaled(width, factor) == expected


def test_a_wider_network_has_more_channels() -> None:
    assert build("VGG", width=0.25).get_layer("pool").output.shape == (None, 128)


def test_own_backbones_scale_pixels_to_minus_one_to_one() -> None:
    import keras

    model = build("Nano", width=NARROW)
    seen = keras.Model(model.input, model.get_layer("stem_conv").input)
    assert np.allclose(np.asarray(seen(np.zeros((1, 48, 48, 1), np.float32))), -1)
    assert np.allclose(np.asarray(seen(np.full((1, 48, 48, 1), 255, np.float32))), 1)


# ---------------------------------------------------------------- Keras' applications
@pytest.mark.parametrize(
    ("backbone", "module"),
    [("ResNet50", "resnet"), ("DenseNet121", "densenet"), ("MobileNetV2", "mobilenet_v2")],
)
def test_pixels_are_scaled_as_the_weights_of_an_application_expect(
    backbone: str, module: str
) -> None:
    import keras

    grey = np.repeat(FACES[..., None].astype(np.float32), 3, axis=-1)
    expected = getattr(keras.applications, module).preprocess_input(grey.copy())
    application = APPLICATIONS[backbone]
    mean, deviation = np.asarray(application.mean), np.asarray(application.deviation)
    found = (grey - mean) / deviation
    assert np.allclose(found, expected, atol=1e-3)


def download_is(answer: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``answer`` stand in for the download of an ImageNet network."""
    build_network = architectures.build_application

    def build_or_answer(name: str, *, weights: str | None = None, images: Any = None) -> Any:
        return answer() if weights else build_network(name, images=images)

    monkeypatch.setattr(architectures, "build_application", build_or_answer)


def test_an_application_gets_its_weights_and_its_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    bare = {"include_top": False, "input_shape": (48, 48, 3)}
    source = shaken(keras.applications.MobileNetV2(weights=None, **bare))
    download_is(lambda: source, monkeypatch)
    ours = build("MobileNetV2", weights="imagenet")
    features = keras.Model(ours.input, ours.get_layer("pool").input)
    faces = FACES[..., None].astype(np.float32)
    colour = keras.applications.mobilenet_v2.preprocess_input(np.repeat(faces, 3, axis=-1))
    expected = np.asarray(source(colour, training=False))
    assert np.ptp(expected) > 0.1
    found = np.asarray(features(faces, training=False))
    assert np.allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_a_failed_download_names_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise OSError("no network")

    download_is(refuse, monkeypatch)
    with pytest.raises(InputError, match="cannot download ImageNet's weights of MobileNetV2"):
        build("MobileNetV2", weights="imagenet")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "count", "ends"),
    [
        ("EfficientNetV2B0", 21, ("block1a", "block6h")),
        ("ResNet50", 16, ("conv2_block1", "conv5_block3")),
        ("MobileNetV2", 17, ("expanded_conv", "block_16")),
        ("DenseNet121", 58, ("conv2_block1", "conv5_block16")),
    ],
)
def test_applications_have_blocks_and_the_same_outputs_in_onnx(
    backbone: str, count: int, ends: tuple[str, str]
) -> None:
    from mien.training.model import block_names

    model = build(backbone)
    names = block_names(model)
    assert len(names) == count
    assert (names[0], names[-1]) == ends
    expected = logits(model)
    assert np.allclose(onnx_logits(model), expected, atol=1e-4 * max(1, np.abs(expected).max()))
