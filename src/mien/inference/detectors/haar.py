"""The Haar cascade that comes with OpenCV 4: slower and blinder than the others, but everywhere."""

from __future__ import annotations

import threading
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
    fitted_box,
    scaled,
    tidied,
)

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

    def __init__(self, *, side: int = DETECTION_SIDE) -> None:
        """Load the cascade.

        Args:
            side: images are scaled down to this longer side.

        Raises:
            ModelError: if this OpenCV has no cascades (5 has none).
        """
        self._side = check_side(side)
        # A cascade keeps buffers between calls, so each thread has its own.
        self._local = threading.local()
        self._cascade()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle how it was made: the cascade is loaded where the pickle is."""
        return partial(HaarDetector, side=self._side), ()

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        """Find the faces in an image, uint8 (H, W, 3) RGB, sorted left to right."""
        small, scale = scaled(image, self._side)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        boxes, hits = self._cascade().detectMultiScale2(
            grey,
            scaleFactor=_SCALE_STEP,
            minNeighbors=_LEAST_HITS,
            minSize=(_LEAST_SIDE, _LEAST_SIDE),
        )
        found = []
        for xywh, count in zip(boxes, hits, strict=True):
            box = fitted_box(xywh, scale, image.shape)
            if box is not None:
                found.append(Detection(box, float(count) / (float(count) + _LEAST_HITS)))
        return tidied(found)

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
