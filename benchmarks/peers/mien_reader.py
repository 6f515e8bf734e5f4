"""Reader for mien, run by compare.py: mien_reader.py MODEL LABELS MODE FILE."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import reader

import mien

model, labels = sys.argv[1:3]
recognizer = mien.load(model, labels=labels, threads=1)


def photo(path: str) -> list[tuple[float, str]]:
    """Return the size and emotion of each face in a photo."""
    return [(face.box.w * face.box.h, face.emotion) for face in recognizer.analyze(path)]


def crop(face: np.ndarray[Any, Any]) -> str:
    """Return the emotion of a grey face."""
    return recognizer.labels[int(recognizer.classify([face]).argmax())]


reader.run(photo, crop)
