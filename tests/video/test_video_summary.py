from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.emotions import EMOTIONS, valence
from mien.core.errors import InputError
from mien.core.results import Result
from mien.video.charts import ScoreHistory
from mien.video.summary import EventTable, Marker, Summary, event_columns, read_markers
from mien.video.tracker import Baseline
from video_results import MODEL, face, result


def test_marker_columns_may_have_any_order(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("\ufeffLabel;start;End;source\nthe joke;0:01;1:02:03.5;a.mp4\n;2;3;\n")
    joke, other = read_markers(path)
    assert joke == Marker(1.0, 3723.5, "the joke", "a.mp4")
    assert other == Marker(2.0, 3.0, "", None)
    assert [joke.applies_to(one) for one in ("a.mp4", "deep/a.mp4", "b.mp4")] == [True, True, False]
    assert other.applies_to("b.mp4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "start is missing"),
        ("start,end\n1,2\n", "label is missing"),
        ("start,end,label\n", "contains no events"),
        ("start,end,label\n0,1,a\nsoon,2,b\n", "line 3: expected a time"),
        ("start,end,label\n2,1,a\n", "line 2: expected an end after the start"),
        ("start,end,label\n2\n", "line 2: expected a time"),
    ],
)
def test_invalid_marker_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_markers(path)


def test_a_missing_marker_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_markers(tmp_path / "none.csv")


def test_events_have_means_and_shares_per_person() -> None:
    markers = [Marker(0.0, 1.0, "calm"), Marker(1.0, 2.0, "joke"), Marker(8.0, 9.0, "late")]
    table = EventTable(markers, EMOTIONS)
    for number in range(20):
        people = [face(0, "happy" if number >= 15 else "neutral", 0.7)]
        if number < 5:
            people.append(face(1, "angry", 0.4))
        table.add(result(number, *people))
    rows = table.rows()
    assert [(row["label"], row["track_id"], row["frames"]) for row in rows] == [
        ("calm", 0, 10),
        ("calm", 1, 5),
        ("joke", 0, 10),
        ("late", None, 0),
    ]
    calm, angry, joke, late = rows
    assert [row["seconds"] for row in rows] == pytest.approx([1.0, 0.5, 1.0, 0.0])
    assert (calm["share_neutral"], angry["share_angry"]) == (1.0, 1.0)
    assert joke["share_happy"] == pytest.approx(0.5)
    assert joke["happy"] == pytest.approx((0.7 + 0.05) / 2)
    assert joke["valence"] == pytest.approx(0.375 - 0.05)
    assert angry["valence"] == pytest.approx(0.1 - 0.4)
    assert late["valence"] is None
    assert ["source", *joke] == event_columns(EMOTIONS, corrected=False)


def test_frames_are_weighted_by_their_duration() -> None:
    table = EventTable([Marker(0.0, 10.0, "all")], EMOTIONS, gap_s=1.0)
    for moment, emotion in ((0.0, "happy"), (0.25, "sad"), (4.0, "fear")):
        table.add(replace(result(0, face(0, emotion)), time_s=moment))
    (row,) = table.rows()
    assert row["seconds"] == pytest.approx(0.25 + 1.0 + 1.0)
    assert row["share_happy"] == pytest.approx(0.25 / 2.25, abs=1e-6)


def test_corrected_scores_have_separate_columns() -> None:
    baseline = Baseline(EMOTIONS, 0.0, 0.5)
    table = EventTable([Marker(0.0, 1.0, "all")], EMOTIONS)
    for number in range(10):
        for one in baseline.add(result(number, face(0, "sad", 0.5))):
            table.add(one)
    (row,) = table.rows(corrected=True)
    assert (row["share_sad"], row["corrected_share_neutral"]) == (1.0, 1.0)
    assert row["valence"] < -0.3
    assert row["corrected_valence"] == pytest.approx(0.0, abs=1e-6)
    assert ["source", *row] == event_columns(EMOTIONS, corrected=True)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"happy": 1.0, "angry": 0.0, "disgust": 0.0, "fear": 0.0, "sad": 0.0}, 1.0),
        ({"happy": 0.1, "angry": 0.0, "disgust": 0.0, "fear": 0.9, "sad": 0.0}, -0.8),
        ({"happy": 0.5, "angry": 0.5}, None),
    ],
)
def test_valence(scores: dict[str, float], expected: float | None) -> None:
    found = valence(scores)
    assert found == expected or found == pytest.approx(expected)


# ---------------------------------------------------------------- episodes
def test_successive_episodes_have_no_gap() -> None:
    summary = Summary()
    for number in range(10):
        summary.add(result(number, face(0, "sad" if number < 4 else "happy", 0.6)))
    (person,) = summary.people()
    sad, happy = person.episodes
    assert (sad.emotion, happy.emotion) == ("sad", "happy")
    assert (sad.start_s, sad.frames, happy.frames) == (0.0, 4, 6)
    assert [sad.end_s, happy.start_s, happy.end_s] == pytest.approx([0.4, 0.4, 1.0])
    assert sad.confidence == pytest.approx(0.6)
    assert person.seconds == pytest.approx(1.0)
    assert person.frames == 10


def test_a_long_absence_starts_a_new_episode() -> None:
    summary = Summary(gap_s=0.5)
    for number in range(20):
        away = 5 <= number < 15
        summary.add(result(number) if away else result(number, face(3, "fear")))
    (person,) = summary.people()
    spans = [time for one in person.episodes for time in (one.start_s, one.end_s)]
    assert spans == pytest.approx([0.0, 0.5, 1.5, 2.0])


def test_people_are_separate() -> None:
    summary = Summary()
    summary.add(result(0, face(0, "happy"), face(1, "sad")))
    summary.add(result(1, face(0, "happy"), face(1, "sad")))
    people = [person.to_dict() for person in summary.people()]
    assert [person["track_id"] for person in people] == [0, 1]
    assert people[1]["episodes"] == [
        {"start_s": 0.0, "end_s": 0.2, "emotion": "sad", "confidence": 0.7, "frames": 2}
    ]
    assert (summary.frames, summary.faces) == (2, 4)


def test_a_result_without_a_frame_is_ignored() -> None:
    summary, history = Summary(), ScoreHistory()
    broken = Result("a.mp4", "unreadable", MODEL, time_s=3.0, error="cut")
    summary.add(broken)
    history.add(broken)
    assert (summary.frames, summary.people(), history.people()) == (0, [], [])


@given(st.lists(st.sampled_from(["happy", "sad", None]), max_size=80))
def test_every_frame_of_a_person_is_in_one_episode(seen: list[str | None]) -> None:
    summary = Summary()
    for number, emotion in enumerate(seen):
        summary.add(result(number, *([] if emotion is None else [face(0, emotion)])))
    episodes = [one for person in summary.people() for one in person.episodes]
    assert sum(one.frames for one in episodes) == sum(emotion is not None for emotion in seen)
    for one, after in pairwise(episodes):
        assert one.start_s < one.end_s <= after.start_s + 1e-9
