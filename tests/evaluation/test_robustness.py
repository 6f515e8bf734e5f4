from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mien.core.errors import InputError, UsageError
from mien.core.results import ModelInfo
from mien.evaluation.robustness import (
    Robustness,
    check_robustness_section,
    measure_robustness,
    robustness_markdown,
    robustness_text,
    update_robustness,
    write_robustness,
)

MODEL = ModelInfo("little", "1.2.3", "ab" * 32)
MARKS = "# T\n\n<!-- figures:begin robustness -->\n<!-- figures:end robustness -->\n\nkept\n"


def _measured(count: int = 100, dark: int = 5) -> Robustness:
    """Of a reader who sees bright pictures right and dark ones wrong, ``dark`` of them near dark.

    So only less brightness costs anything, and costs just those.
    """
    images = np.full((count, 48, 48), 200, np.uint8)
    images[:dark] = 110

    def classify(faces: np.ndarray) -> np.ndarray:
        bright = faces.mean(axis=(1, 2)) > 100
        return np.eye(7, dtype=np.float32)[np.where(bright, 3, 0)]

    return measure_robustness(
        classify, images, np.full(count, 3), model=MODEL, split="val", quiet=True
    )


def test_only_what_a_change_costs_is_counted() -> None:
    result = _measured()
    assert (result.count, result.correct, result.accuracy) == (100, 100, 1.0)
    costs = {loss.change: loss.points for loss in result.losses}
    # A face of one grey is white once it is equalised, or black: no part of this test.
    del costs["histogram equalised"]
    assert costs.pop("brightness -30 %") == pytest.approx(5.0)
    assert len(costs) == 6
    assert set(costs.values()) == {0.0}


@pytest.mark.parametrize(("dark", "kept"), [(4, True), (5, False)])
def test_four_points_are_within_the_limit_and_more_are_not(dark: int, kept: bool) -> None:
    result = _measured(dark=dark)
    (loss,) = (each for each in result.losses if each.change == "brightness -30 %")
    assert loss.kept is kept
    row = next(line for line in robustness_text(result).splitlines() if "brightness -" in line)
    verdict = "kept" if kept else "broken"
    expected = f"brightness -30 %  {100 - dark}.00 %  {dark}.00  {verdict}"
    assert row.split() == expected.split()


def test_the_verdict_counts_the_broken_ones() -> None:
    result = _measured(dark=0)
    broken = [loss for loss in result.losses if not loss.kept]
    assert result.kept is (not broken)
    text = robustness_text(_measured(dark=50))
    assert "cost" in text.splitlines()[-1]
    assert "more than 4 points" in text


def test_files_hold_the_figures(tmp_path: Path) -> None:
    result = _measured()
    page = write_robustness(result, tmp_path / "report")
    assert page.read_text().startswith("# Robustness\n\nlittle 1.2.3 on val, 100 images:")
    content = json.loads((tmp_path / "report/robustness.json").read_text())
    assert content == json.loads(json.dumps(result.to_dict()))
    assert content["schema"] == "mien-robustness/1"
    assert content["model"]["name"] == "little"
    assert len(content["losses"]) == 8


def test_a_page_is_updated_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(MARKS)
    result = _measured()
    check_robustness_section([page])
    update_robustness(page, result)
    assert robustness_markdown(result) in page.read_text()
    assert page.read_text().endswith("kept\n")


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("# T\n")
    with pytest.raises(UsageError, match="figures:begin robustness"):
        check_robustness_section([page])
    with pytest.raises(InputError):
        check_robustness_section([tmp_path / "none.md"])


def test_no_images_and_too_few_labels_are_refused() -> None:
    images = np.zeros((2, 48, 48), np.uint8)
    for count, labels in ((0, 0), (2, 1)):
        with pytest.raises(UsageError, match="at least one"):
            measure_robustness(
                lambda faces: np.zeros((len(faces), 7), np.float32),
                images[:count],
                np.zeros(labels, np.int64),
                model=MODEL,
                split="val",
                quiet=True,
            )
