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

from mien.core.checks import check_path
from mien.core.errors import ModelError
from mien.core.files import PinnedFile, fetch, read_verified
from mien.inference.detectors import DETECTION_SIDE, Detection
from mien.inference.detectors.search import (
    HINT_CONFIDENCE,
    MIN_CONFIDENCE,
    PerThread,
    RawDetections,
    ScaledDetection,
    SearchDetector,
    crop_padded,
    landmarks_in_image,
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

# Landmarks of small faces look upright however the face leans; a close-up corrects them.
_CLOSE_UP_BELOW = 96  # pixels of the searched picture
_CLOSE_UP_SCALE = 1.6
_CLOSE_UP_SIDE = 320

_NMS_IOU = 0.3
_TOP_K = 5000
# In pictures of up to 32 pixels in height, OpenCV returns faces from uninitialised memory.
_MIN_SIDE = 64


class YuNetDetector(SearchDetector):
    """YuNet detector; its confidence is the network's score.

    FER-2013's pictures span 1.11 of its boxes in the median, but a crop scale of 1 is classified
    better (docs/evidence/faces.md).
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
        """Load the weights from a file, or from the cache, downloading them if needed.

        Raises:
            ModelError: if the weights are missing, do not match their hash, or cannot be used.
        """
        path = None if weights is None else check_path("weights", weights).absolute()
        super().__init__(side=side, thorough=thorough, weights=path, offline=offline)
        file = fetch(WEIGHTS, offline=offline) if path is None else path
        self._weights = np.frombuffer(read_verified(WEIGHTS, file), np.uint8)
        self._network = PerThread(self._create_network)  # keeps its input size between calls

    def _detect_with_scales(self, image: npt.NDArray[np.uint8]) -> list[ScaledDetection]:
        return [
            (face, scale)
            if face.turn or min(face.box.w, face.box.h) >= _CLOSE_UP_BELOW / scale
            else (self._refine_landmarks(image, face), scale)
            for face, scale in super()._detect_with_scales(image)
        ]

    def _detect_upright(self, picture: npt.NDArray[np.uint8]) -> RawDetections:
        padded = _pad(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        network = self._network.value
        network.setInputSize((padded.shape[1], padded.shape[0]))
        _, rows = network.detect(padded)
        return np.empty((0, 15)) if rows is None else rows.astype(np.float64)

    def _refine_landmarks(self, image: npt.NDArray[np.uint8], face: Detection) -> Detection:
        """Replace a face's landmarks by those of a close-up, if the face is detected there."""
        box = face.box
        side = max(1.0, _CLOSE_UP_SCALE * math.sqrt(box.w * box.h))
        left, top = box.x + (box.w - side) / 2, box.y + (box.h - side) / 2
        corner = (math.floor(left), math.floor(top))
        square = crop_padded(image, *corner, math.ceil(left + side), math.ceil(top + side))
        interpolation = cv2.INTER_AREA if side > _CLOSE_UP_SIDE else cv2.INTER_LINEAR
        close_up = cv2.resize(square, (_CLOSE_UP_SIDE, _CLOSE_UP_SIDE), interpolation=interpolation)
        rows = self._detect_upright(np.asarray(close_up, np.uint8))
        rows = rows[rows[:, -1] >= MIN_CONFIDENCE]
        # The face is in the centre; neighbours may reach into the crop.
        distances = np.hypot(*(rows[:, :2] + rows[:, 2:4] / 2 - _CLOSE_UP_SIDE / 2).T)
        if not len(rows) or distances.min() > _CLOSE_UP_SIDE / 4:
            return face
        points = rows[int(distances.argmin()), 4:14]
        scale = _CLOSE_UP_SIDE / side
        return replace(face, landmarks=landmarks_in_image(points, scale, (left, top)))

    def _create_network(self) -> cv2.FaceDetectorYN:
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


def _pad(picture: cv2.typing.MatLike) -> cv2.typing.MatLike:
    """Pad to `_MIN_SIDE` with black on the right and below, which moves no coordinate."""
    height, width = picture.shape[:2]
    below, right = max(0, _MIN_SIDE - height), max(0, _MIN_SIDE - width)
    if below == right == 0:
        return picture
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT)
