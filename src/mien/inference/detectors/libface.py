"""libfacedetection's face detector: the YuNet architecture with its own weights, in ONNX Runtime.

Source: Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector, 2023. ``lab/face_detector.py``
builds ``libface.onnx`` from libfacedetection's weights (3-clause BSD, ``libface.LICENSE``) and
describes its outputs. Boxes are decoded from them as in that library, to the pixel.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import ModelError, error_reason
from mien.core.manifest import ModelFile
from mien.inference.detectors import DETECTION_SIDE
from mien.inference.detectors.search import HINT_CONFIDENCE, RawDetections, SearchDetector
from mien.inference.onnx_model import ModelSession

NETWORK = Path(__file__).with_name("libface.onnx")
"""Path of the network."""

_FILE = ModelFile(
    NETWORK.name, "be76e14ba32bb430f6baca820a3406872ecb0b04d91da4f824e17666af8167e7", 224381
)
_OUTPUTS = ("scores", "offsets")
_STRIDES = (8, 16, 32)  # pixels per cell of each level, in the order of the outputs
_NMS_IOU = 0.45
_MAX_CANDIDATES, _MAX_FACES = 1000, 512

_Array = npt.NDArray[np.float32]


class LibfaceDetector(SearchDetector):
    """libface detector: boxes and landmarks in whole pixels of the picture that is searched.

    Unlike YuNet it takes no close-ups of small faces, which would cost more than the whole search.
    """

    name = "libface"

    def __init__(self, *, side: int = DETECTION_SIDE, thorough: bool = False) -> None:
        """Load the network; raises ModelError if its file is missing or damaged."""
        super().__init__(side=side, thorough=thorough)
        # One thread: a picture takes a few milliseconds, and callers search several in parallel.
        self._session = ModelSession(NETWORK.parent, _FILE, threads=1)

    def _detect_upright(self, picture: npt.NDArray[np.uint8]) -> RawDetections:
        try:
            scores, offsets = self._session.run(_OUTPUTS, {"picture": picture})
        except Exception as error:  # ONNX Runtime's errors share no narrower base
            height, width = picture.shape[:2]
            raise ModelError(
                f"the detector libface failed on {width} x {height} pixels: {error_reason(error)}"
            ) from error
        cells = np.flatnonzero(scores >= HINT_CONFIDENCE)
        decoded = _decode(cells, offsets[:, cells], picture.shape)
        boxes, confidences = decoded[:, :4].tolist(), scores[cells].tolist()
        best = cv2.dnn.NMSBoxes(boxes, confidences, 0.0, _NMS_IOU, top_k=_MAX_CANDIDATES)
        kept = list(best)[:_MAX_FACES]
        rows = np.column_stack([decoded[kept], scores[cells[kept]] * np.float32(100)])
        rows = np.trunc(rows).astype(np.float64)  # whole pixels, and scores in per cent
        rows[:, -1] /= 100
        return rows


def _decode(cells: npt.NDArray[np.intp], offsets: _Array, shape: tuple[int, ...]) -> _Array:
    """Decode boxes and landmarks, float32 (N, 14): x, y, w, h and five points, in pixels.

    Args:
        cells: (N,), flat indices of the cells over all levels.
        offsets: (14, N), the network's output for these cells.
        shape: of the picture, (H, W, ...).
    """
    rows, columns = (-(-side // _STRIDES[-1]) * _STRIDES[-1] for side in shape[:2])
    counts = [(rows // stride) * (columns // stride) for stride in _STRIDES]
    starts = np.cumsum([0, *counts[:-1]])
    level = np.searchsorted(starts, cells, side="right") - 1
    strides = np.array(_STRIDES)[level]
    down, right = np.divmod(cells - starts[level], columns // strides)
    stride = strides.astype(np.float32)
    corner = np.stack([right, down]).astype(np.float32) * stride
    center = offsets[:2] * stride + corner
    half = np.exp(offsets[2:4]) * stride / np.float32(2)
    low, high = center - half, center + half
    points = offsets[4:].reshape(5, 2, -1) * stride + corner
    return np.concatenate([low, high - low, points.reshape(10, -1)]).T
