"""From a detector's box to the standard face."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.faces import FACE_SIZE, standard_face
from mien.core.results import Box


def face_crop(
    image: npt.NDArray[np.uint8], box: Box, framing: float | None, *, turn: float = 0.0
) -> npt.NDArray[np.uint8]:
    """Cut a face out as FER-2013 shows faces: square, filled by the face, centred on its box.

    Args:
        image: uint8 (H, W, 3) RGB.
        box: inside the image.
        framing: the detector's: side of the square over the box's mean side; None cuts the box out
            as it is.
        turn: degrees by which the face leans (see `mien.inference.alignment`), to be turned back;
            not heeded without framing.

    Returns:
        uint8 (S, S, 3), or (h, w, 3) of the box. Where the square reaches over the image's border,
        the border's pixels are repeated.
    """
    if framing is None:
        left, top, right, bottom = box.xyxy
        return image[top:bottom, left:right]
    if turn:
        return _turned_crop(image, box, framing * math.sqrt(box.w * box.h), turn)
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
    image: npt.NDArray[np.uint8], box: Box, framing: float | None, *, turn: float = 0.0
) -> npt.NDArray[np.uint8]:
    """Return the standard face, uint8 (48, 48) grey, of a box; arguments as `face_crop`."""
    return standard_face(face_crop(image, box, framing, turn=turn))


def _turned_crop(
    image: npt.NDArray[np.uint8], box: Box, side: float, turn: float
) -> npt.NDArray[np.uint8]:
    """Cut a square of ``side`` pixels out that leans by ``turn`` degrees about the box's centre.

    It comes out as 48 k pixels with k the least that loses none: making it a standard face then
    takes the mean of k x k pixels, so that the picture is interpolated once.
    """
    size = FACE_SIZE * max(1, math.ceil(side / FACE_SIZE))
    scale, angle = side / size, math.radians(turn)
    along, across = scale * math.cos(angle), scale * math.sin(angle)
    # From a pixel of the crop to its place in the image; pixels' centres lie at half coordinates.
    matrix = np.array([[along, -across, 0.0], [across, along, 0.0]])
    centre = np.array([box.x + box.w / 2 - 0.5, box.y + box.h / 2 - 0.5])
    matrix[:, 2] = centre - matrix[:, :2] @ np.full(2, size / 2 - 0.5)
    # OpenCV warps no image with a side of 32,767 pixels or more, so the region comes first. Its
    # corner is in whole pixels, and it has a margin for interpolation: the crop stays the same.
    reach = math.ceil((abs(along) + abs(across)) * size / 2) + 2
    (x, y), (height, width) = np.rint(centre).astype(int), image.shape[:2]
    left, top = max(0, int(x) - reach), max(0, int(y) - reach)
    region = image[top : min(height, int(y) + reach + 1), left : min(width, int(x) + reach + 1)]
    matrix[:, 2] -= left, top
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    edge = cv2.BORDER_REPLICATE
    return np.asarray(cv2.warpAffine(region, matrix, (size, size), flags=flags, borderMode=edge))
