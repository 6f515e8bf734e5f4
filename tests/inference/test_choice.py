from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.errors import UsageError
from mien.core.results import Box
from mien.inference.choice import FaceChoice
from mien.inference.detectors import Detection


def found(*sides: int) -> list[Detection]:
    return [Detection(Box(100 * place, 0, side, side), 0.9) for place, side in enumerate(sides)]


def sides(detections: tuple[Detection, ...]) -> list[int]:
    return [one.box.w for one in detections]


def test_all_faces_are_read_unless_told_otherwise() -> None:
    assert sides(FaceChoice().chosen(found(9, 40, 3))) == [9, 40, 3]


def test_small_faces_are_left_out() -> None:
    assert sides(FaceChoice(min_face=40).chosen(found(39, 40, 41))) == [40, 41]
    flat = [Detection(Box(0, 0, 90, 39), 0.9)]
    assert FaceChoice(min_face=40).chosen(flat) == ()


def test_the_largest_are_kept_in_their_order() -> None:
    assert sides(FaceChoice(max_faces=2).chosen(found(50, 20, 60, 40))) == [50, 60]


def test_of_equal_faces_the_surest_is_kept() -> None:
    box = Box(0, 0, 50, 50)
    unsure, sure = Detection(box, 0.7), Detection(box, 0.9)
    assert FaceChoice(max_faces=1).chosen([unsure, sure]) == (sure,)


@given(st.lists(st.integers(1, 99)), st.integers(0, 99), st.integers(1, 9))
def test_no_face_that_is_left_out_is_larger(all_sides: list[int], least: int, most: int) -> None:
    kept = sides(FaceChoice(min_face=least, max_faces=most).chosen(found(*all_sides)))
    large = sorted(side for side in all_sides if side >= least)
    assert sorted(kept) == large[-most:]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_face": -1}, "min_face"),
        ({"min_face": 2.5}, "min_face"),
        ({"max_faces": 0}, "max_faces"),
        ({"max_faces": True}, "max_faces"),
        ({"align": "maybe"}, "align"),
    ],
)
def test_values_that_cannot_be_used_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        FaceChoice(**options)
