from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import ImageFont

from mien.core import display
from mien.core.display import (
    MAX_SIDE,
    MIN_SIDE,
    Font,
    annotate,
    class_colors,
    find_font,
)
from mien.core.emotions import EMOTION_COLORS, EMOTIONS
from mien.core.results import Box, Face, Quality


def _face(box: Box, emotion: str = "happy", confidence: float = 0.7, **changes: bool) -> Face:
    rest = (1 - confidence) / 6
    scores = {name: confidence if name == emotion else rest for name in EMOTIONS}
    return Face(
        face_id=0,
        box=box,
        face_confidence=0.9,
        emotion=emotion,
        confidence=confidence,
        uncertain=changes.get("uncertain", False),
        scores=scores,
        quality=Quality(min(box.w, box.h), 0.1),
    )


def _grey(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((height, width, 3), 128, np.uint8)


def _color(emotion: str) -> tuple[int, ...]:
    code = EMOTION_COLORS[emotion]
    return tuple(int(code[start : start + 2], 16) for start in (1, 3, 5))


def test_picture_without_faces_is_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    assert np.array_equal(np.asarray(annotate(image, [])), image)


def test_input_is_not_modified() -> None:
    image = _grey(700, 900)
    annotate(image, [_face(Box(300, 200, 150, 150))])
    assert (image == 128).all()


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_the_box_has_the_emotions_colour(emotion: str) -> None:
    drawn = np.asarray(annotate(_grey(700, 900), [_face(Box(300, 200, 150, 160), emotion)]))
    for y, x in ((280, 300), (280, 449), (359, 375)):
        assert tuple(drawn[y, x].tolist()) == _color(emotion)
    assert (drawn[230:350, 330:420] == 128).all()  # the face itself is left free


def test_large_face_with_room_gets_a_chart() -> None:
    large = np.asarray(annotate(_grey(700, 900), [_face(Box(300, 200, 150, 160))]))
    small = np.asarray(annotate(_grey(700, 900), [_face(Box(300, 200, 40, 40))]))
    assert (large[210:330, 460:560] != 128).any(axis=2).mean() > 0.9
    assert (small[:, 420:] == 128).all()


def test_bars_are_as_long_as_scores() -> None:
    def colored(confidence: float) -> int:
        face = _face(Box(300, 200, 150, 160), "sad", confidence)
        drawn = np.asarray(annotate(_grey(700, 900), [face]))[200:400, 460:]
        return int((drawn == _color("sad")).all(axis=2).sum())

    short, middle, full = colored(0.3), colored(0.6), colored(1.0)
    assert 0 < short < middle < full
    assert middle / full == pytest.approx(0.6, abs=0.1)


def test_no_chart_hides_another_face() -> None:
    faces = [_face(Box(100 + 160 * number, 200, 140, 150)) for number in range(4)]
    drawn = np.asarray(annotate(_grey(700, 900), faces))
    for number in range(4):
        left = 100 + 160 * number
        assert (drawn[215:335, left + 15 : left + 125] == 128).all()


def test_uncertainty_is_marked() -> None:
    box = Box(300, 200, 150, 150)
    sure, unsure = (
        annotate(_grey(700, 900), [_face(box, uncertain=mark)]) for mark in (False, True)
    )
    assert not np.array_equal(np.asarray(sure), np.asarray(unsure))


@pytest.mark.parametrize("size", [(1, 1), (48, 48), (20, 700), (900, 30), (3000, 2000)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    drawn = annotate(_grey(*size), [_face(Box(0, 0, size[1], size[0]))])
    assert drawn.mode == "RGB"
    assert max(drawn.size) >= min(MIN_SIDE, 640)
    assert drawn.width * size[0] == drawn.height * size[1]
    assert max(drawn.size) < 2 * MIN_SIDE or drawn.size == size[::-1]


def test_classes_have_different_colours() -> None:
    colors = class_colors(("negative", "positive", "Surprised"))
    assert colors["Surprised"] == _color("surprise")
    assert len(set(colors.values())) == 3
    assert class_colors(EMOTION_COLORS) == {name: _color(name) for name in EMOTION_COLORS}
    assert len(class_colors(str(number) for number in range(30))) == 30


@pytest.mark.parametrize(("height", "width"), [(1, 100_000), (100_000, 1), (3, 1_000_000)])
def test_picture_larger_than_jpeg_allows_is_shrunk(height: int, width: int) -> None:
    faces = [_face(Box(0, 0, width, height)), _face(Box(width // 2, height // 2, 1, 1))]
    drawn = annotate(_grey(height, width), faces)
    assert max(drawn.size) == MAX_SIDE
    assert min(drawn.size) == 1
    drawn.save(io.BytesIO(), "JPEG")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 700)])
def test_tiny_picture(height: int, width: int) -> None:
    drawn = annotate(_grey(height, width), [_face(Box(0, 0, 1, 1))])
    assert max(drawn.size) >= MIN_SIDE


# ---------------------------------------------------------------- fonts
@pytest.fixture(autouse=True)
def fresh() -> None:
    display._best_font.cache_clear()


def looks(font: Font, text: str) -> bytes:
    return bytes(font.getmask(text))


def test_ascii_uses_the_default_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_FONTS", ())
    assert looks(find_font("happy", 20), "happy") == looks(ImageFont.load_default(20), "happy")


def test_system_font_for_missing_glyphs() -> None:
    try:
        ImageFont.truetype("DejaVuSans.ttf", 20)
    except OSError:
        pytest.skip("this machine has no DejaVu")
    font = find_font("грустно", 20)
    assert all(looks(font, one) != looks(font, "\U0010ffff") for one in "грустно")


def test_default_font_if_no_system_font_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_FONTS", ("no such font.ttf",))
    font = find_font("びっくり", 20)
    assert looks(font, "a") == looks(ImageFont.load_default(20), "a")
    assert looks(font, "び") == looks(font, "\U0010ffff")
