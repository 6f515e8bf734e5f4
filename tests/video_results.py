"""Makes results of frames, without a video."""

from __future__ import annotations

from mien.core.emotions import EMOTIONS
from mien.core.results import Box, Face, ModelInfo, Quality, Result, Smoothed

MODEL = ModelInfo("tiny", "0.0.1", "ab" * 32)


def face(track_id: int, emotion: str, confidence: float = 0.7) -> Face:
    """A person's face with one likely emotion, raw and smoothed alike."""
    rest = (1 - confidence) / (len(EMOTIONS) - 1)
    scores = {name: confidence if name == emotion else rest for name in EMOTIONS}
    return Face(
        face_id=track_id,
        box=Box(10, 10, 40, 40),
        face_confidence=0.9,
        emotion=emotion,
        confidence=confidence,
        uncertain=False,
        scores=scores,
        quality=Quality(40, 0.1),
        track_id=track_id,
        smoothed=Smoothed(emotion, confidence, scores),
    )


def result(number: int, *faces: Face, step: float = 0.1) -> Result:
    """Result of a frame; frames are ``step`` seconds apart."""
    status = "ok" if faces else "no_face"
    return Result("a.mp4", status, MODEL, 64, 64, faces, frame=number, time_s=number * step)
