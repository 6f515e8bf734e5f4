"""Nano: a network of less than a million weights that reads a face in a third of a millisecond.

Made for a processor that computes one face at a time. Nearly all of its 20 million multiplications
are 3x3 convolutions whose channels are multiples of 16, which ONNX Runtime computes near the
processor's peak, BatchNorm, ReLU and sums included; depthwise ones take more time for fewer. The
face is halved at once, since the layers at 48 pixels would cost the most and know the least.
"""

from __future__ import annotations

from typing import Any

from mien.training.architectures.blocks import added, conv_norm, scaled, scaled_input

_STEM = 32
_RESIDUAL = (48, 96)
_LAST = 192


def nano(faces: Any, *, width: float = 1.0) -> Any:
    """Return the feature map of Nano, of 1/16 of the face's side.

    Args:
        faces: Keras tensor (N, size, size, 1), 0-255; made for 48.
        width: what all numbers of channels are multiplied with.
    """
    x = scaled_input(faces)
    x = conv_norm(x, scaled(_STEM, width), "stem", kernel=5, stride=2)
    for index, channels in enumerate((scaled(each, width) for each in _RESIDUAL), start=1):
        block = f"block{index}"
        x = conv_norm(x, channels, f"{block}_down", stride=2)
        branch = conv_norm(x, channels, f"{block}_first")
        branch = conv_norm(branch, channels, f"{block}_second", relu=False)
        x = added(x, branch, block)
    last = scaled(_LAST, width)
    x = conv_norm(x, last, "block3_down", stride=2)
    return conv_norm(x, last, "block3_last")
