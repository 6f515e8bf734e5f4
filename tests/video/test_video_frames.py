from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.errors import UsageError
from mien.video.frames import (
    MAX_GAP_S,
    UPRIGHT,
    FrameClock,
    Window,
    format_time,
    is_sideways,
    orientation_from_degrees,
    orientation_from_matrix,
    parse_span,
    parse_time,
    rotate_upright,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("0.5s", 0.5),
        ("2 s", 2),
        (".5", 0.5),
        ("1:30", 90),
        ("0:04.25", 4.25),
        ("1:02:03.5", 3723.5),
    ],
)
def test_times_are_parsed(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "x", "s", "1ms", "-1", "1:60", "1:99:00", "1:2:3:4", "nan", "inf", "1e3"]
)
def test_invalid_times_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a time"):
        parse_time(text)


@pytest.mark.parametrize("text", ["9" * 5000, "9" * 5000 + ":00:00"])
def test_excessive_times_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected start as seconds from 0 to"):
        Window(parse_time(text))


@given(st.integers(0, 10**8))
def test_a_formatted_time_can_be_parsed(milliseconds: int) -> None:
    text = format_time(milliseconds / 1000, digits=3)
    assert parse_time(text) == pytest.approx(milliseconds / 1000)


def test_times_are_formatted() -> None:
    assert format_time(4.25) == "0:04.2"
    assert format_time(59.96) == "1:00.0"
    assert format_time(3723, digits=0) == "1:02:03"


@pytest.mark.parametrize(
    "window",
    [
        {"start": -1},
        {"start": float("nan")},
        {"start": 1e16},
        {"start": 2, "end": 2},
        {"end": float("nan")},
        {"every": 0},
        {"every": float("nan")},
        {"every": float("inf")},
        {"every": 1e-300},
    ],
)
def test_invalid_windows_are_refused(window: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        Window(**window)


def test_a_window_includes_its_start_and_excludes_its_end() -> None:
    window = Window(1.0, 2.0)
    assert window.starts_after(0.99)
    assert not window.starts_after(1.0)
    assert not window.ends_before(1.99)
    assert window.ends_before(2.0)


@given(st.floats(0.01, 2), st.lists(st.floats(0.001, 0.5), min_size=1, max_size=60))
def test_one_frame_per_step_is_selected_at_any_rate(every: float, gaps: list[float]) -> None:
    window, time, steps = Window(every=every), 0.0, []
    for gap in gaps:
        steps.append(window.step(time))
        time += gap
    taken = [step for step, last in zip(steps, [None, *steps], strict=False) if step != last]
    assert taken == sorted(set(taken), key=taken.index)
    assert set(taken) == set(steps)


def test_steps_on_frames_survive_rounding() -> None:
    window = Window(every=0.1)
    assert [window.step(number / 10) for number in range(50)] == list(range(50))


# ---------------------------------------------------------------- clock
def _times(*stamps: float | None, tick_s: float = 0.1) -> list[float]:
    clock = FrameClock(tick_s)
    return [clock.time_of(stamp) for stamp in stamps]


def test_rising_stamps_are_the_times() -> None:
    assert _times(0.0, 0.02, 0.3, 7.5, 50.0) == [0.0, 0.02, 0.3, 7.5, 50.0]


@pytest.mark.parametrize("again", [0.0, -50.0, 100.0, 1e9])
def test_jumps_are_replaced_by_the_last_step(again: float) -> None:
    stamps = [0.0, 0.2, 0.4, again, again + 0.2, again + 0.4]
    assert _times(*stamps) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_single_wrong_stamp_is_corrected() -> None:
    stamps = [0.0, 0.1, 95443.7, 0.3, 0.4]
    assert _times(*stamps) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_slightly_disordered_frames_move_no_others() -> None:
    times = _times(0.0, 0.12, 0.04, 0.08, 0.24, 0.24, 0.28)
    assert times == pytest.approx([0.0, 0.12, 0.121, 0.122, 0.24, 0.241, 0.28])


def test_constant_or_missing_stamps_advance_by_the_rate() -> None:
    assert _times(None, None, None) == pytest.approx([0.0, 0.1, 0.2])
    stuck = _times(*[0.0] * 13)
    assert stuck[-1] - stuck[3] == pytest.approx(0.9)


def test_times_start_at_zero() -> None:
    assert _times(95000.0, 95000.1) == pytest.approx([0.0, 0.1])
    assert _times(-0.5, 0.1) == pytest.approx([0.0, 0.1])


@given(
    st.lists(
        st.one_of(st.none(), st.floats(-1e5, 1e5), st.sampled_from([0.0, 0.04, 0.08, 1e17])),
        max_size=50,
    ),
    st.floats(0, 1e9),
)
def test_times_rise_for_any_stamps(stamps: list[float | None], tick_s: float) -> None:
    times = _times(*stamps, tick_s=tick_s)
    assert all(0 < b - a <= MAX_GAP_S + 1e-6 for a, b in pairwise(times))


@pytest.mark.parametrize(
    ("text", "span"),
    [("0:5", (0, 5)), ("1.5:2", (1.5, 2)), ("1:00-1:05", (60, 65)), ("0-5s", (0, 5))],
)
def test_spans_are_parsed(text: str, span: tuple[float, float]) -> None:
    assert parse_span(text) == span


@pytest.mark.parametrize("text", ["", "5", "0:1:2", "5:0", "1-1", "a:b", "-1:2"])
def test_invalid_spans_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse_span(text)


# ---------------------------------------------------------------- rotation
PICTURE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


@pytest.mark.parametrize("quarters", range(4))
def test_degrees_are_clockwise(quarters: int) -> None:
    turn = orientation_from_degrees(90 * quarters)
    np.testing.assert_array_equal(rotate_upright(PICTURE, turn), np.rot90(PICTURE, -quarters))
    assert is_sideways(turn) == bool(quarters % 2)


@pytest.mark.parametrize("degrees", [-90, 450, 89.6])
def test_degrees_are_rounded_to_quarter_turns(degrees: float) -> None:
    assert orientation_from_degrees(degrees) == orientation_from_degrees(270 if degrees < 0 else 90)


def _matrix(a: int, b: int, c: int, d: int) -> bytes:
    one = 1 << 16
    return struct.pack("=9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)


@pytest.mark.parametrize(
    ("abcd", "axis"), [((-1, 0, 0, 1), 1), ((1, 0, 0, -1), 0)], ids=["mirrored", "upside down"]
)
def test_a_matrix_may_mirror(abcd: tuple[int, int, int, int], axis: int) -> None:
    turn = orientation_from_matrix(_matrix(*abcd))
    np.testing.assert_array_equal(rotate_upright(PICTURE, turn), np.flip(PICTURE, axis))


def test_a_matrix_may_swap_rows_and_columns() -> None:
    turn = orientation_from_matrix(_matrix(0, 1, 1, 0))
    np.testing.assert_array_equal(rotate_upright(PICTURE, turn), PICTURE.transpose(1, 0, 2))


def test_an_upright_picture_is_returned_unchanged() -> None:
    assert orientation_from_matrix(_matrix(1, 0, 0, 1)) == UPRIGHT
    assert rotate_upright(PICTURE, UPRIGHT) is PICTURE
