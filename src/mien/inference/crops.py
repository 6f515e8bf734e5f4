"""From a detector's box to the standard face, and how well that face can be seen."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.faces import standard_face
from mien.core.results import Box, Quality

SMALL_PX = 40
"""A box below this shows less of a face than the 48 pixels that the network takes."""

BLURRED = 0.6
"""Blur from which on a face counts as blurred: that of a Gaussian of 1.5 pixels in 48."""

DARK_LEVEL = 50
"""Mean grey (0-255) below which a face counts as dark: one in sixty of FER-2013's is."""

# Fine detail (variance of the Laplacian over variance of the picture) of FER-2013's faces: half of
# them as they are and blurred by half a pixel; and blurred by three pixels.
_SHARP_DETAIL = 0.35
_BLURRED_DETAIL = 0.004
# Keeps flat pictures, whose little variance is noise, from counting as sharp.
_NOISE_VARIANCE = 25.0


def face_crop(
    image: npt.NDArray[np.uint8], box: Box, framing: float | None
) -> npt.NDArray[np.uint8]:
    """Cut a face out as FER-2013 shows faces: square, filled by the face, centred on its box.

    Args:
        image: uint8 (H, W, 3) RGB.
        box: inside the image.
        framing: the detector's: side of the square over the box's mean side; None cuts the box out
            as it is.

    Returns:
        uint8 (S, S, 3), or (h, w, 3) of the box. Where the square reaches over the image's border,
        the border's pixels are repeated.
    """
    if framing is None:
        left, top, right, bottom = box.xyxy
        return image[top:bottom, left:right]
    side = max(1, round(framing * math.sqrt(box.w * box.h)))
    left = round(box.x + (box.w - side) / 2)
    top = round(box.y + (box.h - side) / 2)
    height, width = image.shape[:2]
    inside = image[max(0, top) : min(height, top + side), max(0, left) : min(width, left + side)]
    missing = (
        max(0, -top),
        max(0, top + side - height),
        max(0, -left),
        max(0, left + side - width),
    )
    if not any(missing):
        return inside
    return np.asarray(cv2.copyMakeBorder(inside, *missing, cv2.BORDER_REPLICATE), np.uint8)


def cut_face(
    image: npt.NDArray[np.uint8], box: Box, framing: float | None
) -> npt.NDArray[np.uint8]:
    """Return the standard face, uint8 (48, 48) grey, of a box; arguments as `face_crop`."""
    return standard_face(face_crop(image, box, framing))


def blur_of(face: npt.NDArray[np.uint8]) -> float:
    """Measure the blur of a standard face, 0 (sharp) to 1 (nothing but blur).

    What is measured is fine detail: the variance of the Laplacian over the variance of the picture,
    which makes it independent of contrast. It counts logarithmically, since blur divides it.
    """
    values = face.astype(np.float32)
    detail = float(cv2.Laplacian(values, cv2.CV_32F).var()) / (
        float(values.var()) + _NOISE_VARIANCE
    )
    if detail <= _BLURRED_DETAIL:
        return 1.0
    blur = math.log(_SHARP_DETAIL / detail) / math.log(_SHARP_DETAIL / _BLURRED_DETAIL)
    return min(1.0, max(0.0, blur))


def quality_of(face: npt.NDArray[np.uint8], box: Box) -> Quality:
    """Judge how well a face can be seen, from its standard face (48, 48) and its box."""
    blur = blur_of(face)
    flags = {
        "small": min(box.w, box.h) < SMALL_PX,
        "blurred": blur >= BLURRED,
        "dark": float(face.mean()) < DARK_LEVEL,
    }
    return Quality(min(box.w, box.h), blur, tuple(flag for flag, is_so in flags.items() if is_so))
