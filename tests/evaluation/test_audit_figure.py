from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from data_maker import make_tiny_splits
from mien.core.errors import OutputError
from mien.data.audit import audit_splits
from mien.data.dataset import Split
from mien.evaluation.figures import draw_audit


def flawed_splits() -> dict[str, Split]:
    splits = make_tiny_splits(per_class=3)
    splits["test"].images[0] = splits["train"].images[4]
    splits["val"].images[1] = 0
    return splits


def draw(splits: dict[str, Split], path: Path) -> np.ndarray:
    draw_audit(audit_splits(splits), splits, path, title="tiny")
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture


def test_the_picture_shows_charts_and_examples(tmp_path: Path) -> None:
    picture = draw(flawed_splits(), tmp_path / "new" / "audit.png")
    height, width, _ = picture.shape
    assert (width, height) == (13 * 150, pytest.approx((5.2 + 3 * 1.85 + 0.4) * 150, abs=1))
    # Every part is drawn: both charts, and the example images in the rows below.
    for part in (picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :]):
        assert (part < 200).any()
    assert (picture[-200:-100, 30:130] < 50).mean() > 0.3, "the blank, black image"


def test_rows_without_examples_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    splits = make_tiny_splits(per_class=2)
    for split in splits.values():
        split.images[:] = rng.integers(0, 256, split.images.shape)
    assert draw(splits, tmp_path / "audit.png").shape[0] == pytest.approx(5.6 * 150, abs=1)


def test_a_path_that_is_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        draw(flawed_splits(), tmp_path)
