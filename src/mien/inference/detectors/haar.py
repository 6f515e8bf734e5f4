"""The Haar cascade that comes with OpenCV 4: slow and weak beside the others, but everywhere."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import ModelError
from mien.inference.detectors.base import DETECTION_SIDE
from mien.inference.detectors.search import Rows, SearchDetector

_CASCADE = "haarcascade_frontalface_alt.xml"
_SCALE_STEP = 1.1
_MIN_NEIGHBORS = 5
_MIN_SIDE = 24


class HaarDetector(SearchDetector):
    """Viola and Jones' detector (frontal faces) on the grey image.

    Its confidence is n / (n + 5) for n merged hits, at least 5: it ranks faces but is no
    probability. FER-2013 was cut with such boxes, hence the crop scale of 1.
    """

    name = "haar"
    has_scores = False

    def __init__(self, *, side: int = DETECTION_SIDE, thorough: bool = False) -> None:
        """Load the cascade.

        Args:
            side: images are scaled down to this longer side.
            thorough: search larger images in tiles, too.

        Raises:
            ModelError: if this OpenCV has no cascades (5 has none).
        """
        super().__init__(side=side, thorough=thorough)
        # A cascade keeps buffers between calls, so each thread has its own.
        self._local = threading.local()
        self._cascade()

    def _rows(self, picture: npt.NDArray[np.uint8]) -> Rows:
        boxes, hits = self._cascade().detectMultiScale2(
            cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY),
            scaleFactor=_SCALE_STEP,
            minNeighbors=_MIN_NEIGHBORS,
            minSize=(_MIN_SIDE, _MIN_SIDE),
        )
        rows = np.empty((len(boxes), 5))
        if len(boxes):
            counts = np.asarray(hits, np.float64).ravel()
            rows[:, :4], rows[:, 4] = boxes, counts / (counts + _MIN_NEIGHBORS)
        return rows

    def _cascade(self) -> cv2.CascadeClassifier:
        cascade: cv2.CascadeClassifier | None = getattr(self._local, "cascade", None)
        if cascade is None:
            cascade = self._local.cascade = _load_cascade()
        return cascade


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
