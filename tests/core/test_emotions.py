from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.emotions import (
    EMOTIONS,
    FER2013_CSV_ORDER,
    emotion_index,
    find_emotion,
    parse_emotion,
)
from mien.core.errors import UsageError


def test_the_order_is_that_of_the_folders() -> None:
    assert EMOTIONS == ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    assert tuple(sorted(EMOTIONS)) == EMOTIONS


def test_the_challenges_order_has_the_same_emotions() -> None:
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
def test_synonyms_are_taken(name: str, emotion: str) -> None:
    assert parse_emotion(name) == emotion
    assert EMOTIONS[emotion_index(name)] == emotion


@given(st.text())
def test_any_text_means_an_emotion_or_nothing(name: str) -> None:
    assert find_emotion(name) in (*EMOTIONS, None)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    assert find_emotion("contempt") is None
    with pytest.raises(UsageError, match="angry, disgust"):
        parse_emotion("contempt")
