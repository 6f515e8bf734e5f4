from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.emotions import EMOTIONS
from mien.core.errors import UsageError
from mien.core.results import Face, Result
from mien.video.tracker import NEUTRAL_SHARE, Baseline, correct, neutral_scores, shift_to_neutral
from video_results import MODEL, face, result


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
def test_what_rises_against_the_baseline_rises(rest: list[float], now: list[float]) -> None:
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


def test_somebody_who_looks_sad_at_rest_is_neutral_then_happy() -> None:
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


def test_who_is_not_in_the_baseline_stays_raw_and_is_told() -> None:
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


def test_a_video_that_breaks_off_in_the_baseline_keeps_its_results() -> None:
    baseline = Baseline(EMOTIONS, 0.0, 5.0)
    assert baseline.add(result(0, face(0, "sad"))) == []
    broken = Result("a.mp4", "unreadable", MODEL, time_s=0.1, error="cut")
    first, last = baseline.add(broken)
    assert (_corrected(first), last) == ("neutral", broken)
    assert baseline.finish() == []


def test_a_model_without_neutral_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a model with the class neutral"):
        Baseline(("bored", "awake"), 0.0, 5.0)
