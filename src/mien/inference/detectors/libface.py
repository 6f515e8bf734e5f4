"""libfacedetection's face detector: YuNet's network with its weights, run by ONNX Runtime.

Source: Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector, 2023. ``libface.onnx`` was made
of the weights of libfacedetection (3-clause BSD licence, ``libface.LICENSE`` beside it) by
``lab/face_detector.py``, which describes its outputs. From them, boxes follow as in that library:
to the pixel.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import ModelError, reason_of
from mien.core.manifest import ModelFile
from mien.inference.detectors.base import DETECTION_SIDE
from mien.inference.detectors.search import HINT_CONFIDENCE, Rows, SearchDetector
from mien.inference.session import ModelSession

NETWORK = Path(__file__).with_name("libface.onnx")
"""The network's file."""

_FILE = ModelFile(
    NETWORK.name, "be76e14ba32bb430f6baca820a3406872ecb0b04d91da4f824e17666af8167e7", 224381
)
_OUTPUTS = ("scores", "offsets")
_STRIDES = (8, 16, 32)  # pixels from cell to cell, in the order of the outputs
_NMS_IOU = 0.45
_MOST_CANDIDATES, _MOST_FACES = 1000, 512

_Numbers = npt.NDArray[np.float32]


class LibfaceDetector(SearchDetector):
    """Boxes, scores and landmarks like YuNet's, in whole pixels of the picture it searches.

    There is no close-up of small faces, which would cost more than finding all of them.
    """

    name = "libface"

    def __init__(self, *, side: int = DETECTION_SIDE, thorough: bool = False) -> None:
        """Load the network; raises ModelError if its file is missing or damaged."""
        super().__init__(side=side, thorough=thorough)
        # One thread: a picture takes a few milliseconds, and several are searched side by side.
        self._session = ModelSession(NETWORK.parent, _FILE, threads=1)

    def _rows(self, picture: npt.NDArray[np.uint8]) -> Rows:
        try:
            scores, offsets = self._session.run(_OUTPUTS, {"picture": picture})
        except Exception as error:  # ONNX Runtime's own errors share no nearer base
            height, width = picture.shape[:2]
            raise ModelError(
                f"the detector libface failed on {width} x {height} pixels: {reason_of(error)}"
            ) from error
        cells = np.flatnonzero(scores >= HINT_CONFIDENCE)
        found = _decoded(cells, offsets[:, cells], picture.shape)
        boxes, confidences = found[:, :4].tolist(), scores[cells].tolist()
        best = cv2.dnn.NMSBoxes(boxes, confidences, 0.0, _NMS_IOU, top_k=_MOST_CANDIDATES)
        kept = list(best)[:_MOST_FACES]
        rows = np.column_stack([found[kept], scores[cells[kept]] * np.float32(100)])
        rows = np.trunc(rows).astype(np.float64)  # whole pixels, and scores in per cent
        rows[:, -1] /= 100
        return rows


def _decoded(cells: npt.NDArray[np.intp], offsets: _Numbers, shape: tuple[int, ...]) -> _Numbers:
    """Return where the faces of some cells are, (N, 14): x, y, w, h, five points; in pixels.

    Args:
        cells: (N,), indices into the network's outputs.
        offsets: (14, N), what it says of these.
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
    centre = offsets[:2] * stride + corner
    half = np.exp(offsets[2:4]) * stride / np.float32(2)
    low, high = centre - half, centre + half
    points = offsets[4:].reshape(5, 2, -1) * stride + corner
    return np.concatenate([low, high - low, points.reshape(10, -1)]).T
