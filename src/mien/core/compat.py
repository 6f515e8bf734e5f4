"""Results in the form that other tools give them, for programs that were written for those.

The values are mien's own: calibrated scores, and boxes of its detectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mien.core.emotions import FER2013_CSV_ORDER
from mien.core.results import Face, Result

_CONFIDENCE_DIGITS = 2
_FER_DIGITS = 2


def to_deepface(result: Result) -> list[dict[str, Any]]:
    """Return a result as deepface 0.0.103's ``DeepFace.analyze(image, actions=["emotion"])`` does.

    Args:
        result: of one image.

    Returns:
        One dictionary a face: ``emotion`` (scores times 100, in its order), ``dominant_emotion``,
        ``region`` (``x``, ``y``, ``w``, ``h``, and both eyes, None since results hold none) and
        ``face_confidence`` (two decimals). Empty where there is no face; deepface raises there.
    """
    return [
        {
            "emotion": {
                name: 100.0 * score for name, score in _in_their_order(face.scores).items()
            },
            "dominant_emotion": face.emotion,
            "region": {**face.box.to_dict(), "left_eye": None, "right_eye": None},
            "face_confidence": round(float(face.face_confidence), _CONFIDENCE_DIGITS),
        }
        for face in result.faces
    ]


def to_fer(result: Result) -> list[dict[str, Any]]:
    """Return a result as fer 25.10's ``FER().detect_emotions(image)`` does.

    Args:
        result: of one image.

    Returns:
        One dictionary a face: ``box`` ([x, y, w, h]) and ``emotions`` (scores rounded to two
        decimals, in its order). Empty where there is no face, as there.
    """
    return [_fer_face(face) for face in result.faces]


COMPAT: Mapping[str, Callable[[Result], list[dict[str, Any]]]] = {
    "deepface": to_deepface,
    "fer": to_fer,
}
"""The tools whose form a result can take, by the name of their package."""


def _fer_face(face: Face) -> dict[str, Any]:
    box = face.box
    scores = _in_their_order(face.scores)
    return {
        "box": [box.x, box.y, box.w, box.h],
        "emotions": {name: round(float(score), _FER_DIGITS) for name, score in scores.items()},
    }


def _in_their_order(scores: Mapping[str, float]) -> dict[str, float]:
    """Return scores in the challenge's order, as both tools do; a model's own classes follow."""
    known = {name: float(scores[name]) for name in FER2013_CSV_ORDER if name in scores}
    return {**known, **{name: float(scores[name]) for name in scores if name not in known}}
