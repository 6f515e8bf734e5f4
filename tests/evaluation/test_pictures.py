"""Tables and grids of a user's own pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mien.core.emotions import EMOTIONS
from mien.core.errors import UsageError
from mien.core.results import Box, Face, ModelInfo, Quality, Result
from mien.evaluation.pictures import (
    face_truths,
    picture_columns,
    picture_grid,
    picture_rows,
    pictures_dict,
    truth_of,
)

MODEL = ModelInfo("little", "1.2.3", "ab" * 32)


def make_face(number: int, emotion: str, side: int) -> Face:
    scores = {name: 0.7 if name == emotion else 0.05 for name in EMOTIONS}
    return Face(
        face_id=number,
        box=Box(5 + 60 * number, 5, side, side),
        face_confidence=0.9,
        emotion=emotion,
        confidence=0.7,
        uncertain=False,
        scores=scores,
        quality=Quality(side, 0.1),
    )


def make_result(source: str, *faces: Face) -> Result:
    return Result(source, "ok" if faces else "no_face", MODEL, 200, 100, faces)


@pytest.mark.parametrize(
    ("source", "truth"),
    [
        ("ImgTest/happy/me.jpg", "happy"),
        ("ImgTest/Sadness/me.jpg", "sad"),
        ("ImgTest/surprised_2.png", "surprise"),
        ("Angry.jpeg", "angry"),
        ("ImgTest/me.jpg", None),
        ("ImgTest/2.jpg", None),
        ("ImgTest/happyface.jpg", None),
        ("", None),
    ],
)
def test_the_truth_comes_from_the_folder_or_the_file_name(source: str, truth: str | None) -> None:
    assert truth_of(source) == truth


def test_only_the_largest_face_has_a_truth() -> None:
    result = make_result("happy/group.jpg", make_face(0, "sad", 20), make_face(1, "happy", 40))
    assert face_truths(result) == [None, "happy"]


def test_rows_and_json_contain_truth_and_correctness() -> None:
    results = [
        make_result("happy/a.jpg", make_face(0, "happy", 40)),
        make_result("sad/a.jpg", make_face(0, "happy", 40)),
        make_result("b.jpg", make_face(0, "fear", 40)),
        make_result("happy/c.jpg"),
    ]
    rows = picture_rows(results)
    assert all(tuple(row) == picture_columns() for row in rows)
    assert [(row["truth"], row["right"]) for row in rows] == [
        ("happy", True),
        ("sad", False),
        (None, None),
        (None, None),
    ]
    content = pictures_dict(results)
    assert (content["known"], content["right"]) == (2, 1)
    assert [picture["truth"] for picture in content["pictures"]] == ["happy", "sad", None, "happy"]


def test_the_grid_shows_the_faces_of_the_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "happy_me_with_a_very_long_file_name.png"
    Image.fromarray(np.full((100, 200, 3), (255, 0, 0), np.uint8)).save(path)
    results = [make_result(str(path), make_face(0, "happy", 40), make_face(1, "sad", 30))]
    picture_grid(results, tmp_path / "grid.png", crop_scale=1.0)
    with Image.open(tmp_path / "grid.png") as image:
        assert (255, 0, 0) in {color for _, color in image.convert("RGB").getcolors(1 << 24) or []}
    with pytest.raises(UsageError, match="at least one face"):
        picture_grid([make_result(str(path))], tmp_path / "grid.png", crop_scale=1.0)
