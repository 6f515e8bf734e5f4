"""A Keras network and its copy in PyTorch say the same, and weights go there and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data_maker import make_tiny_split
from mien.core.errors import ModelError
from mien.training.recipe import ModelSettings

torch = pytest.importorskip("torch")

from lab.gpu.network import (  # noqa: E402
    Network,
    arrays_of,
    load_arrays,
    plan_of,
    set_weights,
    weights_of,
)

FACES = make_tiny_split("train", per_class=2).images
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Plain": {"plain_channels": (4, 8)},
    "Nano": {},
    "VGG": {"width": 0.25},
    "ResNet18": {"width": 0.25},
    "SEResNet18": {"width": 0.25},
    "EfficientNetB0": {},
}


def built(backbone: str, size: int, **changes: Any) -> Any:
    """Return a network whose every weight is random, statistics of BatchNorm included."""
    from mien.training.architectures import update_normalization
    from mien.training.model import build_model

    options = {"head_units": (8,), "head_dropout": (0.2,), **ARCHITECTURES[backbone], **changes}
    model = build_model(ModelSettings(backbone=backbone, weights="none", **options), size=size)
    random = np.random.default_rng(1)
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "BatchNormalization":
            arrays = layer.get_weights()
            drawn = [random.uniform(0.5, 1.5, array.shape) for array in arrays]
            layer.set_weights([drawn[0], drawn[1] - 1, (drawn[2] - 1) / 4, drawn[3]])
    update_normalization(model)
    return model


def copy_of(model: Any, size: int) -> Network:
    network = Network(plan_of(model), size=size)
    load_arrays(network, weights_of(model))
    network.eval()
    return network


def outputs_of(network: Network) -> Any:
    with torch.no_grad():
        return network(torch.from_numpy(FACES[:, None].copy()).float()).softmax(1).numpy()


def keras_outputs(model: Any, *, training: bool = False) -> Any:
    return np.asarray(model(FACES[..., None].astype(np.float32), training=training))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("Plain", 32),
        ("Plain", 45),
        ("Nano", 48),
        ("VGG", 48),
        ("ResNet18", 48),
        ("SEResNet18", 48),
        ("EfficientNetB0", 64),
        ("EfficientNetB0", 75),
    ],
)
def test_the_copy_has_the_outputs_of_the_network(
    keras_ready: None, backbone: str, size: int
) -> None:
    model = built(backbone, size)
    assert np.allclose(outputs_of(copy_of(model, size)), keras_outputs(model), atol=2e-5)


def test_the_copy_trains_on_the_statistics_of_its_batch(keras_ready: None) -> None:
    model = built("Plain", 40, head_dropout=(0.0,), drop_connect=0.0, batch_norm_momentum=0.8)
    network = copy_of(model, 40).train()
    assert np.allclose(outputs_of(network), keras_outputs(model, training=True), atol=2e-5)
    mine, theirs = arrays_of(network), weights_of(model)
    norms = [layer.name for layer in model.layers if "BatchNorm" in type(layer).__name__]
    for name in norms:
        assert np.allclose(mine[f"{name}/2"], theirs[f"{name}/2"], atol=1e-4)
        # PyTorch takes the variance of a sample, N / (N - 1).
        assert np.allclose(mine[f"{name}/3"], theirs[f"{name}/3"], rtol=0.05)


def test_weights_survive_the_round_trip(keras_ready: None) -> None:
    model = built("SEResNet18", 48)
    before = weights_of(model)
    arrays = arrays_of(copy_of(model, 48))
    other = built("SEResNet18", 40)  # of another size, and with other weights
    set_weights(other, arrays)
    after = weights_of(other)
    assert set(after) == set(before)
    for name, array in before.items():
        if name != "normalization/2":  # a count of images that is not used
            assert np.array_equal(after[name], array), name
    assert np.allclose(keras_outputs(other), outputs_of(copy_of(model, 40)), atol=2e-5)


def test_the_input_scaling_is_copied(keras_ready: None) -> None:
    from mien.training.architectures import set_input_scaling
    from mien.training.model import build_model

    settings = ModelSettings(backbone="Plain", weights="none", plain_channels=(4,))
    model, other = (build_model(settings, size=32) for _ in range(2))
    set_input_scaling(model, mean=100.0, deviation=40.0)
    set_weights(other, arrays_of(copy_of(model, 32)))
    assert np.array_equal(keras_outputs(other), keras_outputs(model))


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean() -> None:
    plan: list[dict[str, Any]] = [
        {"name": "faces", "kind": "InputLayer", "inputs": [], "shape": [48, 48, 1]},
        {
            "name": "drop",
            "kind": "Dropout",
            "inputs": ["faces"],
            "shape": [48, 48, 1],
            "rate": 0.25,
            "noise_shape": [None, 1, 1, 1],
        },
    ]
    network = Network(plan, size=48)
    torch.manual_seed(0)
    dropped = network.train()(torch.ones(4000, 1, 2, 2))
    kept = dropped.flatten(1)
    assert ((kept == 0).all(1) | (kept == 1 / 0.75).all(1)).all()
    assert float(kept.mean()) == pytest.approx(1, abs=0.03)
    assert (network.eval()(torch.ones(5, 1, 2, 2)) == 1).all()


@pytest.mark.parametrize("name", ["AveragePooling2D", "gelu"])
def test_an_unsupported_layer_is_an_error(keras_ready: None, name: str) -> None:
    import keras

    layers = keras.layers
    layer = layers.Activation(name) if name == "gelu" else layers.AveragePooling2D(2)
    faces = keras.Input((48, 48, 1))
    with pytest.raises(ModelError, match=f"{name} is not supported by this engine: expected"):
        plan_of(keras.Model(faces, layer(faces)))


def test_weights_of_another_network_are_refused(keras_ready: None) -> None:
    arrays = arrays_of(copy_of(built("Plain", 32), 32))
    with pytest.raises(ModelError, match="these weights are from another network"):
        set_weights(built("Plain", 32, plain_channels=(4, 9)), arrays)
    with pytest.raises(ModelError, match="these weights are from another network"):
        set_weights(built("Nano", 32), arrays)
