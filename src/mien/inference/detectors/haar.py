"""Haar cascade that ships with OpenCV 4: slower and weaker than the networks, but needs no file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import ModelError
from mien.inference.detectors import DETECTION_SIDE
from mien.inference.detectors.search import PerThread, RawDetections, SearchDetector

_CASCADE = "haarcascade_frontalface_alt.xml"
_MIN_NEIGHBORS = 5


class HaarDetector(SearchDetector):
    """Viola and Jones' detector of frontal faces, on the grey image.

    Its confidence is n / (n + 5) for n merged hits, at least 5: a ranking, not a probability.
    FER-2013 was cropped with such boxes, hence the crop scale of 1.
    """

    name = "haar"
    has_scores = False

    def __init__(self, *, side: int = DETECTION_SIDE, thorough: bool = False) -> None:
        """Load the cascade; raises ModelError if this OpenCV has none, as OpenCV 5."""
        super().__init__(side=side, thorough=thorough)
        self._cascade = PerThread(_load_cascade)  # keeps buffers between calls

    def _detect_upright(self, picture: npt.NDArray[np.uint8]) -> RawDetections:
        boxes, hits = self._cascade.value.detectMultiScale2(
            cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY),
            scaleFactor=1.1,
            minNeighbors=_MIN_NEIGHBORS,
            minSize=(24, 24),
        )
        counts = np.asarray(hits, np.float64).ravel()
        scores = counts / (counts + _MIN_NEIGHBORS)
        return np.column_stack([np.reshape(boxes, (-1, 4)), scores])


def _load_cascade() -> cv2.CascadeClassifier:
    folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
    path = Path(folder) / _CASCADE
    cascade = cv2.CascadeClassifier(str(path)) if path.is_file() else None
    if cascade is None or cascade.empty():
        raise ModelError(
            f"this OpenCV ({cv2.__version__}) has no {_CASCADE}: "
            "pip install 'opencv-python-headless<5', or choose another detector"
        )
    return cascade
