"""Reader for the PyPI package fer, run by compare.py: fer_reader.py haar|mtcnn MODE FILE."""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
import reader

if sys.argv[1] == "mtcnn":  # PyTorch crashes if TensorFlow is loaded first
    import facenet_pytorch  # noqa: F401

from fer.fer import FER

cv2.setNumThreads(1)
detector = FER(mtcnn=sys.argv[1] == "mtcnn")
# Crops are used without fer's default padding of ten pixels.
cropped = FER(offsets=(0, 0))


def best(emotions: dict[str, float]) -> str:
    """Return the emotion with the highest score."""
    return max(emotions, key=lambda name: emotions[name])


def photo(path: str) -> list[tuple[float, str]]:
    """Return the size and emotion of each face in a photo."""
    faces = detector.detect_emotions(cv2.imread(path))
    return [(face["box"][2] * face["box"][3], best(face["emotions"])) for face in faces]


def crop(face: np.ndarray[Any, Any]) -> str:
    """Return the emotion of a grey face."""
    picture = cv2.cvtColor(face, cv2.COLOR_GRAY2BGR)
    whole = np.array([[0, 0, *reversed(face.shape)]])
    return best(cropped.detect_emotions(picture, face_rectangles=whole)[0]["emotions"])


reader.run(photo, crop)
