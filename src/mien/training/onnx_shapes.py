"""The shapes of Keras layers' inputs, and what has no form in ONNX here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


class NoForm(Exception):
    """A layer cannot be written in ONNX here; its text says why, for the error that names it."""


def input_shape(layer: Any) -> tuple[int, ...]:
    """Return (H, W, C) or (C,) of a layer's only input, all known; else raises NoForm."""
    shape = tuple(layer.input.shape[1:])
    if None in shape:
        raise NoForm(f"its input's shape {shape} is not fixed")
    return shape


def spatial_shape(layer: Any) -> tuple[int, int, int]:
    """Return (H, W, C) of the plane that is a layer's only input, channels last.

    Raises:
        NoForm: if it is something else, or not fixed.
    """
    shape = input_shape(layer)
    if len(shape) != 3 or getattr(layer, "data_format", "channels_last") != "channels_last":
        raise NoForm(f"its input has shape {shape}")
    height, width, channels = shape
    return height, width, channels


def pads_of(layer: Any, kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Return ONNX' pads [top, left, bottom, right] for Keras' padding.

    "same" puts the odd pixel at the bottom and right, and pads a strided layer by what its last
    window lacks, so the pads depend on the input's size.

    Args:
        layer: of Keras, with ``padding`` and a plane for its input.
        kernel: how far it reaches, height and width in pixels.
        strides: its steps, down and to the right.

    Raises:
        NoForm: if the padding is another, or the input no plane.
    """
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    if layer.padding != "same":
        raise NoForm(f"padding {layer.padding!r}")
    before, after = [], []
    for side, window, stride in zip(spatial_shape(layer), kernel, strides, strict=False):
        lacking = max((math.ceil(side / stride) - 1) * stride + window - side, 0)
        before.append(lacking // 2)
        after.append(lacking - lacking // 2)
    return before + after
