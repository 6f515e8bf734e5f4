"""The feature extractors that a recipe can name: Keras' EfficientNets and a plain small network.

Each takes a colour image in 0-255 and begins with a ``Rescaling`` to 0-1 and a ``Normalization``,
whose weights the starting weights decide (see `mien.training.model.set_input_scaling`).
"""

from __future__ import annotations

from typing import Any

from mien.core.errors import UsageError
from mien.training.settings import BACKBONES, PLAIN


def build_backbone(name: str, images: Any, *, channels: tuple[int, ...]) -> Any:
    """Return the feature map of a backbone.

    Args:
        name: "EfficientNetB0" to "EfficientNetB7", or "Plain".
        images: Keras tensor (N, size, size, 3), 0-255.
        channels: of the stages of "Plain"; not used by others.

    Raises:
        UsageError: if there is no such backbone.
    """
    if name == PLAIN:
        return _plain(images, channels)
    return efficientnet(name)(include_top=False, weights=None, input_tensor=images).output


def efficientnet(name: str) -> Any:
    """Return what builds an EfficientNet in ``keras.applications``; raises UsageError."""
    import keras

    if name == PLAIN or name not in BACKBONES:
        raise UsageError(f"{name!r} is no EfficientNet: expected one of {', '.join(BACKBONES)}")
    return getattr(keras.applications, name)


def _plain(images: Any, channels: tuple[int, ...]) -> Any:
    """A stage a width: convolution, BatchNorm, ReLU, halving."""
    import keras

    layers = keras.layers
    x = layers.Rescaling(1 / 255)(images)
    x = layers.Normalization(axis=-1)(x)
    for index, width in enumerate(channels, start=1):
        block = f"block{index}"
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{block}_conv")(x)
        x = layers.BatchNormalization(name=f"{block}_bn")(x)
        x = layers.Activation("relu", name=f"{block}_relu")(x)
        x = layers.MaxPooling2D(2, name=f"{block}_pool")(x)
    return x
