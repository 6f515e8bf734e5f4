"""The detector Protocol, and the geometry that all detectors share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError
from mien.core.results import Box

DETECTION_SIDE = 640
"""Larger images are scaled down to this longer side before detection."""

MIN_DETECTION_SIDE = 192
"""Smaller images are enlarged: libface finds 73 % of FER-2013's faces at 48 pixels, 96 % at 192."""

Landmarks = tuple[tuple[float, float], ...]
"""(x, y) in pixels of the eyes, the tip of the nose and the corners of the mouth (the person's
right before left)."""

_SAME_FACE_IOU = 0.4
_SAME_FACE_INSIDE = 0.8


@dataclass(frozen=True)
class Detection:
    """One face that a detector found.

    Attributes:
        box: in pixels of the image that was given, inside it.
        confidence: 0 to 1; how sure the detector is. Detectors differ in what they mean by it.
        landmarks: five points in pixels of the image, or None where the detector has none.
        turn: degrees, clockwise, by which the image was turned back to find it: 0, 90, 180 or -90.
            Box and landmarks are in the image as it is.
    """

    box: Box
    confidence: float
    landmarks: Landmarks | None = None
    turn: float = 0.0


class Detector(Protocol):
    """Finds faces. One may be used from several threads at once and keeps nothing between calls."""

    @property
    def name(self) -> str:
        """The name it is chosen by."""

    @property
    def crop_scale(self) -> float | None:
        """Side of the square crop that shows a face as FER-2013 does, over the box's mean side.

        Detectors draw their boxes differently; the mean side is the square root of the box's area.
        None: the box itself is the crop.
        """

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        """Find the faces in an image, uint8 (H, W, 3) RGB, sorted left to right."""


def crop_scale_of(detector: Detector) -> float | None:
    """Return a detector's `crop_scale`, which was called ``framing`` before 1.3."""
    scale: float | None = getattr(detector, "framing", None)
    return getattr(detector, "crop_scale", scale)


class NoDetector:
    """Takes the whole image for one face crop."""

    name = "none"
    crop_scale = None

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        """Return the whole image, uint8 (H, W, 3), as one face of confidence 1."""
        height, width = image.shape[:2]
        return [Detection(Box(0, 0, width, height), 1.0)]


# ---------------------------------------------------------------- pixels
def resized(
    image: npt.NDArray[np.uint8], side: int = DETECTION_SIDE
) -> tuple[npt.NDArray[np.uint8], float]:
    """Return an image at a size that suits detectors, and that size over the original's.

    Its longer side is at most ``side``, and at least `MIN_DETECTION_SIDE` unless that takes
    enlarging by more than four.

    Raises:
        UsageError: if there are no pixels.
    """
    height, width = image.shape[:2]
    if height == 0 or width == 0:
        raise UsageError(f"expected an image with pixels, got one of {width} x {height}")
    longer = max(height, width)
    if longer > side:
        scale, interpolation = side / longer, cv2.INTER_AREA
    elif longer < MIN_DETECTION_SIDE:
        scale, interpolation = min(4.0, MIN_DETECTION_SIDE / longer), cv2.INTER_LINEAR
    else:
        return np.ascontiguousarray(image), 1.0
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8), scale


def padded_region(
    image: npt.NDArray[np.uint8], left: int, top: int, right: int, bottom: int
) -> npt.NDArray[np.uint8]:
    """Cut a rectangle out of an image (H, W, 3); beyond the border, its pixels are repeated."""
    height, width = image.shape[:2]
    inside = image[max(0, top) : min(height, bottom), max(0, left) : min(width, right)]
    missing = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
    if not any(missing):
        return inside
    return np.asarray(cv2.copyMakeBorder(inside, *missing, cv2.BORDER_REPLICATE), np.uint8)


def square_crop(image: npt.NDArray[np.uint8], box: Box, side: float) -> npt.NDArray[np.uint8]:
    """Cut a square of ``side`` pixels out of an image (H, W, 3), centred on a box."""
    size = max(1, round(side))
    left, top = round(box.x + (box.w - size) / 2), round(box.y + (box.h - size) / 2)
    return padded_region(image, left, top, left + size, top + size)


def resized_square(square: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Resize a square picture to ``side`` pixels: area averaging down, linear up."""
    interpolation = cv2.INTER_AREA if square.shape[0] > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (side, side), interpolation=interpolation), np.uint8)


# ---------------------------------------------------------------- boxes
def box_in_image(
    xywh: Sequence[float],
    scale: float,
    shape: Sequence[int],
    corner: tuple[int, int] = (0, 0),
) -> Box | None:
    """Map a box from a scaled picture to the image that it is a part of.

    Args:
        xywh: left, top, width and height in the picture.
        scale: the picture's size over that of the part.
        shape: of the image, (H, W, ...); the box is clipped to it.
        corner: left and top of the part in the image.

    Returns:
        The box, or None if nothing of it lies inside the image.
    """
    height, width = shape[0], shape[1]
    x, y, w, h = (float(value) / scale for value in xywh)
    x, y = x + corner[0], y + corner[1]
    left, right = max(0, round(x)), min(width, round(x + w))
    top, bottom = max(0, round(y)), min(height, round(y + h))
    if right <= left or bottom <= top:
        return None
    return Box(left, top, right - left, bottom - top)


def landmarks_in_image(
    points: npt.ArrayLike, scale: float, corner: tuple[float, float] = (0.0, 0.0)
) -> Landmarks:
    """Map five landmarks, (10,) of x, y, as `box_in_image` does a box."""
    placed = np.asarray(points, np.float64).reshape(5, 2) / scale + np.array(corner)
    return tuple((float(x), float(y)) for x, y in placed)


def non_max_suppression(detections: Iterable[Detection]) -> list[Detection]:
    """Keep the most confident detection of each face, left to right, then downwards."""
    ranked = sorted(detections, key=lambda one: (-one.confidence, _place(one)))
    return left_to_right(first_of_each_face(ranked))


def first_of_each_face(detections: Iterable[Detection]) -> list[Detection]:
    """Keep the first of the detections of each face.

    Two boxes are of one face if their intersection over union is above 0.4, or if four fifths of
    the smaller one lie in the other.
    """
    kept: list[Detection] = []
    for detection in detections:
        if not any(_is_same_face(detection.box, other.box) for other in kept):
            kept.append(detection)
    return kept


def left_to_right(detections: Iterable[Detection]) -> list[Detection]:
    """Sort detections left to right, then downwards."""
    return sorted(detections, key=_place)


def _place(detection: Detection) -> tuple[int, int, int, int]:
    box = detection.box
    return (box.x, box.y, box.w, box.h)


def _is_same_face(one: Box, other: Box) -> bool:
    iou = one.overlap(other)
    # iou = i / (a + b - i) gives the intersection: i = iou (a + b) / (1 + iou).
    intersection = iou * (one.area + other.area) / (1.0 + iou)
    return iou > _SAME_FACE_IOU or intersection > _SAME_FACE_INSIDE * min(one.area, other.area)
