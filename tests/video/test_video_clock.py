from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.video.clock import MOST_GAP_S, FrameClock


def _times(*stamps: float | None, tick_s: float = 0.1) -> list[float]:
    clock = FrameClock(tick_s)
    return [clock.time_of(stamp) for stamp in stamps]


def test_stamps_that_rise_are_the_times() -> None:
    assert _times(0.0, 0.02, 0.3, 7.5, 50.0) == [0.0, 0.02, 0.3, 7.5, 50.0]


@pytest.mark.parametrize("again", [0.0, -50.0, 100.0, 1e9])
def test_after_a_jump_the_next_frame_follows_by_the_last_step(again: float) -> None:
    stamps = [0.0, 0.2, 0.4, again, again + 0.2, again + 0.4]
    assert _times(*stamps) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_one_wrong_stamp_costs_no_time() -> None:
    stamps = [0.0, 0.1, 95443.7, 0.3, 0.4]
    assert _times(*stamps) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_frames_a_little_out_of_order_move_nobody_else() -> None:
    times = _times(0.0, 0.12, 0.04, 0.08, 0.24, 0.24, 0.28)
    assert times == pytest.approx([0.0, 0.12, 0.121, 0.122, 0.24, 0.241, 0.28])


def test_a_clock_that_stands_still_or_is_missing_goes_on_by_the_rate() -> None:
    assert _times(None, None, None) == pytest.approx([0.0, 0.1, 0.2])
    stuck = _times(*[0.0] * 13)
    assert stuck[-1] - stuck[3] == pytest.approx(0.9)


def test_what_begins_far_from_zero_begins_at_zero() -> None:
    assert _times(95000.0, 95000.1) == pytest.approx([0.0, 0.1])
    assert _times(-0.5, 0.1) == pytest.approx([0.0, 0.1])


@given(
    st.lists(
        st.one_of(st.none(), st.floats(-1e5, 1e5), st.sampled_from([0.0, 0.04, 0.08, 1e17])),
        max_size=50,
    ),
    st.floats(0, 1e9),
)
def test_time_rises_whatever_the_stamps_do(stamps: list[float | None], tick_s: float) -> None:
    times = _times(*stamps, tick_s=tick_s)
    assert all(0 < b - a <= MOST_GAP_S + 1e-6 for a, b in pairwise(times))
