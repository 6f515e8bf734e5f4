from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.emotions import EMOTIONS, FER2013_CSV_ORDER, find_emotion


def test_order_of_the_folders() -> None:
    assert EMOTIONS == ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    assert tuple(sorted(EMOTIONS)) == EMOTIONS


def test_challenge_order_has_the_same_emotions() -> None:
    assert FER2013_CSV_ORDER[4:] == ("sad", "surprise", "neutral")
    assert set(FER2013_CSV_ORDER) == set(EMOTIONS)


@pytest.mark.parametrize(
    ("name", "emotion"),
    [
        ("anger", "angry"),
        ("Happiness", "happy"),
        ("SADNESS", "sad"),
        (" surprised ", "surprise"),
        ("fearful", "fear"),
        ("disgusted", "disgust"),
        ("neutral", "neutral"),
    ],
)
def test_synonyms(name: str, emotion: str) -> None:
    assert find_emotion(name) == emotion


@given(st.text())
def test_any_text_gives_an_emotion_or_none(name: str) -> None:
    assert find_emotion(name) in (*EMOTIONS, None)


def test_unknown_name_gives_none() -> None:
    assert find_emotion("contempt") is None
