from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.emotions import EMOTIONS
from mien.core.errors import UsageError
from mien.core.results import Box, Face, Result
from mien.video.tracker import (
    NEUTRAL_SHARE,
    Baseline,
    CutDetector,
    Smoother,
    Tracker,
    assign,
    correct,
    neutral_scores,
    shift_to_neutral,
    track_faces,
    track_memory,
)
from video_results import MODEL, face, result

# ---------------------------------------------------------------- tracking
costs = st.integers(0, 5).flatmap(
    lambda columns: st.lists(
        st.lists(
            st.one_of(st.floats(0, 10), st.just(math.inf)), min_size=columns, max_size=columns
        ),
        max_size=5,
    )
)


def _best(table: list[list[float]]) -> tuple[int, float]:
    """Largest number of pairs (negative) and their lowest cost, by brute force."""
    rows, columns = len(table), len(table[0]) if table else 0
    best = (0, 0.0)
    for chosen in permutations([*range(columns), *[-1] * rows], rows):
        pairs = [table[row][column] for row, column in enumerate(chosen) if column >= 0]
        pairs = [cost for cost in pairs if math.isfinite(cost)]
        best = min(best, (-len(pairs), sum(pairs)))
    return best


@given(costs)
def test_assignment_is_optimal(table: list[list[float]]) -> None:
    if len(table) * len(table[0] if table else []) > 12:
        table = [row[:3] for row in table[:4]]
    pairs = assign(table)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    count, cost = _best(table)
    assert -len(pairs) == count
    assert sum(table[row][column] for row, column in pairs) == pytest.approx(cost)


def test_an_empty_assignment() -> None:
    assert assign([]) == assign([[], []]) == []


def test_rescaling_keeps_track_ids() -> None:
    tracker = Tracker()
    assert tracker.update(0.0, [_box(50), _box(200)]) == [0, 1]
    tracker.rescale(3.0, 3.0)
    assert tracker.update(0.04, [_box(600, 150, 120), _box(150, 150, 120)]) == [1, 0]


def _box(x: float, y: float = 50, side: int = 40) -> Box:
    return Box(round(x), round(y), side, side)


def test_track_ids_do_not_depend_on_the_order() -> None:
    tracker = Tracker()
    assert tracker.update(0.0, [_box(10), _box(200)]) == [0, 1]
    assert tracker.update(0.04, [_box(202), _box(11)]) == [1, 0]


@pytest.mark.parametrize("step", [0.04, 0.1, 0.25])
def test_crossing_people_keep_their_track_ids(step: float) -> None:
    tracker = Tracker()
    for number in range(round(2 / step)):
        time = number * step
        boxes = [_box(20 + 100 * time, 50), _box(220 - 100 * time, 75)]
        assert tracker.update(time, boxes) == [0, 1]


def test_a_short_occlusion_keeps_the_track_id() -> None:
    tracker = Tracker()
    for number in range(20):
        tracker.update(number / 25, [_box(20 + 4 * number)])
    assert tracker.update(1.1, [_box(20 + 100)]) == [0]


def test_a_long_absence_gives_a_new_track_id() -> None:
    tracker = Tracker(memory_s=1.0)
    tracker.update(0.0, [_box(20)])
    assert tracker.update(1.0, []) == []
    assert tracker.update(1.01, [_box(20)]) == [1]


def test_a_stall_of_the_analysis_is_not_an_absence() -> None:
    tracker = Tracker(memory_s=1.0)
    tracker.update(0.0, [_box(20)])
    assert tracker.update(4.9, [_box(20)]) == [0]
    assert tracker.update(10.0, [_box(20)]) == [
        1
    ]  # too long to be certain that it is the same person


def test_absence_before_a_stall_gives_a_new_track_id() -> None:
    tracker = Tracker(memory_s=1.0)
    tracker.update(0.0, [_box(20)])
    tracker.update(0.5, [])
    assert tracker.update(2.0, [_box(20)]) == [1]


def test_a_jump_gives_a_new_track_id() -> None:
    tracker = Tracker()
    tracker.update(0.0, [_box(20)])
    assert tracker.update(0.04, [_box(200)]) == [1]
    assert tracker.update(0.08, [_box(20, side=110)]) == [2]


def test_memory_grows_with_the_step() -> None:
    assert track_memory(None) == track_memory(0.1) == 1.0
    assert track_memory(5.0) == 10.0


@given(st.lists(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 300)), max_size=5)))
def test_track_ids_are_unique_within_a_frame(frames: list[list[tuple[int, int]]]) -> None:
    tracker = Tracker()
    for number, places in enumerate(frames):
        numbers = tracker.update(number / 10, [_box(x, y) for x, y in places])
        assert len(set(numbers)) == len(places)


def test_cuts_are_detected_and_slow_changes_are_not() -> None:
    dark, light = np.full((90, 160, 3), 30, np.uint8), np.full((90, 160, 3), 200, np.uint8)
    finder = CutDetector()
    assert not finder.is_cut(0.0, dark)
    assert not finder.is_cut(0.04, dark + 10)
    assert finder.is_cut(0.08, light)
    assert not finder.is_cut(0.12, light)
    assert not finder.is_cut(1.5, dark)


# ---------------------------------------------------------------- smoothing
SAD, HAPPY = {"happy": 0.1, "sad": 0.9}, {"happy": 0.9, "sad": 0.1}
gaps = st.lists(st.floats(0.005, 0.4), min_size=1, max_size=30)


@given(gaps)
def test_smoothing_depends_on_time_not_on_the_rate(steps: list[float]) -> None:
    smoother = Smoother(0.5)
    smoother.update(0.0, 0, SAD)
    time, seen = 0.0, smoother.update(0.0, 0, SAD)
    for step in steps:
        time += step
        seen = smoother.update(time, 0, HAPPY)
    share = 1 - math.exp(-time / 0.5)
    assert seen.scores["happy"] == pytest.approx(0.1 + 0.8 * share)
    assert seen.emotion == ("happy" if seen.scores["happy"] > 0.5 else "sad")


def test_people_are_smoothed_separately() -> None:
    smoother = Smoother(0.5)
    smoother.update(0.0, 0, SAD)
    assert smoother.update(0.1, 1, HAPPY).scores == HAPPY


def test_a_constant_of_zero_disables_smoothing() -> None:
    smoother = Smoother(0.0)
    smoother.update(0.0, 0, SAD)
    assert smoother.update(0.04, 0, HAPPY).scores == HAPPY


def test_dropped_people_start_again() -> None:
    smoother = Smoother(5.0)
    smoother.update(0.0, 0, SAD)
    smoother.update(1.0, 1, SAD)
    smoother.drop_before(0.5)
    assert smoother.update(1.1, 0, HAPPY).scores == HAPPY
    assert smoother.update(1.1, 1, HAPPY).scores != HAPPY


@pytest.mark.parametrize("constant", [-1.0, math.nan, math.inf])
def test_invalid_constants_are_refused(constant: float) -> None:
    with pytest.raises(UsageError, match="0 seconds or more"):
        Smoother(constant)


def test_smoothed_scores_are_dropped_with_their_tracks() -> None:
    tracker, smoother = Tracker(memory_s=1.0), Smoother(100.0)
    seen = track_faces(result(0, face(0, "happy")), 0.0, tracker, smoother)
    assert seen.faces[0].track_id == 0
    track_faces(result(50), 5.0, tracker, smoother)
    scores = face(0, "sad").scores
    assert smoother.update(5.0, 0, scores).scores == scores


# ---------------------------------------------------------------- baseline
def composition(weights: list[float]) -> dict[str, float]:
    return {name: weight / sum(weights) for name, weight in zip(EMOTIONS, weights, strict=True)}


weights = st.lists(st.floats(1e-6, 1.0), min_size=7, max_size=7)


@given(weights, st.integers(1, 5))
def test_a_constant_face_is_corrected_to_neutral(shares: list[float], frames: int) -> None:
    scores = composition(shares)
    corrected = correct(scores, shift_to_neutral([scores] * frames))
    assert corrected.emotion == "neutral"
    assert corrected.scores == pytest.approx(
        correct(neutral_scores(EMOTIONS), dict.fromkeys(EMOTIONS, 0.0)).scores
    )


@given(weights)
def test_a_neutral_baseline_changes_little(shares: list[float]) -> None:
    scores = composition(shares)
    corrected = correct(scores, shift_to_neutral([neutral_scores(EMOTIONS)]))
    assert dict(corrected.scores) == pytest.approx(scores, abs=0.07)


@given(weights, weights)
def test_correction_keeps_ratios(rest: list[float], now: list[float]) -> None:
    before, after = composition(rest), composition(now)
    shift = shift_to_neutral([before])
    neutral, seen = correct(before, shift).scores, correct(after, shift).scores

    def ratio(scores: dict[str, float], one: str) -> float:
        return (scores[one] + 0.01) / (scores["sad"] + 0.01)

    for one in EMOTIONS:
        raw = ratio(after, one) / ratio(before, one)
        found = (seen[one] / seen["sad"]) / (neutral[one] / neutral["sad"])
        assert found == pytest.approx(raw)
    assert math.fsum(seen.values()) == pytest.approx(1.0)


def test_a_face_that_looks_sad_at_rest_becomes_neutral() -> None:
    moments = [face(0, "sad", 0.6)] * 10 + [face(0, "happy", 0.8)] * 5
    results = [result(number, one) for number, one in enumerate(moments)]
    baseline = Baseline(EMOTIONS, 0.0, 1.0)
    early = [each for one in results[:10] for each in baseline.add(one)]
    assert early == []
    found = [each for one in results[10:] for each in baseline.add(one)] + baseline.finish()
    assert [each.frame for each in found] == list(range(15))
    emotions = [_corrected(each) for each in found]
    assert emotions == ["neutral"] * 10 + ["happy"] * 5
    assert [replace(one.faces[0], corrected=None) for one in found] == moments
    share = found[0].faces[0].corrected
    assert share is not None
    assert share.confidence == pytest.approx((NEUTRAL_SHARE + 0.01) / 1.07)
    assert baseline.people_without() == []


def _corrected(found: Result) -> str:
    (one,) = found.faces
    assert one.corrected is not None
    return one.corrected.emotion


def test_people_absent_from_the_baseline_stay_raw() -> None:
    baseline = Baseline(EMOTIONS, 0.2, 0.5)
    found: list[Result] = []
    for number in range(10):
        people = [face(0, "angry")] + ([face(1, "sad")] if number in (0, 1, 8) else [])
        found += baseline.add(result(number, *people))
    assert [one.frame for one in found] == list(range(10))
    assert all(one.faces[0].corrected is not None for one in found)
    late: list[Face] = [one.faces[1] for one in found if len(one.faces) > 1]
    assert [one.corrected for one in late] == [None] * 3
    assert baseline.people_without() == [1]


def test_a_video_that_ends_within_the_baseline_keeps_its_results() -> None:
    baseline = Baseline(EMOTIONS, 0.0, 5.0)
    assert baseline.add(result(0, face(0, "sad"))) == []
    broken = Result("a.mp4", "unreadable", MODEL, time_s=0.1, error="cut")
    first, last = baseline.add(broken)
    assert (_corrected(first), last) == ("neutral", broken)
    assert baseline.finish() == []


def test_a_model_without_neutral_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a model with the class neutral"):
        Baseline(("bored", "awake"), 0.0, 5.0)
