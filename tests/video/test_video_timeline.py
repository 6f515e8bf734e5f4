from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor, ImageFont

from mien.core.display import class_colors
from mien.core.emotions import EMOTION_COLORS, EMOTIONS
from mien.core.results import Box, Result, Smoothed
from mien.video.charts import MAX_LANES, PORTRAIT_PX, Portraits, ScoreHistory, draw_timeline
from mien.video.summary import Summary
from video_results import MODEL, face, result


def _drawn(count: int = 40, people: int = 1) -> Image.Image:
    summary, history = Summary(), ScoreHistory()
    for number in range(count):
        emotion = "happy" if number < count // 2 else "sad"
        seen = result(number, *(face(one, emotion, 0.9) for one in range(people)))
        summary.add(seen)
        history.add(seen)
    return draw_timeline(history, summary.people(), title="a.mp4", labels=EMOTIONS)


def _share(picture: Image.Image, emotion: str, half: int) -> float:
    """How much of a half of the lanes has an emotion's colour."""
    pixels = np.asarray(picture)[104:-60, 210:-40]
    middle = pixels.shape[1] // 2
    part = pixels[:, :middle] if half == 0 else pixels[:, middle:]
    return float((part == ImageColor.getrgb(EMOTION_COLORS[emotion])).all(axis=2).mean())


def test_colours_change_with_the_emotion() -> None:
    picture = _drawn()
    assert _share(picture, "happy", 0) > 0.6 > 0.05 > _share(picture, "happy", 1)
    assert _share(picture, "sad", 1) > 0.6 > 0.05 > _share(picture, "sad", 0)


def test_classes_of_ones_own_have_the_colours_of_annotated_pictures() -> None:
    labels = ("calm", "tense", "Surprised")
    summary, history = Summary(), ScoreHistory()
    for number, emotion in enumerate(("calm", "tense", "Surprised")):
        scores = {name: 0.9 if name == emotion else 0.05 for name in labels}
        seen = replace(
            face(0, "happy", 0.9),
            emotion=emotion,
            scores=scores,
            smoothed=Smoothed(emotion, 0.9, scores),
        )
        summary.add(result(number, seen))
        history.add(result(number, seen))
    drawn = np.asarray(draw_timeline(history, summary.people(), title="a.mp4", labels=labels))
    shown = drawn[104:-60, 210:-40]
    for color in class_colors(labels).values():
        assert (shown == color).all(axis=2).mean() > 0.1


def test_names_in_other_scripts_are_written_out() -> None:
    try:
        ImageFont.truetype("DejaVuSans.ttf", 20)
    except OSError:
        pytest.skip("this machine has no DejaVu")

    def head(title: str, label: str) -> list[bytes]:
        drawn = draw_timeline(ScoreHistory(), [], title=title, labels=(label,)).convert("L")
        return [drawn.crop((0, 0, 1600, 58)).tobytes(), drawn.crop((0, 58, 1600, 100)).tobytes()]

    # In a font that lacks them, both would be rows of the same boxes.
    for one, other in zip(head("жжж.mp4", "жжж"), head("ююю.mp4", "ююю"), strict=True):
        assert one != other


def test_everybody_has_a_lane_up_to_a_number() -> None:
    one, three, many = _drawn(), _drawn(people=3), _drawn(count=4, people=MAX_LANES + 5)
    lane = (three.height - one.height) // 2
    assert three.height == one.height + 2 * lane
    assert many.height == one.height + (MAX_LANES - 1) * lane


def test_nobody_and_one_frame_can_be_drawn() -> None:
    assert _drawn(count=1).width == _drawn(count=0).width == 1600


def test_the_best_portrait_is_kept(tmp_path: Path) -> None:
    portraits = Portraits()
    for worth, level in ((0.5, 10), (0.9, 200), (0.7, 90)):
        portraits.add(np.full((50, 60, 3), level, np.uint8), Box(5, 5, 20, 30), 4, worth)
    picture = portraits.pictures[4]
    assert picture.size == (PORTRAIT_PX, PORTRAIT_PX)
    assert picture.getpixel((9, 9)) == (200, 200, 200)


# ---------------------------------------------------------------- summary
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


def test_a_long_history_is_thinned_and_keeps_its_means() -> None:
    history = ScoreHistory(max_bins=50)
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


def test_more_people_than_bins_come_to_an_end() -> None:
    history = ScoreHistory(max_bins=5)
    history.add(result(0, *(face(number, "happy") for number in range(20))))
    assert len(history.people()) == 20
