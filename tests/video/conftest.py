"""A detector that finds what is drawn, so that tests know where the faces are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from mien.core.results import Box
from mien.inference.classifier import Classifier
from mien.inference.detectors import Detection
from mien.inference.recognizer import Recognizer


class RedSquares:
    """Takes every patch of strong red for a face."""

    name = "red"
    framing = None

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        """See `Detector.detect`."""
        wide = image.astype(np.int16)
        red = (wide[..., 0] > 150) & (wide[..., 1] < 110) & (wide[..., 2] < 110)
        count, _, stats, _ = cv2.connectedComponentsWithStats(red.astype(np.uint8))
        boxes = [Box(*(int(value) for value in row[:4])) for row in stats[1:count] if row[4] > 60]
        return [Detection(box, 0.9) for box in sorted(boxes, key=lambda box: box.x)]


@pytest.fixture(scope="session")
def red_recognizer(tiny_model: Path) -> Recognizer:
    """A real recognizer over a tiny model, whose faces are red squares."""
    return Recognizer(Classifier.open(tiny_model), RedSquares())
