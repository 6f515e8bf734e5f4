from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.results import Result
from mien.video.episodes import Summary
from mien.video.history import History
from video_results import MODEL, face, result


def test_episodes_follow_each_other_without_a_gap() -> None:
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


def test_who_is_away_for_long_starts_a_new_episode() -> None:
    summary = Summary(gap_s=0.5)
    for number in range(20):
        away = 5 <= number < 15
        summary.add(result(number) if away else result(number, face(3, "fear")))
    (person,) = summary.people()
    spans = [time for one in person.episodes for time in (one.start_s, one.end_s)]
    assert spans == pytest.approx([0.0, 0.5, 1.5, 2.0])


def test_people_are_told_apart_and_written() -> None:
    summary = Summary()
    summary.add(result(0, face(0, "happy"), face(1, "sad")))
    summary.add(result(1, face(0, "happy"), face(1, "sad")))
    people = [person.to_dict() for person in summary.people()]
    assert [person["track_id"] for person in people] == [0, 1]
    assert people[1]["episodes"] == [
        {"start_s": 0.0, "end_s": 0.2, "emotion": "sad", "confidence": 0.7, "frames": 2}
    ]
    assert (summary.frames, summary.faces) == (2, 4)


def test_a_result_of_no_frame_changes_nothing() -> None:
    summary, history = Summary(), History()
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


def test_a_long_history_is_thinned_and_keeps_its_means() -> None:
    history = History(cells=50)
    for number in range(2000):
        history.add(result(number, face(0, "happy" if number < 1000 else "sad")))
    scores = history.scores(0)
    assert len(scores) <= 50
    assert history.end_s == pytest.approx(199.9)
    assert history.step_s == pytest.approx(0.1)
    early = [found["happy"] for moment, found in scores.items() if moment + history.width_s < 100]
    late = [found["sad"] for moment, found in scores.items() if moment > 100]
    assert early == pytest.approx([0.7] * len(early))
    assert late == pytest.approx([0.7] * len(late))


def test_more_people_than_cells_come_to_an_end() -> None:
    history = History(cells=5)
    history.add(result(0, *(face(number, "happy") for number in range(20))))
    assert len(history.people()) == 20
