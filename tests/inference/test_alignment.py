from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.errors import UsageError
from mien.inference.alignment import ALIGN, AUTO_ROLL, check_align, roll_of, turn_of

UPRIGHT = ((-20.0, -18.0), (20.0, -18.0), (0.0, 2.0), (-15.0, 22.0), (15.0, 22.0))


def leaning(degrees: float) -> tuple[tuple[float, float], ...]:
    """An upright face, turned clockwise as one looks at the picture (y goes down)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return tuple((100 + x * cos - y * sin, 80 + x * sin + y * cos) for x, y in UPRIGHT)


@given(st.floats(-170, 170))
def test_the_roll_is_what_a_face_was_turned_by(degrees: float) -> None:
    assert roll_of(leaning(degrees)) == pytest.approx(degrees, abs=1e-6)


def test_faces_that_lean_far_are_turned_back() -> None:
    little, much = leaning(AUTO_ROLL - 0.5), leaning(AUTO_ROLL + 0.5)
    assert turn_of(little, "auto") == 0
    assert turn_of(much, "auto") == pytest.approx(AUTO_ROLL + 0.5)
    assert turn_of(leaning(-40), "auto") == pytest.approx(-40)
    assert turn_of(little, "on") == pytest.approx(AUTO_ROLL - 0.5)
    assert turn_of(much, "off") == 0


def test_without_landmarks_nothing_is_turned() -> None:
    assert [turn_of(None, align) for align in ALIGN] == [0, 0, 0]


@pytest.mark.parametrize("quarter", [90.0, 180.0, -90.0])
def test_quarter_turns_are_turned_back_in_any_case_and_more_as_from_upright(quarter: float) -> None:
    little, much = leaning(quarter + AUTO_ROLL - 0.5), leaning(quarter - AUTO_ROLL - 0.5)
    assert [turn_of(None, align, quarter) for align in ALIGN] == [quarter] * 3
    assert turn_of(little, "auto", quarter) == quarter
    assert turn_of(little, "off", quarter) == quarter
    for landmarks, align in ((little, "on"), (much, "auto")):
        assert turn_of(landmarks, align, quarter) == pytest.approx(roll_of(landmarks))


def test_other_words_are_refused() -> None:
    with pytest.raises(UsageError, match="'auto', 'on', 'off', got 'yes'"):
        check_align("yes")
