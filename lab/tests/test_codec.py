from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lab.gpu.codec import decode_faces, encode_faces
from mien.core.errors import DataError
from mien.training.export import trial_faces


@settings(max_examples=10, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(0, 3), st.just(48), st.just(48))))
def test_faces_come_back_to_the_bit(
    faces: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]],
) -> None:
    back = decode_faces(encode_faces(faces))
    assert back.dtype == np.uint8
    assert np.array_equal(back, faces)


def test_extremes_come_back() -> None:
    faces = np.zeros((3, 48, 48), np.uint8)
    faces[1] = 255
    faces[2] = 255 * (np.indices((48, 48)).sum(axis=0) % 2)
    assert np.array_equal(decode_faces(encode_faces(faces)), faces)


def test_smooth_faces_shrink() -> None:
    smooth = trial_faces(20)[1::2]
    assert len(encode_faces(smooth)) < 0.8 * smooth.size


def test_damage_is_said() -> None:
    data = encode_faces(trial_faces(2))
    with pytest.raises(DataError, match="damaged"):
        decode_faces(data[: len(data) // 2])
    with pytest.raises(DataError, match="damaged"):
        decode_faces(b"nothing")
