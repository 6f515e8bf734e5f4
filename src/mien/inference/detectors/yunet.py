"""YuNet through OpenCV's `FaceDetectorYN`; its weights (MIT licence) are downloaded once.

Source: Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector, 2023.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import ModelError
from mien.core.files import PinnedFile, fetch, verified
from mien.inference.detectors.base import (
    DETECTION_SIDE,
    Detection,
    landmarks_in_image,
    padded_region,
)
from mien.inference.detectors.search import (
    HINT_CONFIDENCE,
    MIN_CONFIDENCE,
    Found,
    PerThread,
    Rows,
    SearchDetector,
)

WEIGHTS = PinnedFile(
    name="face_detection_yunet_2026may.onnx",
    url=(
        "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/"
        "face_detection_yunet/face_detection_yunet_2026may.onnx"
    ),
    sha256="ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0",
    size_bytes=229_738,
)
"""The OpenCV Zoo's weights."""

# Landmarks of small faces are those of an upright face, whichever way it leans; close up they are
# right.
_CLOSE_FROM = 96
_CLOSE_SCALE = 1.6
_CLOSE_SIDE = 320

_NMS_IOU = 0.3
_TOP_K = 5000
# Up to a height of 32 pixels, OpenCV returns faces from uninitialised memory.
_MIN_SIDE = 64


class YuNetDetector(SearchDetector):
    """A small convolutional detector; its confidence is the network's own score.

    FER-2013's pictures show 1.11 of its boxes, in the median; the crop scale of 1 is read better
    (docs/evidence/faces.md).
    """

    name = "yunet"

    def __init__(
        self,
        *,
        weights: Path | None = None,
        offline: bool = False,
        side: int = DETECTION_SIDE,
        thorough: bool = False,
    ) -> None:
        """Load the weights from a file, or else from the cache, downloaded if not there.

        Raises:
            ModelError: if the weights are missing, are not the pinned ones, or cannot be used.
        """
        path = None if weights is None else weights.absolute()
        super().__init__(side=side, thorough=thorough, weights=path, offline=offline)
        found = fetch(WEIGHTS, offline=offline) if weights is None else weights
        self._weights = np.frombuffer(verified(WEIGHTS, found), np.uint8)
        self._network = PerThread(self._create)  # it keeps its input's size between calls

    def _find(self, image: npt.NDArray[np.uint8]) -> list[Found]:
        return [
            (one, scale)
            if one.turn or min(one.box.w, one.box.h) >= _CLOSE_FROM / scale
            else (self._with_close_landmarks(image, one), scale)
            for one, scale in super()._find(image)
        ]

    def _rows(self, picture: npt.NDArray[np.uint8]) -> Rows:
        padded = _padded(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        network = self._network.value
        network.setInputSize((padded.shape[1], padded.shape[0]))
        _, rows = network.detect(padded)
        return np.empty((0, 15)) if rows is None else rows.astype(np.float64)

    def _with_close_landmarks(self, image: npt.NDArray[np.uint8], found: Detection) -> Detection:
        """Find the landmarks again in a close-up, if the face is found there."""
        box = found.box
        side = max(1.0, _CLOSE_SCALE * math.sqrt(box.w * box.h))
        left, top = box.x + (box.w - side) / 2, box.y + (box.h - side) / 2
        corner = (math.floor(left), math.floor(top))
        square = padded_region(image, *corner, math.ceil(left + side), math.ceil(top + side))
        interpolation = cv2.INTER_AREA if side > _CLOSE_SIDE else cv2.INTER_LINEAR
        close = cv2.resize(square, (_CLOSE_SIDE, _CLOSE_SIDE), interpolation=interpolation)
        rows = self._rows(np.asarray(close, np.uint8))
        rows = rows[rows[:, -1] >= MIN_CONFIDENCE]
        # The face is in the middle; others may reach in.
        away = np.hypot(*(rows[:, :2] + rows[:, 2:4] / 2 - _CLOSE_SIDE / 2).T)
        if not len(rows) or away.min() > _CLOSE_SIDE / 4:
            return found
        points = rows[int(away.argmin()), 4:14]
        scale = _CLOSE_SIDE / side
        return replace(found, landmarks=landmarks_in_image(points, scale, (left, top)))

    def _create(self) -> cv2.FaceDetectorYN:
        try:
            return cv2.FaceDetectorYN.create(
                "onnx",
                self._weights,
                np.empty(0, np.uint8),
                (self._side, self._side),
                HINT_CONFIDENCE,
                _NMS_IOU,
                _TOP_K,
            )
        except (AttributeError, cv2.error) as error:
            raise ModelError(
                f"this OpenCV ({cv2.__version__}) cannot run YuNet: update "
                "opencv-python-headless (4.8 or newer, below 5), or choose another detector"
            ) from error


def _padded(picture: cv2.typing.MatLike) -> cv2.typing.MatLike:
    """Add black on the right and below, where it moves no coordinate, up to the least side."""
    height, width = picture.shape[:2]
    below, right = max(0, _MIN_SIDE - height), max(0, _MIN_SIDE - width)
    if below == right == 0:
        return picture
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT)
