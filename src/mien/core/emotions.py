"""The seven emotions, in the order used everywhere.

Other tools and data sets order them differently, so external labels are matched by name.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

EMOTIONS: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""Alphabetical, like the folders of FER-2013; class indices are indices into this tuple."""

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
"""Colours of the emotions in annotations, timelines and figures."""

_NEGATIVE_EMOTIONS = ("angry", "disgust", "fear", "sad")

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
    """Return the emotion of a name or synonym, ignoring case and outer blanks, or None."""
    key = name.strip().lower()
    return key if key in EMOTIONS else _SYNONYMS.get(key)


def match_label(name: str, labels: Sequence[str]) -> str | None:
    """Return the label that equals ``name``, else the label of the same emotion, else None.

    Case, outer blanks and Unicode form are ignored.

    Example:
        >>> match_label("Happiness", EMOTIONS), match_label("Bored", ("bored", "awake"))
        ('happy', 'bored')
    """
    normalized, emotion = normalize_label(name), find_emotion(name)
    for label in labels:
        if normalize_label(label) == normalized:
            return label
    return next((label for label in labels if emotion and find_emotion(label) == emotion), None)


def valence(scores: Mapping[str, float]) -> float | None:
    """Return the pleasantness of an expression, -1 to 1: happy minus the largest negative score.

    None if the model lacks one of these classes.

    Example:
        >>> valence({"happy": 0.5, "angry": 0.1, "disgust": 0.0, "fear": 0.0, "sad": 0.25})
        0.25
    """
    if not {"happy", *_NEGATIVE_EMOTIONS} <= scores.keys():
        return None
    return scores["happy"] - max(scores[emotion] for emotion in _NEGATIVE_EMOTIONS)


def normalize_label(name: str) -> str:
    """Return a label in a form for comparison: NFC, case-folded, without outer blanks."""
    return unicodedata.normalize("NFC", name).strip().casefold()
