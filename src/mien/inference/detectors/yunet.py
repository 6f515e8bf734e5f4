"""YuNet through OpenCV's `FaceDetectorYN`; its weights (MIT licence) are downloaded once.

Source: Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector, 2023.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.downloads import PinnedFile, fetch, verified
from mien.core.errors import ModelError
from mien.inference.detectors.base import (
    DETECTION_SIDE,
    Detection,
    check_side,
    landmarks_of,
)
from mien.inference.detectors.search import (
    HINT_CONFIDENCE,
    LEAST_CONFIDENCE,
    Rows,
    search,
)
from mien.inference.detectors.turned import find_faces

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

# The landmarks of faces that are small in the picture are those of an upright face, whichever way
# it leans: a woman who leans by 20 degrees has level eyes. Close to they are right.
_CLOSE_FROM = 96
_CLOSE_FRAMING = 1.6
_CLOSE_SIDE = 320

_MERGE_OVERLAP = 0.3
_MOST_CANDIDATES = 5000
# On pictures of 32 pixels' height or less OpenCV gives faces made of uninitialised memory.
_LEAST_SIDE = 64


class YuNetDetector:
    """A small convolutional detector; its confidence is the network's own score."""

    name = "yunet"
    # FER-2013's pictures show 1.11 boxes, in the median, but a little less is read better: see
    # docs/faces.md. Their centres agree.
    framing = 1.0

    def __init__(
        self,
        *,
        weights: Path | None = None,
        offline: bool = False,
        side: int = DETECTION_SIDE,
        thorough: bool = False,
    ) -> None:
        """Load the weights.

        Args:
            weights: a file that holds them; without it, the cache's, downloaded if not there.
            offline: never download.
            side: images are searched at this longer side at most.
            thorough: search all of it at once, where otherwise half of it may do, and larger
                images in tiles (see `search`).

        Raises:
            ModelError: if the weights are missing, are not the pinned ones, or cannot be used.
        """
        self._side = check_side(side)
        self._thorough = thorough
        self._options: dict[str, Any] = {
            "weights": None if weights is None else weights.absolute(),
            "offline": offline,
            "side": side,
            "thorough": thorough,
        }
        path = fetch(WEIGHTS, offline=offline) if weights is None else weights
        self._weights = np.frombuffer(verified(WEIGHTS, path), np.uint8)
        # The network keeps its input's size between calls, so each thread has its own.
        self._local = threading.local()
        self._network()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle how it was made: the weights are read, and checked, where the pickle is loaded."""
        return partial(YuNetDetector, **self._options), ()

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        """Find the faces in an image, uint8 (H, W, 3) RGB, sorted left to right."""
        thorough = self._thorough
        found = find_faces(
            image,
            self._side,
            self._rows,
            lambda look: search(image, self._side, look, thorough=thorough),
            thorough=thorough,
        )
        return [
            one
            if one.turn or min(one.box.w, one.box.h) >= _CLOSE_FROM / scale
            else self._looked_at_closely(image, one)
            for one, scale in found
        ]

    def _rows(self, picture: npt.NDArray[np.uint8]) -> Rows:
        """Return x, y, w, h, five points, and the score of all that may be a face."""
        padded = _padded(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        network = self._network()
        network.setInputSize((padded.shape[1], padded.shape[0]))
        _, rows = network.detect(padded)
        return np.empty((0, 15)) if rows is None else rows.astype(np.float64)

    def _looked_at_closely(self, image: npt.NDArray[np.uint8], found: Detection) -> Detection:
        """Find the landmarks again where the face is large, if it is found there."""
        box = found.box
        side = max(1.0, _CLOSE_FRAMING * math.sqrt(box.w * box.h))
        scale = _CLOSE_SIDE / side
        left, top = box.x + (box.w - side) / 2, box.y + (box.h - side) / 2
        close = _close_up(image, (left, top), side)
        # The face is in the middle; others may reach in.
        middle = np.array([_CLOSE_SIDE / 2, _CLOSE_SIDE / 2])
        rows = sorted(
            (row for row in self._rows(close) if row[14] >= LEAST_CONFIDENCE),
            key=lambda row: float(np.hypot(*(row[:2] + row[2:4] / 2 - middle))),
        )
        if not rows or np.hypot(*(rows[0][:2] + rows[0][2:4] / 2 - middle)) > _CLOSE_SIDE / 4:
            return found
        return replace(found, landmarks=landmarks_of(rows[0][4:14], scale, (left, top)))

    def _network(self) -> cv2.FaceDetectorYN:
        network: cv2.FaceDetectorYN | None = getattr(self._local, "network", None)
        if network is None:
            network = self._create()
            self._local.network = network
        return network

    def _create(self) -> cv2.FaceDetectorYN:
        try:
            return cv2.FaceDetectorYN.create(
                "onnx",
                self._weights,
                np.empty(0, np.uint8),
                (self._side, self._side),
                HINT_CONFIDENCE,
                _MERGE_OVERLAP,
                _MOST_CANDIDATES,
            )
        except (AttributeError, cv2.error) as error:
            raise ModelError(
                f"this OpenCV ({cv2.__version__}) cannot run YuNet: update "
                "opencv-python-headless (4.8 or newer, below 5), or choose another detector"
            ) from error


def _close_up(
    image: npt.NDArray[np.uint8], corner: tuple[float, float], side: float
) -> npt.NDArray[np.uint8]:
    """Return a square of an image at the size of close looks, its border's pixels repeated."""
    height, width = image.shape[:2]
    left, top = (math.floor(each) for each in corner)
    right, bottom = (math.ceil(each + side) for each in corner)
    inside = image[max(0, top) : min(height, bottom), max(0, left) : min(width, right)]
    rest = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
    whole = cv2.copyMakeBorder(inside, *rest, cv2.BORDER_REPLICATE)
    shrinks = side > _CLOSE_SIDE
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    size = (_CLOSE_SIDE, _CLOSE_SIDE)
    return np.asarray(cv2.resize(whole, size, interpolation=interpolation), np.uint8)


def _padded(picture: cv2.typing.MatLike) -> cv2.typing.MatLike:
    """Add black on the right and below, where it moves no coordinate, up to the least side."""
    height, width = picture.shape[:2]
    below, right = max(0, _LEAST_SIDE - height), max(0, _LEAST_SIDE - width)
    if below == right == 0:
        return picture
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT)
