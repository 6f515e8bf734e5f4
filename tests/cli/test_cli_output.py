"""Bars, shortened paths, lines on stderr, and formats of other tools."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.cli.output import COMPAT_FORMATS, bar, note, shorten, to_deepface, to_fer
from mien.core.formats import display_width
from mien.core.results import Box, Face, ModelInfo, Quality, Result

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(TEXT, st.integers(2, 40))
def test_a_shortened_path_fits_and_keeps_its_end(text: str, width: int) -> None:
    short = shorten(text, width)
    assert display_width(short) <= width
    assert text.endswith(short.removeprefix("…"))


@given(st.floats(-1, 2), st.integers(1, 20))
def test_a_bar_has_the_requested_width(share: float, width: int) -> None:
    assert len(bar(share, width)) == width
    assert bar(share, width).count("█") == bar(share, width, plain=True).count("#")


def test_a_full_bar_is_full_and_an_empty_one_empty() -> None:
    assert bar(1.0, 4) == "████"
    assert bar(0.0, 4, plain=True) == "...."


def test_a_line_on_stderr_shows_the_line_breaks_of_a_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    note("picture: new\nline  two.png", quiet=False)
    assert capsys.readouterr().err == "picture: new\\nline  two.png\n"


# Results in deepface's and fer's form; the expected structures are those of their sources.
MODEL = ModelInfo("mien-b0", "1.0.0", "ab" * 32)
UNROUNDED = {
    "angry": 0.011,
    "disgust": 0.0,
    "fear": 0.012,
    "happy": 0.9126,
    "neutral": 0.0414,
    "sad": 0.0,
    "surprise": 0.023,
}
THEIR_ORDER = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]


def result_with(*scores: dict[str, float]) -> Result:
    faces = tuple(
        Face(
            face_id=number,
            box=Box(10 + 100 * number, 20, 64, 72),
            face_confidence=0.98765,
            emotion=max(each, key=lambda name: each[name]),
            confidence=max(each.values()),
            uncertain=False,
            scores=each,
            quality=Quality(64, 0.1),
        )
        for number, each in enumerate(scores)
    )
    return Result(
        "a.jpg",
        "ok" if faces else "no_face",
        ModelInfo("mien-b0", "1.0.0", "ab" * 32),
        640,
        480,
        faces,
    )


def test_deepface_format() -> None:
    (face,) = to_deepface(result_with(UNROUNDED))
    assert list(face) == ["emotion", "dominant_emotion", "region", "face_confidence"]
    assert list(face["emotion"]) == THEIR_ORDER
    assert face["emotion"] == pytest.approx({name: 100 * UNROUNDED[name] for name in THEIR_ORDER})
    assert sum(face["emotion"].values()) == pytest.approx(100)
    assert face["dominant_emotion"] == "happy"
    assert list(face["region"]) == ["x", "y", "w", "h", "left_eye", "right_eye"]
    assert face["region"] == {
        "x": 10,
        "y": 20,
        "w": 64,
        "h": 72,
        "left_eye": None,
        "right_eye": None,
    }
    assert face["face_confidence"] == 0.99


def test_fer_format() -> None:
    (face,) = to_fer(result_with(UNROUNDED))
    assert face == {
        "box": [10, 20, 64, 72],
        "emotions": {
            "angry": 0.01,
            "disgust": 0.0,
            "fear": 0.01,
            "happy": 0.91,
            "sad": 0.0,
            "surprise": 0.02,
            "neutral": 0.04,
        },
    }
    assert list(face["emotions"]) == THEIR_ORDER


@pytest.mark.parametrize("tool", sorted(COMPAT_FORMATS))
def test_compat_formats_are_lists_in_face_order(tool: str) -> None:
    assert COMPAT_FORMATS[tool](result_with()) == []
    both = COMPAT_FORMATS[tool](result_with(UNROUNDED, {"happy": 0.25, "sad": 0.75}))
    assert len(both) == 2
    assert json.loads(json.dumps(both)) == both


@pytest.mark.parametrize("tool", sorted(COMPAT_FORMATS))
def test_compat_formats_put_own_classes_last(tool: str) -> None:
    (face,) = COMPAT_FORMATS[tool](result_with({"bored": 0.7, "sad": 0.1, "happy": 0.2}))
    scores = face["emotion" if tool == "deepface" else "emotions"]
    assert list(scores) == ["happy", "sad", "bored"]
