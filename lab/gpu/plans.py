"""A Keras network written down so that it can be built without Keras, and its weights beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import ModelError

Arrays = dict[str, npt.NDArray[np.float32]]
"""Weights by "layer/place", in Keras' order and layout."""

_KEPT = {
    "InputLayer": (),
    "Resizing": (),
    "Concatenate": (),
    "Rescaling": ("scale", "offset"),
    "Normalization": (),
    "ZeroPadding2D": (),
    "Conv2D": ("filters", "kernel_size", "strides", "use_bias", "activation"),
    "DepthwiseConv2D": ("kernel_size", "strides", "use_bias", "activation"),
    "BatchNormalization": ("epsilon", "momentum"),
    "Activation": ("activation",),
    "MaxPooling2D": ("pool_size",),
    "GlobalAveragePooling2D": ("keepdims",),
    "Reshape": (),
    "Multiply": (),
    "Add": (),
    "Dropout": ("rate", "noise_shape"),
    "Dense": ("units", "use_bias"),
}
"""What has to be known of each kind of layer; another kind cannot be written down."""

_ACTIVATIONS = ("linear", "relu", "silu", "swish", "sigmoid", "softmax")


def plan_of(model: Any) -> list[dict[str, Any]]:
    """Return a functional Keras network as a list of layers, each after those it takes.

    Returns:
        Of each layer its ``name``, ``kind``, ``inputs`` (names), ``shape`` (of what comes out, last
        the channels), and what its kind needs.

    Raises:
        ModelError: if it holds a layer that cannot be written down.
    """
    return [_layer(layer) for layer in model.layers]


def _layer(layer: Any) -> dict[str, Any]:
    import keras

    kind = type(layer).__name__
    config = layer.get_config()
    unknown = kind if kind not in _KEPT else None
    if config.get("activation", "linear") not in _ACTIVATIONS:
        unknown = config["activation"]
    if unknown is not None:
        raise ModelError(
            f"{layer.name}: cannot be trained on the device, which does not know {unknown}: "
            "expected an EfficientNet or a backbone of ours; or mien train"
        )
    inputs = [] if kind == "InputLayer" else keras.tree.flatten(layer.input)
    written = {
        "name": _name(layer),
        "kind": kind,
        "inputs": [_name(tensor._keras_history.operation) for tensor in inputs],
        "shape": list(layer.output.shape[1:]),
    }
    return written | {key: config[key] for key in _KEPT[kind]}


def _name(layer: Any) -> str:
    """Return a layer's name, the same in every network of its architecture."""
    # The one layer with weights that we leave to Keras to name, which numbers all it ever made.
    return "normalization" if type(layer).__name__ == "Normalization" else str(layer.name)


def weights_of(model: Any) -> Arrays:
    """Return all weights of a Keras network."""
    return {
        f"{_name(layer)}/{place}": np.asarray(array, np.float32)
        for layer in model.layers
        for place, array in enumerate(layer.get_weights())
    }


def set_weights(model: Any, arrays: Arrays) -> None:
    """Give a Keras network weights that `weights_of` or a training on the GPU returned.

    Raises:
        ModelError: if they are of another network.
    """
    from mien.training.model import refresh

    for layer in model.layers:
        current = layer.get_weights()
        if type(layer).__name__ == "Dropout" or not current:
            continue
        try:
            layer.set_weights(_arrays_for(layer, current, arrays))
        except (KeyError, ValueError) as error:
            raise ModelError(f"{layer.name}: these weights are of another network") from error
    refresh(model)


def _arrays_for(layer: Any, current: list[Any], arrays: Arrays) -> list[Any]:
    """Return a layer's arrays in the shapes it has; raises KeyError or ValueError if it can't."""
    known = len(current)
    if type(layer).__name__ == "Normalization":
        known = 2  # then a number of images that nobody asks for
    found = [arrays[f"{_name(layer)}/{place}"] for place in range(known)]
    if known < len(current):
        found = [array.reshape(old.shape) for array, old in zip(found, current, strict=False)]
    return [*found, *current[known:]]
