"""The Haar cascade that comes with OpenCV 4: slower and blinder than the others, but everywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import ModelError
from mien.inference.detectors.base import (
    DETECTION_SIDE,
    Detection,
    check_side,
    scaled,
)
from mien.inference.detectors.search import Look, Rows, See, search_all
from mien.inference.detectors.turned import find_faces

_CASCADE = "haarcascade_frontalface_alt.xml"
_SCALE_STEP = 1.1
_LEAST_HITS = 5
_LEAST_SIDE = 24


class HaarDetector:
    """Viola and Jones' detector (frontal faces) on the grey image.

    Its confidence is n / (n + 5) for n merged hits, at least 5: it ranks faces but is no
    probability.
    """

    name = "haar"
    # FER-2013 was cut with such boxes: on its faces, the box's side is 0.99 of the picture's.
    framing = 1.0

    def __init__(self, *, side: int = DETECTION_SIDE, thorough: bool = False) -> None:
        """Load the cascade.

        Args:
            side: images are scaled down to this longer side.
            thorough: search larger images in tiles, too (see `search_all`).

        Raises:
            ModelError: if this OpenCV has no cascades (5 has none).
        """
        self._side = check_side(side)
        self._thorough = thorough
        # A cascade keeps buffers between calls, so each thread has its own.
        self._local = threading.local()
        self._cascade()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle how it was made: the cascade is loaded where the pickle is."""
        return partial(HaarDetector, side=self._side, thorough=self._thorough), ()

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        """Find the faces in an image, uint8 (H, W, 3) RGB, sorted left to right."""

        def search(look: See) -> Iterable[Look]:
            if self._thorough:
                return search_all(image, self._side, look)
            whole, scale = scaled(image, self._side)
            return [Look(look(whole), scale)]

        found = find_faces(image, self._side, self._rows, search, thorough=self._thorough)
        return [one for one, _ in found]

    def _rows(self, picture: npt.NDArray[np.uint8]) -> Rows:
        """Return x, y, w, h and the confidence of each face."""
        boxes, hits = self._cascade().detectMultiScale2(
            cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY),
            scaleFactor=_SCALE_STEP,
            minNeighbors=_LEAST_HITS,
            minSize=(_LEAST_SIDE, _LEAST_SIDE),
        )
        rows = np.empty((len(boxes), 5))
        if len(boxes):
            counts = np.asarray(hits, np.float64).ravel()
            rows[:, :4], rows[:, 4] = boxes, counts / (counts + _LEAST_HITS)
        return rows

    def _cascade(self) -> cv2.CascadeClassifier:
        cascade: cv2.CascadeClassifier | None = getattr(self._local, "cascade", None)
        if cascade is None:
            cascade = _load_cascade()
            self._local.cascade = cascade
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
