from __future__ import annotations

import numpy as np
import pytest
from common_corruptions import (
    CORRUPTIONS,
    STRENGTHS,
    Corruption,
    Faces,
    motion_kernel,
    plasma,
    scaled,
    shifted,
    sized,
    turned,
)

BY_NAME = {each.name: each for each in CORRUPTIONS}


def _faces(count: int = 6) -> Faces:
    """Smooth pictures with a bright disk a little above the middle, not the same in any two."""
    y, x = np.mgrid[:48, :48]
    disks = [np.hypot(y - 20, x - 24) < 8 + place for place in range(count)]
    shade = 60 + x + y / 2
    return np.stack([np.where(disk, 200, shade) for disk in disks]).astype(np.uint8)


def _middle(faces: Faces) -> np.ndarray:
    """Where the bright disks are: (N, 2), x and y."""
    y, x = np.mgrid[:48, :48]
    bright = faces > 170
    count = bright.sum(axis=(1, 2))
    return np.stack(
        [(bright * x).sum(axis=(1, 2)) / count, (bright * y).sum(axis=(1, 2)) / count], axis=1
    )


def test_there_are_fifteen_in_four_groups() -> None:
    assert len(BY_NAME) == 15
    groups = [each.group for each in CORRUPTIONS]
    assert {group: groups.count(group) for group in groups} == {
        "noise": 3,
        "blur": 4,
        "weather": 4,
        "digital": 4,
    }


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda each: each.name)
def test_each_changes_copies_reproducibly(corruption: Corruption) -> None:
    faces = _faces()
    before = faces.copy()
    for strength in STRENGTHS:
        changed = corruption.apply(faces, strength, seed=3)
        assert changed.dtype == np.uint8
        assert changed.shape == faces.shape
        assert np.array_equal(changed, corruption.apply(faces, strength, seed=3))
    assert np.abs(changed.astype(int) - faces).mean() > 1
    assert np.array_equal(faces, before)


@pytest.mark.parametrize(
    "name",
    ["Gaussian noise", "shot noise", "impulse noise", "defocus", "motion", "zoom", "contrast"],
)
def test_more_strength_changes_more(name: str) -> None:
    faces = _faces()
    costs = [
        np.abs(BY_NAME[name].apply(faces, each).astype(int) - faces).mean() for each in STRENGTHS
    ]
    assert costs == sorted(costs)
    assert costs[-1] > 1.5 * costs[0]


def test_noise_has_its_strength() -> None:
    grey = np.full((20, 48, 48), 128, np.uint8)
    noisy = BY_NAME["Gaussian noise"].apply(grey, 2)
    assert noisy.std() / 255 == pytest.approx(0.08, rel=0.05)
    extremes = BY_NAME["impulse noise"].apply(grey, 5)
    assert np.isin(extremes, (0, 255)).mean() == pytest.approx(0.14, abs=0.01)
    assert (extremes == 0).mean() == pytest.approx(0.07, abs=0.01)


def test_random_corruptions_differ_from_face_to_face_and_from_seed_to_seed() -> None:
    same = np.repeat(_faces(1), 2, axis=0)
    for name in ("shot noise", "frosted glass", "motion", "snow", "frost", "fog", "elastic"):
        changed = BY_NAME[name].apply(same, 5, seed=0)
        assert not np.array_equal(changed[0], changed[1]), name
        assert not np.array_equal(changed, BY_NAME[name].apply(same, 5, seed=1)), name


def test_glass_moves_pixels_and_invents_none() -> None:
    faces = _faces()
    swapped = BY_NAME["frosted glass"].apply(faces, 1)  # too little blur to reach a neighbour
    assert np.array_equal(np.sort(swapped.reshape(6, -1)), np.sort(faces.reshape(6, -1)))


def test_a_blur_keeps_an_even_grey() -> None:
    grey = np.full((2, 48, 48), 90, np.uint8)
    for name in ("defocus", "frosted glass", "motion", "zoom", "elastic", "pixelation"):
        assert np.array_equal(BY_NAME[name].apply(grey, 5), grey), name


def test_a_motion_kernel_starts_at_its_centre_and_has_one_direction() -> None:
    kernel = motion_kernel(0, 10, 2)
    middle = len(kernel) // 2
    assert kernel.sum() == pytest.approx(1)
    assert kernel[middle].sum() == pytest.approx(1)
    assert kernel[middle].argmax() == middle
    assert not kernel[middle, :middle].any()


def test_clouds_fill_their_range() -> None:
    clouds = plasma(3, np.random.default_rng(0), 2.0)
    assert clouds.shape == (3, 64, 64)
    assert np.array_equal(clouds.min(axis=(1, 2)), np.zeros(3))
    assert np.array_equal(clouds.max(axis=(1, 2)), np.ones(3))
    # What decays fast is smooth.
    rough = np.abs(np.diff(plasma(3, np.random.default_rng(0), 1.2))).mean()
    assert np.abs(np.diff(clouds)).mean() < rough / 2


def test_a_shift_has_its_length_in_any_direction() -> None:
    faces = np.repeat(_faces(1), 40, axis=0)
    moves = _middle(shifted(faces, 0.1, np.random.default_rng(0))) - _middle(faces)
    assert np.hypot(*moves.T) == pytest.approx(4.8, abs=0.3)
    assert (moves > 2).any(axis=0).all()
    assert (moves < -2).any(axis=0).all()


def test_a_turn_goes_to_either_side_about_the_middle() -> None:
    faces = np.repeat(_faces(1), 40, axis=0)
    changed = turned(faces, 40, np.random.default_rng(0))
    away = _middle(changed) - 23.5
    angles = np.degrees(np.arctan2(away[:, 0], -away[:, 1]))
    original = np.degrees(np.arctan2(0.5, 3.5))
    assert np.abs(angles - original) == pytest.approx(40, abs=3)
    assert {*np.sign(angles - original)} == {-1, 1}


def test_scale_changes_how_much_of_the_picture_is_face() -> None:
    faces, random = _faces(1), np.random.default_rng(0)
    areas = [
        int((scaled(faces, factor, random) > 170).sum()) / (faces > 170).sum()
        for factor in (0.7, 1.5)
    ]
    assert areas == pytest.approx([0.7**2, 1.5**2], rel=0.1)
    assert np.array_equal(scaled(faces, 1, random), faces)


def test_resolution_limits_detail() -> None:
    faces, random = _faces(), np.random.default_rng(0)
    costs = [
        np.abs(sized(faces, side, random).astype(int) - faces).mean() for side in (12, 24, 48, 96)
    ]
    assert costs[2] == 0
    assert costs[0] > 1.5 * costs[1] > 1.5 * costs[3]
