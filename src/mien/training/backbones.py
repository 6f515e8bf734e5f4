"""The feature extractors that a recipe can name: this project's own, and Keras' applications.

Each takes faces in 0-255 and begins with a ``Rescaling`` to 0-1 and a ``Normalization``, whose
weights the starting weights decide (see `mien.training.model.set_input_scaling`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mien.training.architectures.applications import build_application
from mien.training.architectures.blocks import scaled_input
from mien.training.architectures.classic import resnet, vgg
from mien.training.architectures.nano import nano
from mien.training.settings import PLAIN, ModelSettings

_OWN: dict[str, Callable[..., Any]] = {
    "Nano": nano,
    "VGG": vgg,
    "ResNet18": partial(resnet, depths=(2, 2, 2, 2)),
    "ResNet34": partial(resnet, depths=(3, 4, 6, 3)),
    "SEResNet18": partial(resnet, depths=(2, 2, 2, 2), gates=True),
}


def build_backbone(settings: ModelSettings, faces: Any) -> Any:
    """Return the feature map of the backbone that the settings name.

    Args:
        settings: ``backbone``, and ``width`` or ``plain_channels`` where they belong to it.
        faces: Keras tensor (N, size, size, 1), 0-255.
    """
    import keras

    own = _OWN.get(settings.backbone)
    if own is not None:
        return own(faces, width=settings.width)
    colour = keras.layers.Concatenate(name="three_channels")([faces] * 3)
    if settings.backbone == PLAIN:
        return _plain(colour, settings.plain_channels)
    return build_application(settings.backbone, images=colour).output


def _plain(images: Any, channels: tuple[int, ...]) -> Any:
    """A stage a width: convolution, BatchNorm, ReLU, halving."""
    import keras

    layers = keras.layers
    x = scaled_input(images)
    for index, width in enumerate(channels, start=1):
        block = f"block{index}"
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{block}_conv")(x)
        x = layers.BatchNormalization(name=f"{block}_bn")(x)
        x = layers.Activation("relu", name=f"{block}_relu")(x)
        x = layers.MaxPooling2D(2, name=f"{block}_pool")(x)
    return x
