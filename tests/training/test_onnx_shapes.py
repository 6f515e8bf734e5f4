from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.training.onnx_shapes import NoForm, input_shape, pads_of, spatial_shape


def layer_of(*sides: int | None, padding: str = "same", data_format: str = "channels_last") -> Any:
    """Return a stand-in for a layer whose input has these sides."""
    tensor = SimpleNamespace(shape=(None, *sides))
    return SimpleNamespace(input=tensor, padding=padding, data_format=data_format)


def test_shapes_are_without_the_batch() -> None:
    assert input_shape(layer_of(9)) == (9,)
    assert spatial_shape(layer_of(5, 7, 3)) == (5, 7, 3)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(NoForm, match=r"its input's shape \(None, 7, 3\) is not fixed"):
        input_shape(layer_of(None, 7, 3))
    with pytest.raises(NoForm, match=r"its input has shape \(9,\)"):
        spatial_shape(layer_of(9))
    with pytest.raises(NoForm, match=r"its input has shape \(3, 5, 7\)"):
        spatial_shape(layer_of(3, 5, 7, data_format="channels_first"))
    with pytest.raises(NoForm, match="padding 'causal'"):
        pads_of(layer_of(5, 7, 3, padding="causal"), (3, 3), (1, 1))


def test_the_odd_pixel_is_at_the_bottom_and_right() -> None:
    assert pads_of(layer_of(6, 7, 1), (3, 3), (1, 1)) == [1, 1, 1, 1]
    assert pads_of(layer_of(6, 7, 1), (3, 2), (2, 1)) == [0, 0, 1, 1]
    assert pads_of(layer_of(6, 7, 1, padding="valid"), (3, 2), (2, 1)) == [0, 0, 0, 0]


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 4))
def test_the_windows_of_same_begin_in_every_stride_once(side: int, window: int, step: int) -> None:
    top, left, bottom, right = pads_of(layer_of(side, side, 1), (window, window), (step, step))
    assert (top, bottom) == (left, right)
    assert 0 <= bottom - top <= 1
    windows = (side + top + bottom - window) // step + 1
    assert windows == -(-side // step)
