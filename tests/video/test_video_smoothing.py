from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.errors import UsageError
from mien.video.smoothing import Smoother

SAD, HAPPY = {"happy": 0.1, "sad": 0.9}, {"happy": 0.9, "sad": 0.1}
gaps = st.lists(st.floats(0.005, 0.4), min_size=1, max_size=30)


@given(gaps)
def test_a_change_comes_through_by_the_time_passed_whatever_the_rate(steps: list[float]) -> None:
    smoother = Smoother(0.5)
    smoother.update(0.0, 0, SAD)
    time, seen = 0.0, smoother.update(0.0, 0, SAD)
    for step in steps:
        time += step
        seen = smoother.update(time, 0, HAPPY)
    share = 1 - math.exp(-time / 0.5)
    assert seen.scores["happy"] == pytest.approx(0.1 + 0.8 * share)
    assert seen.emotion == ("happy" if seen.scores["happy"] > 0.5 else "sad")


def test_people_are_smoothed_apart() -> None:
    smoother = Smoother(0.5)
    smoother.update(0.0, 0, SAD)
    assert smoother.update(0.1, 1, HAPPY).scores == HAPPY


def test_nothing_is_smoothed_over_no_time() -> None:
    smoother = Smoother(0.0)
    smoother.update(0.0, 0, SAD)
    assert smoother.update(0.04, 0, HAPPY).scores == HAPPY


def test_who_is_forgotten_starts_anew() -> None:
    smoother = Smoother(5.0)
    smoother.update(0.0, 0, SAD)
    smoother.update(1.0, 1, SAD)
    smoother.forget_before(0.5)
    assert smoother.update(1.1, 0, HAPPY).scores == HAPPY
    assert smoother.update(1.1, 1, HAPPY).scores != HAPPY


@pytest.mark.parametrize("constant", [-1.0, math.nan, math.inf])
def test_an_impossible_constant_is_refused(constant: float) -> None:
    with pytest.raises(UsageError, match="0 seconds or more"):
        Smoother(constant)
