"""The seven emotions, in the one order used everywhere.

Other tools and data sets order them differently, so labels from outside are translated by name.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

EMOTIONS: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""Alphabetical, as the data set's folders; a label is an index into this tuple everywhere."""

FER2013_CSV_ORDER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Order of the integer codes in the challenge's ``fer2013.csv``."""

EMOTION_COLORS: dict[str, str] = {
    "angry": "#e4572e",
    "disgust": "#7fae3d",
    "fear": "#a06be8",
    "happy": "#f6c026",
    "neutral": "#aab4be",
    "sad": "#4c93e6",
    "surprise": "#22bfb1",
}
"""A colour for each emotion, the same in annotations, timelines and figures."""

NEGATIVE_EMOTIONS: tuple[str, ...] = ("angry", "disgust", "fear", "sad")
"""The emotions that `valence` sets against happy."""

_SYNONYMS: dict[str, str] = {
    "anger": "angry",
    "disgusted": "disgust",
    "disgusting": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "scared": "fear",
    "happiness": "happy",
    "joy": "happy",
    "calm": "neutral",
    "neutrality": "neutral",
    "sadness": "sad",
    "surprised": "surprise",
    "surprising": "surprise",
}


def find_emotion(name: str) -> str | None:
    """Return the emotion that a name or synonym means (ignoring case and blanks), or None."""
    key = name.strip().lower()
    return key if key in EMOTIONS else _SYNONYMS.get(key)


def match_label(name: str, labels: Sequence[str]) -> str | None:
    """Return the label that ``name`` means, or None: the same word, else the same emotion.

    Case, blanks around it and the way that accents are encoded do not count.

    Example:
        >>> match_label("Happiness", EMOTIONS), match_label("Bored", ("bored", "awake"))
        ('happy', 'bored')
    """
    word = normalize_label(name)
    for label in labels:
        if normalize_label(label) == word:
            return label
    emotion = find_emotion(name)
    return next((one for one in labels if emotion and find_emotion(one) == emotion), None)


def valence(scores: Mapping[str, float]) -> float | None:
    """Return how pleasant an expression is, -1 to 1: happy less the greatest unpleasant score.

    None where a model lacks one of these classes.

    Example:
        >>> valence({"happy": 0.5, "angry": 0.1, "disgust": 0.0, "fear": 0.0, "sad": 0.25})
        0.25
    """
    if not {"happy", *NEGATIVE_EMOTIONS} <= scores.keys():
        return None
    return scores["happy"] - max(scores[emotion] for emotion in NEGATIVE_EMOTIONS)


def normalize_label(name: str) -> str:
    """Return a word without what spellings differ in: case, blanks, encoding of accents."""
    return unicodedata.normalize("NFC", name).strip().casefold()
