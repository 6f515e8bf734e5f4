"""Nano: a network of half a million weights that reads a face in a third of a millisecond.

Made for a processor that computes one face at a time. Its 19 million multiplications are all in 3x3
convolutions whose channels are multiples of 16, which ONNX Runtime computes near the processor's
peak, BatchNorm, ReLU and sums included; depthwise ones take more time for fewer. The first layer
sees all 48 pixels, with few channels, and maxima halve the picture: with strides in their place, a
network of the same cost learnt more slowly.
"""

from __future__ import annotations

from typing import Any

from mien.training.architectures.blocks import added, conv_norm, scaled, scaled_input

_STEM = 16
_WIDTHS = (32, 64, 112, 192)
_RESIDUAL = (2, 3)
"""Blocks with a second convolution, around which there is a way."""


def nano(faces: Any, *, width: float = 1.0) -> Any:
    """Return the feature map of Nano, of 1/16 of the face's side.

    Args:
        faces: Keras tensor (N, size, size, 1), 0-255; made for 48.
        width: what all numbers of channels are multiplied with.
    """
    import keras

    x = conv_norm(scaled_input(faces), scaled(_STEM, width), "stem")
    for index, channels in enumerate((scaled(each, width) for each in _WIDTHS), start=1):
        block = f"block{index}"
        x = keras.layers.MaxPooling2D(2, name=f"{block}_pool")(x)
        x = conv_norm(x, channels, f"{block}_first")
        if index in _RESIDUAL:
            branch = conv_norm(x, channels, f"{block}_second", relu=False)
            x = added(x, branch, block)
    return x
