"""Why a face is read as it is: which parts of it speak for an emotion, as a heat map.

Occlusion covers the face bit by bit and sees how much of the score is lost (Zeiler and Fergus 2014,
1311.2901, section 4.2). Grad-CAM weighs the last feature map by the emotion's gradient (Selvaraju
et al. 2017, 1610.02391, section 3). Neither needs more than the model's own file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.emotions import match_label
from mien.core.errors import MienError, UnreadableImage, UsageError
from mien.core.faces import FACE_SIZE, standard_face
from mien.core.images import ImageSource, load_image, source_name
from mien.core.progress import Progress
from mien.core.results import SCORE_DIGITS, Face
from mien.inference.classifier import BATCH_SIZE, Classifier
from mien.inference.crops import face_crop
from mien.inference.gradcam import gradcam_maps
from mien.inference.occlusion import occlusion_maps
from mien.inference.recognizer import Recognizer

METHODS: tuple[str, ...] = ("occlusion", "gradcam")
"""Ways to find what speaks for an emotion; the first is the one that is taken unless said."""

_HEAT_DIGITS = 3
_PARTS = {"upper": 22, "middle": 33, "lower": FACE_SIZE}
"""Rows where the parts of a face end, as FER-2013 frames them: brows and eyes; nose and cheeks;
mouth and chin."""


@dataclass(frozen=True)
class Explanation:
    """What speaks for one emotion in one face.

    Attributes:
        method: one of `METHODS`.
        emotion: the class that is explained, the likeliest one unless another was asked for.
        score: its calibrated score, 0 to 1.
        heat: float32 (48, 48), 0 to 1, over the standard face; 1 is where most speaks for the
            emotion. All 0 where nothing does.
        peak: what a heat of 1 stands for. Occlusion: the score that is lost, on average, where that
            pixel is covered. Grad-CAM: how much one cell of the feature map adds to the logit.
    """

    method: str
    emotion: str
    score: float
    heat: npt.NDArray[np.float32]
    peak: float

    @property
    def hottest(self) -> tuple[int, int] | None:
        """Return the row and column of the greatest heat, or None where there is none."""
        if self.peak <= 0:
            return None
        row, column = np.unravel_index(int(self.heat.argmax()), self.heat.shape)
        return int(row), int(column)

    @property
    def part(self) -> str | None:
        """Return which part of an upright face is hottest, or None where there is no heat.

        "upper" is brows and eyes, "middle" nose and cheeks, "lower" mouth and chin.
        """
        if self.hottest is None:
            return None
        row = self.hottest[0]
        return next(name for name, end in _PARTS.items() if row < end)

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON has it; ``heat`` is 48 rows of 48 numbers."""
        return {
            "method": self.method,
            "emotion": self.emotion,
            "score": round(self.score, SCORE_DIGITS),
            "peak": round(self.peak, SCORE_DIGITS),
            "part": self.part,
            "hottest": None if self.hottest is None else list(self.hottest),
            "heat": [[round(float(each), _HEAT_DIGITS) for each in row] for row in self.heat],
        }


@dataclass(frozen=True)
class ExplainedFace:
    """A face, its picture, uint8 (H, W, 3) RGB, as the network was shown it, and its heat map."""

    face: Face
    crop: npt.NDArray[np.uint8]
    explanation: Explanation


def explain(
    recognizer: Recognizer,
    image: ImageSource,
    *,
    color: str | None = None,
    emotion: str | None = None,
    face_id: int | None = None,
    method: str = METHODS[0],
    quiet: bool = True,
) -> list[ExplainedFace]:
    """Find the faces in an image, read their emotions, and say what speaks for them.

    Args:
        recognizer: as `mien.load` gives it.
        image: as in `Recognizer.analyze`.
        color: the order of an array's channels, "rgb" or "bgr".
        emotion: the class to explain; each face's likeliest unless given.
        face_id: explain this face alone, counted from 0, left to right.
        method: one of `METHODS`.
        quiet: draw no progress bar.

    Returns:
        The faces, left to right; empty where nobody is there.

    Raises:
        UnreadableImage: if the image cannot be read.
        UsageError: if an option is not as above, or there is no such face.
        ModelError: if the method is "gradcam" and the model's head is of another kind.
    """
    _check_method(method)
    label = None if emotion is None else find_label(emotion, recognizer.labels)
    pixels = load_image(image, color=color)
    result = recognizer.analyze_result(pixels, color="rgb", source=source_name(image))
    if result.status == "unreadable":
        raise UnreadableImage(result.error)
    if result.error is not None:
        raise MienError(result.error)
    explained = []
    faces = _chosen(result.faces, face_id)
    with Progress("explaining faces", len(faces), unit="face", quiet=quiet) as progress:
        for face in faces:
            crop = face_crop(pixels, face.box, recognizer.detector.framing, turn=face.turn)
            (found,) = explain_faces(
                recognizer.classifier,
                standard_face(crop)[None],
                emotion=face.emotion if label is None else label,
                method=method,
            )
            explained.append(ExplainedFace(face, crop, found))
            progress.advance()
    return explained


def explain_faces(
    classifier: Classifier,
    faces: npt.NDArray[np.uint8],
    *,
    emotion: str | None = None,
    method: str = METHODS[0],
    batch_size: int = BATCH_SIZE,
) -> list[Explanation]:
    """Say what speaks for an emotion in standard faces.

    Args:
        classifier: the model.
        faces: uint8 (N, 48, 48), grey (see `mien.core.faces.standard_face`).
        emotion: the class to explain; each face's likeliest unless given.
        method: one of `METHODS`.
        batch_size: images that go through the network at once.

    Returns:
        One explanation a face.

    Raises:
        UsageError: if the faces or an option are not as above.
        ModelError: if the network fails, or "gradcam" cannot read its head.
    """
    _check_method(method)
    scores = classifier.classify(faces, batch_size=batch_size)
    chosen = scores.argmax(axis=1)
    if emotion is not None:
        chosen = np.full_like(
            chosen, classifier.labels.index(find_label(emotion, classifier.labels))
        )
    if method == "gradcam":
        maps = gradcam_maps(classifier, faces, chosen, batch_size)
    else:
        maps = occlusion_maps(classifier, faces, chosen, scores, batch_size)
    return [
        _explanation(method, classifier.labels[index], float(row[index]), raw)
        for index, row, raw in zip(chosen, scores, maps, strict=True)
    ]


def find_label(name: str, labels: Sequence[str]) -> str:
    """Return the model's class that a name or synonym means; raises UsageError if none."""
    known = match_label(name, labels)
    if known is not None:
        return known
    raise UsageError(f"unknown emotion {name!r}: expected one of {', '.join(labels)}")


def _explanation(
    method: str, emotion: str, score: float, raw: npt.NDArray[np.float32]
) -> Explanation:
    # What speaks against the emotion is left out: the map says what speaks for it.
    heat = np.maximum(raw, 0.0)
    peak = float(heat.max())
    if peak > 0:
        heat = heat / np.float32(peak)
    return Explanation(method, emotion, score, np.clip(heat, 0, 1).astype(np.float32), peak)


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}: expected {' or '.join(METHODS)}")


def _chosen(faces: Sequence[Face], face_id: int | None) -> list[Face]:
    if face_id is None:
        return list(faces)
    if not 0 <= face_id < len(faces):
        there = f"0 to {len(faces) - 1}" if len(faces) > 1 else "0" if faces else "none is there"
        raise UsageError(f"no face {face_id} in this image: expected {there}")
    return [faces[face_id]]
