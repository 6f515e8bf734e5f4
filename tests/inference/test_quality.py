from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.results import QUALITY_FLAGS, Box
from mien.inference.detectors.base import Landmarks
from mien.inference.quality import (
    BLURRED,
    PITCH_RANGE,
    SMALL_PX,
    YAW_LIMIT,
    blur_of,
    pitch_of,
    quality_of,
    yaw_of,
)

Pixels = npt.NDArray[np.uint8]
BOX = Box(0, 0, 90, 90)


def _face(seed: int = 0) -> Pixels:
    """A picture with as much fine detail as a sharp face has: softened noise over a gradient."""
    noise = np.random.default_rng(seed).normal(size=(48, 48)).astype(np.float32)
    detail = cv2.GaussianBlur(noise, (0, 0), 0.6) * 60 + cv2.GaussianBlur(noise, (0, 0), 6) * 600
    return np.asarray(np.clip(128 + detail, 0, 255), np.uint8)


def _blurred(face: Pixels, sigma: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(face, (0, 0), sigma), np.uint8)


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


def test_bright_is_white_without_form() -> None:
    face = _face()
    burnt = face.copy()
    burnt[:25] = 255
    assert quality_of(burnt, BOX).flags == ("bright",)
    assert "bright" not in quality_of(np.asarray(np.clip(face, 0, 120) + 100, np.uint8), BOX).flags


def _landmarks(
    nose: float, lean: float = 0.0, size: float = 40.0, height: float = 0.5
) -> Landmarks:
    """A face of eyes one apart with its nose so far off the middle, leaning by some degrees."""
    points = np.array([(-0.5, -0.5), (0.5, -0.5), (nose, height - 0.5), (-0.4, 0.5), (0.4, 0.5)])
    angle = np.radians(lean)
    turned = points @ np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    return tuple((float(x), float(y)) for x, y in turned * size + 100)


@given(st.floats(-1, 1), st.floats(-80, 80), st.floats(1, 500))
def test_turning_away_does_not_depend_on_lean_and_size(
    nose: float, lean: float, size: float
) -> None:
    assert yaw_of(_landmarks(nose, lean, size)) == pytest.approx(abs(nose), abs=1e-6)


def test_faces_that_are_turned_away_are_flagged_on_either_side() -> None:
    for sign in (-1, 1):
        away = quality_of(_face(), BOX, _landmarks(sign * (YAW_LIMIT + 0.01)))
        assert away.flags == ("turned_away",)
        ahead = quality_of(_face(), BOX, _landmarks(sign * (YAW_LIMIT - 0.01)))
        assert ahead.flags == ()
    assert quality_of(_face(), BOX, None).flags == ()


@given(st.floats(0, 1), st.floats(-180, 180), st.floats(1, 500))
def test_nodding_does_not_depend_on_lean_and_size(nose: float, lean: float, size: float) -> None:
    assert pitch_of(_landmarks(0.0, lean, size, nose)) == pytest.approx(nose, abs=1e-6)


def test_faces_that_look_far_up_or_down_are_turned_away() -> None:
    up, down = PITCH_RANGE
    for nose, flags in ((up - 0.01, True), (up + 0.01, False), (0.56, False), (down + 0.01, True)):
        expected = ("turned_away",) if flags else ()
        assert quality_of(_face(), BOX, _landmarks(0.0, height=nose)).flags == expected


@pytest.mark.parametrize(
    "points",
    [
        [(5, 5)] * 5,  # all in one place
        [(5, 0), (5, 0), (9, 5), (5, 9), (5, 9)],  # a profile: one eye, one corner of the mouth
        [(9, 0), (1, 0), (5, 5), (1, 9), (9, 9)],  # eyes the wrong way round
    ],
)
def test_landmarks_that_show_no_front_are_turned_away(points: list[tuple[float, float]]) -> None:
    assert "turned_away" in quality_of(_face(), BOX, tuple(points)).flags


def test_flags_come_in_their_order() -> None:
    flags = quality_of(np.full((48, 48), 9, np.uint8), Box(0, 0, 9, 9), _landmarks(0.9)).flags
    assert flags == tuple(flag for flag in QUALITY_FLAGS if flag != "bright")
