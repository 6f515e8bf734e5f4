"""Results in deepface's and fer's form; the expected structures are those of their sources."""

from __future__ import annotations

import json

import pytest

from mien.core.compat import COMPAT, to_deepface, to_fer
from mien.core.results import Box, Face, ModelInfo, Quality, Result

SCORES = {
    "angry": 0.011,
    "disgust": 0.0,
    "fear": 0.012,
    "happy": 0.9126,
    "neutral": 0.0414,
    "sad": 0.0,
    "surprise": 0.023,
}
THEIR_ORDER = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
MODEL = ModelInfo("tiny", "1.0.0", "0" * 64)


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
    return Result("a.jpg", "ok" if faces else "no_face", MODEL, 640, 480, faces)


def test_deepface_form() -> None:
    (face,) = to_deepface(result_with(SCORES))
    assert list(face) == ["emotion", "dominant_emotion", "region", "face_confidence"]
    assert list(face["emotion"]) == THEIR_ORDER
    assert face["emotion"] == pytest.approx({name: 100 * SCORES[name] for name in THEIR_ORDER})
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


def test_fer_form() -> None:
    (face,) = to_fer(result_with(SCORES))
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


@pytest.mark.parametrize("tool", sorted(COMPAT))
def test_a_list_always_in_the_faces_order(tool: str) -> None:
    assert COMPAT[tool](result_with()) == []
    both = COMPAT[tool](result_with(SCORES, {"happy": 0.25, "sad": 0.75}))
    assert len(both) == 2
    assert json.loads(json.dumps(both)) == both


@pytest.mark.parametrize("tool", sorted(COMPAT))
def test_a_models_own_classes_follow_the_known_ones(tool: str) -> None:
    (face,) = COMPAT[tool](result_with({"bored": 0.7, "sad": 0.1, "happy": 0.2}))
    scores = face["emotion" if tool == "deepface" else "emotions"]
    assert list(scores) == ["happy", "sad", "bored"]
