from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector_maker import BrightSpots, Broken, Pixels, bright_scene
from mien.core.errors import NoFaceError, UnreadableImage, UsageError
from mien.core.images import standard_face
from mien.core.results import QUALITY_FLAGS, Box
from mien.inference.detectors import Detection, Landmarks
from mien.inference.preprocess import (
    ALIGN,
    AUTO_ROLL,
    BLURRED,
    PITCH_RANGE,
    SMALL_PX,
    YAW_LIMIT,
    FaceChoice,
    alignment_angle,
    assess_quality,
    cut_face,
    face_crop,
    largest_face,
    measure_blur,
    pitch_ratio,
    roll_angle,
    yaw_ratio,
)


# ---------------------------------------------------------------- choice
def found(*sides: int) -> list[Detection]:
    return [Detection(Box(100 * place, 0, side, side), 0.9) for place, side in enumerate(sides)]


def sides(detections: tuple[Detection, ...]) -> list[int]:
    return [one.box.w for one in detections]


def test_the_more_confident_of_equal_faces_is_kept() -> None:
    box = Box(0, 0, 50, 50)
    unsure, sure = Detection(box, 0.7), Detection(box, 0.9)
    assert FaceChoice(max_faces=1).select([unsure, sure]) == (sure,)


@given(st.lists(st.integers(1, 99)), st.integers(0, 99), st.integers(1, 9))
def test_the_largest_faces_are_kept(all_sides: list[int], least: int, most: int) -> None:
    kept = sides(FaceChoice(min_face=least, max_faces=most).select(found(*all_sides)))
    large = sorted(side for side in all_sides if side >= least)
    assert sorted(kept) == large[-most:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_face": -1}, "min_face"),
        ({"min_face": 2.5}, "min_face"),
        ({"max_faces": 0}, "max_faces"),
        ({"max_faces": True}, "max_faces"),
        ({"align": "maybe"}, "align"),
    ],
)
def test_invalid_choices_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FaceChoice(**options)


# ---------------------------------------------------------------- alignment
UPRIGHT = ((-20.0, -18.0), (20.0, -18.0), (0.0, 2.0), (-15.0, 22.0), (15.0, 22.0))


def leaning(degrees: float) -> tuple[tuple[float, float], ...]:
    """An upright face, turned clockwise as one looks at the picture (y goes down)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return tuple((100 + x * cos - y * sin, 80 + x * sin + y * cos) for x, y in UPRIGHT)


@given(st.floats(-170, 170))
def test_roll_is_the_angle_of_rotation(degrees: float) -> None:
    assert roll_angle(leaning(degrees)) == pytest.approx(degrees, abs=1e-6)


def test_faces_that_lean_far_are_levelled() -> None:
    little, much = leaning(AUTO_ROLL - 0.5), leaning(AUTO_ROLL + 0.5)
    assert alignment_angle(little, "auto") == 0
    assert alignment_angle(much, "auto") == pytest.approx(AUTO_ROLL + 0.5)
    assert alignment_angle(leaning(-40), "auto") == pytest.approx(-40)
    assert alignment_angle(little, "on") == pytest.approx(AUTO_ROLL - 0.5)
    assert alignment_angle(much, "off") == 0


def test_faces_without_landmarks_are_not_levelled() -> None:
    assert [alignment_angle(None, align) for align in ALIGN] == [0, 0, 0]


@pytest.mark.parametrize("quarter", [90.0, 180.0, -90.0])
def test_quarter_turns_are_always_levelled(quarter: float) -> None:
    little, much = leaning(quarter + AUTO_ROLL - 0.5), leaning(quarter - AUTO_ROLL - 0.5)
    assert [alignment_angle(None, align, quarter) for align in ALIGN] == [quarter] * 3
    assert alignment_angle(little, "auto", quarter) == quarter
    assert alignment_angle(little, "off", quarter) == quarter
    for landmarks, align in ((little, "on"), (much, "auto")):
        assert alignment_angle(landmarks, align, quarter) == pytest.approx(roll_angle(landmarks))


# ---------------------------------------------------------------- crops
def _picture(height: int = 120, width: int = 160) -> Pixels:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def _face(seed: int = 0) -> Pixels:
    """Picture with the detail of a sharp face: softened noise over a gradient."""
    noise = np.random.default_rng(seed).normal(size=(48, 48)).astype(np.float32)
    detail = cv2.GaussianBlur(noise, (0, 0), 0.6) * 60 + cv2.GaussianBlur(noise, (0, 0), 6) * 600
    return np.asarray(np.clip(128 + detail, 0, 255), np.uint8)


@given(
    st.integers(0, 150),
    st.integers(0, 110),
    st.integers(1, 160),
    st.integers(1, 120),
    st.floats(0.5, 2),
)
def test_a_crop_is_a_square_of_crop_scale(
    x: int, y: int, w: int, h: int, crop_scale: float
) -> None:
    box = Box(x, y, min(w, 160 - x), min(h, 120 - y))
    crop = face_crop(_picture(), box, crop_scale)
    assert crop.shape[0] == crop.shape[1]
    assert abs(crop.shape[0] - crop_scale * (box.w * box.h) ** 0.5) <= 1


def test_a_crop_is_centred_on_its_box() -> None:
    picture = _picture()
    assert np.array_equal(face_crop(picture, Box(40, 30, 20, 20), 1.0), picture[30:50, 40:60])
    assert np.array_equal(face_crop(picture, Box(40, 30, 20, 20), 2.0), picture[20:60, 30:70])
    # The side is the geometric mean of the box's sides: 40 x 10 gives 20.
    assert np.array_equal(face_crop(picture, Box(50, 30, 10, 40), 1.0), picture[40:60, 45:65])


def test_border_pixels_are_repeated() -> None:
    picture = _picture()
    crop = face_crop(picture, Box(0, 0, 20, 20), 2.0)
    assert crop.shape == (40, 40, 3)
    assert np.array_equal(crop[10:, 10:], picture[:30, :30])
    assert np.array_equal(crop[0, 10:], picture[0, :30])
    assert (crop[:10, :10] == picture[0, 0]).all()
    crop = face_crop(picture, Box(140, 100, 20, 20), 2.0)
    assert np.array_equal(crop[:30, :30], picture[90:, 130:])
    assert (crop[30:, 30:] == picture[-1, -1]).all()


def test_without_crop_scale_the_box_is_the_crop() -> None:
    picture = _picture()
    assert np.array_equal(face_crop(picture, Box(3, 5, 30, 20), None), picture[5:25, 3:33])
    grey = np.repeat(_face()[:, :, None], 3, axis=2)
    assert np.array_equal(cut_face(grey, Box(0, 0, 48, 48), None), _face())


def _leaning(degrees: float, side: int = 240) -> Pixels:
    """Smooth pattern, rotated clockwise about the picture's centre."""
    rows, columns = (np.mgrid[:side, :side] - (side - 1) / 2) / side
    angle = np.radians(degrees)
    across = columns * np.cos(angle) + rows * np.sin(angle)
    down = rows * np.cos(angle) - columns * np.sin(angle)
    values = 128 + 60 * np.sin(12 * across) + 60 * np.sin(9 * down + 1)
    return np.repeat(np.rint(values).astype(np.uint8)[:, :, None], 3, axis=2)


MIDDLE = Box(60, 60, 120, 120)


@given(st.floats(-60, 60))
def test_a_leaning_face_is_levelled(degrees: float) -> None:
    upright = cut_face(_leaning(0), MIDDLE, 1.0).astype(float)
    turned = cut_face(_leaning(degrees), MIDDLE, 1.0, turn=degrees).astype(float)
    assert np.abs(turned - upright).mean() < 1.5


def test_a_levelled_crop_averages_whole_pixels() -> None:
    crop = face_crop(_leaning(0), Box(60, 60, 100, 100), 1.13, turn=12.0)
    assert crop.shape == (144, 144, 3)
    means = crop[:, :, 0].reshape(48, 3, 48, 3).mean(axis=(1, 3))
    assert np.abs(standard_face(crop) - means).max() <= 1


def _warped_whole(image: Pixels, box: Box, crop_scale: float, turn: float) -> Pixels:
    """Levelled crop of a square box by one warp of the whole image."""
    side = crop_scale * box.w
    size = 48 * int(np.ceil(side / 48))
    turning = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), -turn, side / size)
    turning[0, 2] += box.x + (box.w - size) / 2
    turning[1, 2] += box.y + (box.h - size) / 2
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REPLICATE
    warped = cv2.warpAffine(image, turning, (size, size), flags=flags, borderMode=border)
    return np.asarray(warped, np.uint8)


@given(
    st.integers(0, 300),
    st.integers(0, 200),
    st.integers(4, 100),
    st.floats(0.5, 2),
    st.floats(-180, 180),
)
def test_a_levelled_crop_matches_a_warp_of_the_whole_image(
    x: int, y: int, side: int, crop_scale: float, turn: float
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
    picture = np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.0), np.uint8)
    box = Box(x, y, side, side)
    crop = face_crop(picture, box, crop_scale, turn=turn or 1.0)
    whole = _warped_whole(picture, box, crop_scale, turn or 1.0)
    assert crop.shape == whole.shape
    # The grid of OpenCV's interpolation is a few hundredths of a pixel.
    assert np.abs(crop.astype(int) - whole).mean() < 0.2


@pytest.mark.parametrize("tall", [False, True])
def test_a_leaning_face_in_a_panorama_is_levelled(tall: bool) -> None:
    # OpenCV cannot warp an image with a side of 32,767 pixels or more.
    panorama = np.zeros((240, 33_000, 3), np.uint8)
    start = 32_600
    panorama[:, start : start + 240] = _leaning(20)
    box = Box(start + 60, 60, 120, 120)
    if tall:  # mirrored at the diagonal, so that it leans the other way
        panorama = np.ascontiguousarray(panorama.transpose(1, 0, 2))
        box = Box(box.y, box.x, box.h, box.w)
    crop = cut_face(panorama, box, 1.0, turn=-20.0 if tall else 20.0).astype(float)
    upright = cut_face(_leaning(0), MIDDLE, 1.0).astype(float)
    assert np.abs((crop.T if tall else crop) - upright).mean() < 1.5


def test_a_face_crop_is_not_rotated() -> None:
    picture = _picture()
    whole = face_crop(picture, Box(0, 0, 160, 120), None, turn=20.0)
    assert np.array_equal(whole, picture)


# ---------------------------------------------------------------- largest face
SMALL, LARGE = Box(20, 20, 40, 40), Box(150, 60, 80, 80)


def as_png(pixels: Pixels) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


def test_the_largest_face_is_cropped_like_any_other() -> None:
    detector = BrightSpots()
    for boxes in ((SMALL, LARGE), (LARGE,)):
        scene = bright_scene(*boxes)
        face = largest_face(as_png(scene), detector)
        np.testing.assert_array_equal(face, cut_face(scene, LARGE, detector.crop_scale))


def test_a_missing_face_is_reported() -> None:
    nobody = as_png(bright_scene())
    with pytest.raises(NoFaceError, match=r"^has no face that bright detects$"):
        largest_face(nobody, BrightSpots())
    with pytest.raises(NoFaceError, match="no face of 90 pixels or more"):
        largest_face(as_png(bright_scene(LARGE)), BrightSpots(), FaceChoice(min_face=90))


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_unreadable_images_are_refused(content: bytes) -> None:
    with pytest.raises(UnreadableImage):
        largest_face(content, BrightSpots())


def test_a_failing_detector_is_reported_in_one_line() -> None:
    with pytest.raises(UnreadableImage, match=r"face detection failed: .*a filter failed") as error:
        largest_face(as_png(bright_scene()), Broken())
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- quality
BOX = Box(0, 0, 90, 90)


def _blurred(face: Pixels, sigma: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(face, (0, 0), sigma), np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_blur_grows_with_the_kernel(seed: int) -> None:
    face = _face(seed)
    blurs = [measure_blur(face)]
    blurs += [measure_blur(_blurred(face, sigma)) for sigma in (1, 1.5, 2, 3)]
    assert blurs == sorted(blurs)
    assert blurs[0] < 0.2
    assert blurs[-1] > 0.8
    assert "blurred" not in assess_quality(face, Box(0, 0, 99, 99)).flags
    assert "blurred" in assess_quality(_blurred(face, 2), Box(0, 0, 99, 99)).flags


def test_blur_does_not_depend_on_contrast() -> None:
    face = _blurred(_face(), 1)
    pale = np.asarray(96 + face * 0.4, np.uint8)
    assert measure_blur(pale) == pytest.approx(measure_blur(face), abs=0.1)


def test_a_flat_face_is_blurred() -> None:
    assert measure_blur(np.full((48, 48), 90, np.uint8)) == 1.0
    assert BLURRED < 1


def test_small_and_dark_faces_are_flagged() -> None:
    face = _face()
    assert assess_quality(face, Box(0, 0, SMALL_PX, 90)).flags == ()
    small = assess_quality(face, Box(0, 0, SMALL_PX - 1, 90))
    assert (small.size_px, small.flags) == (SMALL_PX - 1, ("small",))
    assert assess_quality(face // 4, Box(0, 0, 90, 90)).flags == ("dark",)


def test_overexposed_faces_are_flagged() -> None:
    face = _face()
    burnt = face.copy()
    burnt[:25] = 255
    assert assess_quality(burnt, BOX).flags == ("bright",)
    assert (
        "bright" not in assess_quality(np.asarray(np.clip(face, 0, 120) + 100, np.uint8), BOX).flags
    )


def _landmarks(
    nose: float, lean: float = 0.0, size: float = 40.0, height: float = 0.5
) -> Landmarks:
    """Landmarks of a face with its nose off the centre line, rotated by some degrees."""
    points = np.array([(-0.5, -0.5), (0.5, -0.5), (nose, height - 0.5), (-0.4, 0.5), (0.4, 0.5)])
    angle = np.radians(lean)
    turned = points @ np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    return tuple((float(x), float(y)) for x, y in turned * size + 100)


@given(st.floats(-1, 1), st.floats(-80, 80), st.floats(1, 500))
def test_yaw_does_not_depend_on_roll_and_size(nose: float, lean: float, size: float) -> None:
    assert yaw_ratio(_landmarks(nose, lean, size)) == pytest.approx(abs(nose), abs=1e-6)


def test_faces_that_are_turned_away_are_flagged_on_either_side() -> None:
    for sign in (-1, 1):
        away = assess_quality(_face(), BOX, _landmarks(sign * (YAW_LIMIT + 0.01)))
        assert away.flags == ("turned_away",)
        ahead = assess_quality(_face(), BOX, _landmarks(sign * (YAW_LIMIT - 0.01)))
        assert ahead.flags == ()
    assert assess_quality(_face(), BOX, None).flags == ()


@given(st.floats(0, 1), st.floats(-180, 180), st.floats(1, 500))
def test_pitch_does_not_depend_on_roll_and_size(nose: float, lean: float, size: float) -> None:
    assert pitch_ratio(_landmarks(0.0, lean, size, nose)) == pytest.approx(nose, abs=1e-6)


def test_faces_that_look_up_or_down_are_flagged() -> None:
    up, down = PITCH_RANGE
    for nose, flags in ((up - 0.01, True), (up + 0.01, False), (0.56, False), (down + 0.01, True)):
        expected = ("turned_away",) if flags else ()
        assert assess_quality(_face(), BOX, _landmarks(0.0, height=nose)).flags == expected


@pytest.mark.parametrize(
    "points",
    [
        [(5, 5)] * 5,  # all in one place
        [(5, 0), (5, 0), (9, 5), (5, 9), (5, 9)],  # a profile: one eye, one corner of the mouth
        [(9, 0), (1, 0), (5, 5), (1, 9), (9, 9)],  # eyes the wrong way round
    ],
)
def test_landmarks_of_a_profile_are_flagged(points: list[tuple[float, float]]) -> None:
    assert "turned_away" in assess_quality(_face(), BOX, tuple(points)).flags


def test_flags_have_a_fixed_order() -> None:
    flags = assess_quality(np.full((48, 48), 9, np.uint8), Box(0, 0, 9, 9), _landmarks(0.9)).flags
    assert flags == tuple(flag for flag in QUALITY_FLAGS if flag != "bright")
