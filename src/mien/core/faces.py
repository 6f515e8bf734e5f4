"""The only preprocessing outside the network's graph: a face crop becomes grey 48x48.

Resizing to the network's input, scaling and grey to RGB are inside, so training and inference
agree.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError

FACE_SIZE = 48
"""Side of the classifier's input in pixels, FER-2013's own."""


def standard_face(crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Turn a face crop, uint8 (H, W) grey or (H, W, 3) RGB, into the network's input.

    Returns:
        uint8 (48, 48), grey. A crop that is already so is returned unchanged.

    Raises:
        UsageError: if the array is empty, not uint8, or of another shape.
    """
    if crop.dtype != np.uint8 or crop.size == 0 or crop.ndim not in (2, 3):
        raise UsageError(
            f"expected a face crop as uint8 (H, W) or (H, W, 3), got {crop.dtype} {crop.shape}"
        )
    if crop.ndim == 3:
        if crop.shape[2] != 3:
            raise UsageError(f"expected a face crop with 3 channels, got {crop.shape[2]}")
        crop = np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), np.uint8)
    height, width = crop.shape
    if (height, width) == (FACE_SIZE, FACE_SIZE):
        return crop
    # Area averaging avoids aliasing when shrinking; it is nearest-neighbour when enlarging.
    shrinks = height >= FACE_SIZE and width >= FACE_SIZE
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(
        cv2.resize(crop, (FACE_SIZE, FACE_SIZE), interpolation=interpolation), np.uint8
    )
