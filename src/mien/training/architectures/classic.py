"""VGG and ResNets for small images, to be trained from nothing: no pooling before the first stage.

Teachers for distillation: too slow for one face on one core, better than anything that was made for
photographs of 224 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mien.training.architectures.blocks import (
    added,
    conv_norm,
    scaled,
    scaled_input,
    squeeze_excite,
)

_VGG_WIDTHS = (64, 128, 256, 512)
_VGG_DEPTHS = (2, 2, 3, 3)
_RESNET_WIDTHS = (64, 128, 256, 512)


def vgg(
    faces: Any,
    *,
    widths: Sequence[int] = _VGG_WIDTHS,
    depths: Sequence[int] = _VGG_DEPTHS,
    width: float = 1.0,
) -> Any:
    """Return the feature map of a VGG with BatchNorm (Simonyan & Zisserman 2014, 1409.1556).

    Args:
        faces: Keras tensor (N, size, size, 1), 0-255; made for 48.
        widths: channels of each stage.
        depths: convolutions of each; each but the last ends in a halving.
        width: what all widths are multiplied with.
    """
    import keras

    x = scaled_input(faces)
    for stage, (channels, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        if stage > 1:
            x = keras.layers.MaxPooling2D(2, name=f"block{stage}_pool")(x)
        for layer in range(1, depth + 1):
            x = conv_norm(x, scaled(channels, width), f"block{stage}_{layer}")
    return x


def resnet(
    faces: Any,
    *,
    depths: Sequence[int],
    widths: Sequence[int] = _RESNET_WIDTHS,
    gates: bool = False,
    width: float = 1.0,
) -> Any:
    """Return the feature map of a ResNet of two-layer blocks (He et al. 2015, 1512.03385).

    Args:
        faces: Keras tensor (N, size, size, 1), 0-255; made for 48.
        depths: blocks of each stage; each stage but the first halves at its start.
        widths: channels of each stage.
        gates: a squeeze-and-excite gate at the end of each block's branch.
        width: what all widths are multiplied with.
    """
    x = scaled_input(faces)
    x = conv_norm(x, scaled(widths[0], width), "stem")
    for stage, (channels, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for index in range(depth):
            name = f"block{stage}{chr(ord('a') + index)}"
            halves = stage > 1 and index == 0
            x = _residual(x, scaled(channels, width), name, stride=2 if halves else 1, gate=gates)
    return x


def _residual(x: Any, channels: int, name: str, *, stride: int, gate: bool) -> Any:
    branch = conv_norm(x, channels, f"{name}_first", stride=stride)
    branch = conv_norm(branch, channels, f"{name}_second", relu=False)
    if gate:
        branch = squeeze_excite(branch, name)
    if stride > 1 or x.shape[-1] != channels:
        x = conv_norm(x, channels, f"{name}_way", kernel=1, stride=stride, relu=False)
    return added(x, branch, name)
