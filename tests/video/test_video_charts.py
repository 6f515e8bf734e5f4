from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageFont

from mien.core.display import Font, class_colors, find_font
from mien.core.emotions import EMOTION_COLORS, EMOTIONS
from mien.core.results import Box, Smoothed
from mien.video import charts
from mien.video.charts import (
    MAX_LANES,
    PORTRAIT_PX,
    Portraits,
    ScoreHistory,
    draw_comparison,
    draw_timeline,
)
from mien.video.summary import EventTable, Marker, Summary, comparison_columns
from video_results import face, result


def _drawn(count: int = 40, people: int = 1) -> Image.Image:
    summary, history = Summary(), ScoreHistory()
    for number in range(count):
        emotion = "happy" if number < count // 2 else "sad"
        seen = result(number, *(face(one, emotion, 0.9) for one in range(people)))
        summary.add(seen)
        history.add(seen)
    return draw_timeline(history, summary.people(), title="a.mp4", labels=EMOTIONS)


def _share(picture: Image.Image, emotion: str, half: int) -> float:
    """Share of one half of the lanes with an emotion's colour."""
    pixels = np.asarray(picture)[104:-60, 210:-40]
    middle = pixels.shape[1] // 2
    part = pixels[:, :middle] if half == 0 else pixels[:, middle:]
    return float((part == ImageColor.getrgb(EMOTION_COLORS[emotion])).all(axis=2).mean())


def test_colours_change_with_the_emotion() -> None:
    picture = _drawn()
    assert _share(picture, "happy", 0) > 0.6 > 0.05 > _share(picture, "happy", 1)
    assert _share(picture, "sad", 1) > 0.6 > 0.05 > _share(picture, "sad", 0)


def test_custom_classes_have_the_colours_of_annotated_pictures() -> None:
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


def test_titles_and_labels_in_other_scripts_are_drawn() -> None:
    try:
        ImageFont.truetype("DejaVuSans.ttf", 20)
    except OSError:
        pytest.skip("this machine has no DejaVu")

    def head(title: str, label: str) -> list[bytes]:
        drawn = draw_timeline(ScoreHistory(), [], title=title, labels=(label,)).convert("L")
        return [drawn.crop((0, 0, 1600, 58)).tobytes(), drawn.crop((0, 58, 1600, 100)).tobytes()]

    # In a font without these letters, both would be rows of the same boxes.
    for one, other in zip(head("жжж.mp4", "жжж"), head("ююю.mp4", "ююю"), strict=True):
        assert one != other


def test_lanes_are_limited() -> None:
    one, three, many = _drawn(), _drawn(people=3), _drawn(count=4, people=MAX_LANES + 5)
    lane = (three.height - one.height) // 2
    assert three.height == one.height + 2 * lane
    assert many.height == one.height + (MAX_LANES - 1) * lane


def test_empty_and_single_frame_timelines_can_be_drawn() -> None:
    assert _drawn(count=1).width == _drawn(count=0).width == 1600


def test_the_best_portrait_is_kept(tmp_path: Path) -> None:
    portraits = Portraits()
    for worth, level in ((0.5, 10), (0.9, 200), (0.7, 90)):
        portraits.add(np.full((50, 60, 3), level, np.uint8), Box(5, 5, 20, 30), 4, worth)
    picture = portraits.pictures[4]
    assert picture.size == (PORTRAIT_PX, PORTRAIT_PX)
    assert picture.getpixel((9, 9)) == (200, 200, 200)


def test_a_long_history_is_binned_and_keeps_its_means() -> None:
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


def test_more_people_than_bins_are_kept() -> None:
    history = ScoreHistory(max_bins=5)
    history.add(result(0, *(face(number, "happy") for number in range(20))))
    assert len(history.people()) == 20


def test_a_comparison_has_a_row_per_video(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []

    def record(text: str, size: int) -> Font:
        texts.append(text)
        return find_font(text, size)

    monkeypatch.setattr(charts, "find_font", record)
    rows = []
    for name, emotion in (("a.mp4", "happy"), ("b.mp4", "angry"), ("none.mp4", None)):
        table = EventTable([Marker(0.0, 9.0, "")], EMOTIONS, by_person=False)
        for number in range(4):
            table.add(result(number, *([face(0, emotion, 0.9)] if emotion else [])))
        people = 1 if emotion else 0
        rows.append({**table.rows()[0], "source": name, "people": people, "frames": 4})
    assert set(comparison_columns(EMOTIONS, corrected=False)) <= set(rows[0])
    picture = np.asarray(draw_comparison(rows, EMOTIONS))
    assert picture.shape[1] == 1600
    happy, angry, nobody = (picture[128 + 76 * lane + 4, 700] for lane in range(3))
    assert tuple(happy) != tuple(angry)
    assert tuple(nobody) == (240, 242, 244)
    assert any(text.startswith("-0.") for text in texts)
    assert all(text.isascii() for text in texts)  # drawn in one font, on every system
