from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.evaluation import robustness_changes as those
from mien.evaluation.robustness_changes import Change, Faces, changes

EVERY = changes()


def _faces(seed: int = 0, count: int = 5) -> Faces:
    """Smooth shapes with some noise, none of them black or white."""
    random = np.random.default_rng(seed)
    rows = np.linspace(0, 3, 48)
    phases = random.uniform(0, 6, (count, 2, 1))
    waves = np.sin(rows + phases[:, 0])[:, :, None] * np.cos(rows + phases[:, 1])[:, None, :]
    return np.asarray(130 + 60 * waves + random.normal(0, 5, (count, 48, 48)), np.uint8)


def _sharpness(faces: Faces) -> float:
    return float(np.abs(np.diff(faces.astype(float), axis=2)).mean())


@pytest.mark.parametrize("change", EVERY, ids=lambda change: change.name)
def test_each_gives_other_faces_of_the_same_kind_and_leaves_its_own_alone(change: Change) -> None:
    faces = _faces()
    before = faces.copy()
    changed = change.apply(faces)
    assert changed.shape == faces.shape
    assert changed.dtype == np.uint8
    assert (faces == before).all()
    assert (changed != faces).any(axis=(1, 2)).all()
    assert (change.apply(faces) == changed).all()
    assert change.apply(faces[:0]).shape == (0, 48, 48)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(EVERY))
def test_a_face_is_changed_alike_alone_and_among_others(seed: int, change: Change) -> None:
    faces = _faces(seed, 3)
    alone = np.concatenate([change.apply(faces[place : place + 1]) for place in range(3)])
    assert (change.apply(faces) == alone).all()


def test_they_are_what_the_limit_speaks_of() -> None:
    assert [change.name for change in EVERY] == [
        "histogram equalised",
        "blurred, sigma 1 px",
        "half the resolution",
        "JPEG, quality 30",
        "brightness -30 %",
        "brightness +30 %",
        "contrast -30 %",
        "contrast +30 %",
    ]


def test_light_changes_by_three_tenths_and_is_cut_off_at_the_ends() -> None:
    grey = np.full((1, 48, 48), 100, np.uint8)
    grey[0, 0, 0] = 250
    by_name = {change.name: change.apply(grey)[0] for change in EVERY}
    assert by_name["brightness -30 %"][5, 5] == 70
    assert by_name["brightness +30 %"][5, 5] == 130
    assert by_name["brightness +30 %"][0, 0] == 255
    faces = _faces()
    for name, factor in (("contrast -30 %", 0.7), ("contrast +30 %", 1.3)):
        (change,) = (each for each in EVERY if each.name == name)
        changed = change.apply(faces)
        assert changed.mean(axis=(1, 2)) == pytest.approx(faces.mean(axis=(1, 2)), abs=1)
        spread = changed[0].std() / faces[0].std()
        assert spread == pytest.approx(factor, rel=0.05)


def test_what_blurs_takes_detail_and_equalising_spreads_the_greys() -> None:
    faces = _faces()
    assert _sharpness(those.blurred(faces)) < 0.6 * _sharpness(faces)
    assert _sharpness(those.halved(faces)) < 0.6 * _sharpness(faces)
    assert those.blurred(faces, sigma=2).std() < those.blurred(faces).std()
    spread = those.equalised(faces)
    assert spread.min(axis=(1, 2)).max() < 5
    assert spread.max(axis=(1, 2)).min() > 250


def test_a_blurred_point_is_a_gaussian_of_one_pixel() -> None:
    point = np.zeros((1, 48, 48), np.uint8)
    point[0, 24, 24] = 255
    changed = those.blurred(point)[0].astype(float)
    assert changed[24, 24] / 255 == pytest.approx(1 / (2 * np.pi), abs=0.01)
    assert changed[24, 25] / changed[24, 24] == pytest.approx(np.exp(-0.5), abs=0.03)


def test_a_lower_quality_is_further_from_the_face() -> None:
    faces = _faces()
    far = [np.abs(those.jpeg_coded(faces, quality=q) - faces.astype(float)).mean() for q in (90, 5)]
    assert far[0] < far[1]
