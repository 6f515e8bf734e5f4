from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mien.core.errors import UsageError
from mien.core.faces import standard_face

sizes = st.integers(1, 150)


@settings(max_examples=50)
@given(arrays.arrays(np.uint8, st.tuples(sizes, sizes), elements=st.integers(0, 255)))
def test_any_crop_becomes_48_by_48(crop: npt.NDArray[np.uint8]) -> None:
    face = standard_face(crop)
    assert face.shape == (48, 48)
    assert face.dtype == np.uint8
    # No resampling that is used here can leave the crop's own range.
    assert crop.min() <= face.min()
    assert face.max() <= crop.max()
    assert np.array_equal(standard_face(np.dstack([crop] * 3)), face)


def test_a_standard_face_is_left_as_it_is() -> None:
    face = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    assert np.array_equal(standard_face(face), face)


def test_colour_is_weighed_as_the_eye_does() -> None:
    red = np.zeros((5, 5, 3), np.uint8)
    red[:, :, 0] = 255
    assert set(standard_face(red).ravel().tolist()) == {76}


@pytest.mark.parametrize(
    "crop",
    [
        np.zeros((0, 5), np.uint8),
        np.zeros((5, 5)),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros(5, np.uint8),
    ],
)
def test_other_arrays_are_refused(crop: Any) -> None:
    with pytest.raises(UsageError, match="expected a face crop"):
        standard_face(crop)
