from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.results import Box
from mien.inference.crops import BLURRED, SMALL_PX, blur_of, cut_face, face_crop, quality_of

Pixels = npt.NDArray[np.uint8]


def _picture(height: int = 120, width: int = 160) -> Pixels:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def _face(seed: int = 0) -> Pixels:
    """A picture with as much fine detail as a sharp face has: softened noise over a gradient."""
    noise = np.random.default_rng(seed).normal(size=(48, 48)).astype(np.float32)
    detail = cv2.GaussianBlur(noise, (0, 0), 0.6) * 60 + cv2.GaussianBlur(noise, (0, 0), 6) * 600
    return np.asarray(np.clip(128 + detail, 0, 255), np.uint8)


def _blurred(face: Pixels, sigma: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(face, (0, 0), sigma), np.uint8)


@given(
    st.integers(0, 150),
    st.integers(0, 110),
    st.integers(1, 160),
    st.integers(1, 120),
    st.floats(0.5, 2),
)
def test_a_framed_crop_is_square_and_as_large_as_framing_says(
    x: int, y: int, w: int, h: int, framing: float
) -> None:
    box = Box(x, y, min(w, 160 - x), min(h, 120 - y))
    crop = face_crop(_picture(), box, framing)
    assert crop.shape[0] == crop.shape[1]
    assert abs(crop.shape[0] - framing * (box.w * box.h) ** 0.5) <= 1


def test_a_crop_is_centred_on_its_box() -> None:
    picture = _picture()
    assert np.array_equal(face_crop(picture, Box(40, 30, 20, 20), 1.0), picture[30:50, 40:60])
    assert np.array_equal(face_crop(picture, Box(40, 30, 20, 20), 2.0), picture[20:60, 30:70])
    # A box higher than wide has the mean of its sides: 40 x 10 gives 20.
    assert np.array_equal(face_crop(picture, Box(50, 30, 10, 40), 1.0), picture[40:60, 45:65])


def test_over_the_border_its_pixels_are_repeated() -> None:
    picture = _picture()
    crop = face_crop(picture, Box(0, 0, 20, 20), 2.0)
    assert crop.shape == (40, 40, 3)
    assert np.array_equal(crop[10:, 10:], picture[:30, :30])
    assert np.array_equal(crop[0, 10:], picture[0, :30])
    assert (crop[:10, :10] == picture[0, 0]).all()
    crop = face_crop(picture, Box(140, 100, 20, 20), 2.0)
    assert np.array_equal(crop[:30, :30], picture[90:, 130:])
    assert (crop[30:, 30:] == picture[-1, -1]).all()


def test_without_framing_the_box_is_cut_out_as_it_is() -> None:
    picture = _picture()
    assert np.array_equal(face_crop(picture, Box(3, 5, 30, 20), None), picture[5:25, 3:33])
    grey = np.repeat(_face()[:, :, None], 3, axis=2)
    assert np.array_equal(cut_face(grey, Box(0, 0, 48, 48), None), _face())


@pytest.mark.parametrize("seed", range(5))
def test_more_blur_counts_more(seed: int) -> None:
    face = _face(seed)
    blurs = [blur_of(face)]
    blurs += [blur_of(_blurred(face, sigma)) for sigma in (1, 1.5, 2, 3)]
    assert blurs == sorted(blurs)
    assert blurs[0] < 0.2
    assert blurs[-1] > 0.8
    assert "blurred" not in quality_of(face, Box(0, 0, 99, 99)).flags
    assert "blurred" in quality_of(_blurred(face, 2), Box(0, 0, 99, 99)).flags


def test_contrast_is_not_sharpness() -> None:
    face = _blurred(_face(), 1)
    pale = np.asarray(96 + face * 0.4, np.uint8)
    assert blur_of(pale) == pytest.approx(blur_of(face), abs=0.1)


def test_a_flat_face_is_all_blur() -> None:
    assert blur_of(np.full((48, 48), 90, np.uint8)) == 1.0
    assert BLURRED < 1


def test_small_and_dark_faces_are_flagged() -> None:
    face = _face()
    assert quality_of(face, Box(0, 0, SMALL_PX, 90)).flags == ()
    small = quality_of(face, Box(0, 0, SMALL_PX - 1, 90))
    assert (small.size_px, small.flags) == (SMALL_PX - 1, ("small",))
    assert quality_of(face // 4, Box(0, 0, 90, 90)).flags == ("dark",)
