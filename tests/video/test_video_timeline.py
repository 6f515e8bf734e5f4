from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageFont

from mien.core.emotions import EMOTIONS
from mien.core.results import Box, Smoothed
from mien.inference.annotate import EMOTION_COLORS, class_colors
from mien.video.episodes import Summary
from mien.video.history import History
from mien.video.timeline import MOST_LANES, PORTRAIT_PX, Portraits, draw_timeline
from video_results import face, result


def _drawn(count: int = 40, people: int = 1) -> Image.Image:
    summary, history = Summary(), History()
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
    summary, history = Summary(), History()
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
        drawn = draw_timeline(History(), [], title=title, labels=(label,)).convert("L")
        return [drawn.crop((0, 0, 1600, 58)).tobytes(), drawn.crop((0, 58, 1600, 100)).tobytes()]

    # In a font that lacks them, both would be rows of the same boxes.
    for one, other in zip(head("жжж.mp4", "жжж"), head("ююю.mp4", "ююю"), strict=True):
        assert one != other


def test_everybody_has_a_lane_up_to_a_number() -> None:
    one, three, many = _drawn(), _drawn(people=3), _drawn(count=4, people=MOST_LANES + 5)
    lane = (three.height - one.height) // 2
    assert three.height == one.height + 2 * lane
    assert many.height == one.height + (MOST_LANES - 1) * lane


def test_nobody_and_one_frame_can_be_drawn() -> None:
    assert _drawn(count=1).width == _drawn(count=0).width == 1600


def test_the_best_portrait_is_kept(tmp_path: Path) -> None:
    portraits = Portraits()
    for worth, level in ((0.5, 10), (0.9, 200), (0.7, 90)):
        portraits.add(np.full((50, 60, 3), level, np.uint8), Box(5, 5, 20, 30), 4, worth)
    picture = portraits.pictures[4]
    assert picture.size == (PORTRAIT_PX, PORTRAIT_PX)
    assert picture.getpixel((9, 9)) == (200, 200, 200)
