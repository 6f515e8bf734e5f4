from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.errors import InputError, UsageError
from mien.core.results import ModelInfo
from mien.data.dataset import Split
from mien.evaluation.robustness import (
    SECTION,
    Faces,
    Robustness,
    corruptions,
    measure_robustness,
    robustness_markdown,
    robustness_text,
)
from mien.evaluation.tables import require_section, update_marked_section
from mien.inference.classifier import Classifier

MODEL = ModelInfo("little", "1.2.3", "ab" * 32)
MARKS = "# T\n\n<!-- figures:begin robustness -->\n<!-- figures:end robustness -->\n\nkept\n"


def _measured(count: int = 100, dark: int = 5) -> Robustness:
    """Robustness of a classifier that is correct on bright images only, ``dark`` of them dim.

    Only lower brightness costs accuracy, on the dim images.
    """
    images = np.full((count, 48, 48), 200, np.uint8)
    images[:dark] = 110

    class Bright:
        manifest = SimpleNamespace(info=MODEL)

        def classify(self, faces: np.ndarray, **_: Any) -> np.ndarray:
            bright = faces.mean(axis=(1, 2)) > 100
            return np.eye(7, dtype=np.float32)[np.where(bright, 3, 0)]

    files = tuple(map(str, range(count)))
    split = Split("val", images, np.full(count, 3), files)
    return measure_robustness(cast(Classifier, Bright()), split, quiet=True)


def test_losses_are_relative_to_uncorrupted_images() -> None:
    result = _measured()
    assert (result.count, result.correct, result.accuracy) == (100, 100, 1.0)
    costs = {loss.change: loss.points for loss in result.losses}
    # Equalising a uniform face makes it white or black, which this test ignores.
    del costs["histogram equalised"]
    assert costs.pop("brightness -30 %") == pytest.approx(5.0)
    assert len(costs) == 6
    assert set(costs.values()) == {0.0}


@pytest.mark.parametrize(("dark", "kept"), [(4, True), (5, False)])
def test_four_points_are_within_the_limit_and_more_are_not(dark: int, kept: bool) -> None:
    result = _measured(dark=dark)
    (loss,) = (entry for entry in result.losses if entry.change == "brightness -30 %")
    assert loss.kept is kept
    row = next(line for line in robustness_text(result).splitlines() if "brightness -" in line)
    verdict = "yes" if kept else "no"
    expected = f"brightness -30 %  {100 - dark}.00 %  {dark}.00  {verdict}"
    assert row.split() == expected.split()


def test_the_verdict_counts_exceeded_limits() -> None:
    result = _measured(dark=0)
    broken = [loss for loss in result.losses if not loss.kept]
    assert result.kept is (not broken)
    text = robustness_text(_measured(dark=50))
    assert "cost" in text.splitlines()[-1]
    assert "more than 4 points" in text


def test_a_page_is_updated_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(MARKS)
    result = _measured()
    require_section([page], SECTION)
    update_marked_section(page, SECTION, robustness_markdown(result))
    assert robustness_markdown(result) in page.read_text()
    assert page.read_text().endswith("kept\n")


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("# T\n")
    with pytest.raises(UsageError, match="figures:begin robustness"):
        require_section([page], SECTION)
    with pytest.raises(InputError):
        require_section([tmp_path / "none.md"], SECTION)


def test_no_images_are_refused() -> None:
    with pytest.raises(UsageError, match="no images"):
        _measured(0, 0)


ALL_CORRUPTIONS = corruptions()
equalize, blur, halve = list(ALL_CORRUPTIONS.values())[:3]


def _faces(seed: int = 0, count: int = 5) -> Faces:
    """Smooth patterns with noise, without black or white."""
    random = np.random.default_rng(seed)
    rows = np.linspace(0, 3, 48)
    phases = random.uniform(0, 6, (count, 2, 1))
    waves = np.sin(rows + phases[:, 0])[:, :, None] * np.cos(rows + phases[:, 1])[:, None, :]
    return np.asarray(130 + 60 * waves + random.normal(0, 5, (count, 48, 48)), np.uint8)


def _sharpness(faces: Faces) -> float:
    return float(np.abs(np.diff(faces.astype(float), axis=2)).mean())


@pytest.mark.parametrize("name", ALL_CORRUPTIONS)
def test_a_corruption_returns_changed_copies(
    name: str,
) -> None:
    change, faces = ALL_CORRUPTIONS[name], _faces()
    before = faces.copy()
    changed = change(faces)
    assert changed.shape == faces.shape
    assert changed.dtype == np.uint8
    assert (faces == before).all()
    assert (changed != faces).any(axis=(1, 2)).all()
    assert (change(faces) == changed).all()
    assert change(faces[:0]).shape == (0, 48, 48)


@settings(max_examples=10)
@given(st.integers(0, 1000), st.sampled_from(sorted(ALL_CORRUPTIONS)))
def test_a_corruption_treats_each_face_independently(seed: int, name: str) -> None:
    change, faces = ALL_CORRUPTIONS[name], _faces(seed, 3)
    alone = np.concatenate([change(faces[index : index + 1]) for index in range(3)])
    assert (change(faces) == alone).all()


def test_the_corruptions_are_the_documented_ones() -> None:
    assert list(ALL_CORRUPTIONS) == [
        "histogram equalised",
        "blurred, sigma 1 px",
        "half the resolution",
        "JPEG, quality 30",
        "brightness -30 %",
        "brightness +30 %",
        "contrast -30 %",
        "contrast +30 %",
    ]


def test_light_changes_by_three_tenths_and_is_clipped() -> None:
    grey = np.full((1, 48, 48), 100, np.uint8)
    grey[0, 0, 0] = 250
    by_name = {name: change(grey)[0] for name, change in ALL_CORRUPTIONS.items()}
    assert by_name["brightness -30 %"][5, 5] == 70
    assert by_name["brightness +30 %"][5, 5] == 130
    assert by_name["brightness +30 %"][0, 0] == 255
    faces = _faces()
    for name, factor in (("contrast -30 %", 0.7), ("contrast +30 %", 1.3)):
        changed = ALL_CORRUPTIONS[name](faces)
        assert changed.mean(axis=(1, 2)) == pytest.approx(faces.mean(axis=(1, 2)), abs=1)
        spread = changed[0].std() / faces[0].std()
        assert spread == pytest.approx(factor, rel=0.05)


def test_blurring_removes_detail_and_equalising_spreads_the_greys() -> None:
    faces = _faces()
    assert _sharpness(blur(faces)) < 0.6 * _sharpness(faces)
    assert _sharpness(halve(faces)) < 0.6 * _sharpness(faces)
    assert blur(blur(faces)).std() < blur(faces).std()
    spread = equalize(faces)
    assert spread.min(axis=(1, 2)).max() < 5
    assert spread.max(axis=(1, 2)).min() > 250


def test_a_blurred_point_is_a_gaussian_of_one_pixel() -> None:
    point = np.zeros((1, 48, 48), np.uint8)
    point[0, 24, 24] = 255
    changed = blur(point)[0].astype(float)
    assert changed[24, 24] / 255 == pytest.approx(1 / (2 * np.pi), abs=0.01)
    assert changed[24, 25] / changed[24, 24] == pytest.approx(np.exp(-0.5), abs=0.03)
