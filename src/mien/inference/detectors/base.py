"""What every face detector is and gives, and the steps that all of them share."""

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

LEAST_DETECTION_SIDE = 192
"""Smaller images are enlarged: libface finds 73 % of FER-2013's faces at 48 pixels, 96 % at 192."""

Landmarks = tuple[tuple[float, float], ...]

_SAME_FACE_OVERLAP = 0.4
_INSIDE_SHARE = 0.8


@dataclass(frozen=True)
class Detection:
    """One face that a detector found.

    Attributes:
        box: where, in pixels of the image that was given, inside it.
        confidence: 0 to 1; how sure the detector is. Detectors differ in what they mean by it.
        landmarks: (x, y) in pixels of the eyes, the tip of the nose and the corners of the mouth
            (the person's right before left), or None where the detector has none.
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
    def framing(self) -> float | None:
        """Side of the square that shows a face as FER-2013 does, over the box's mean side.

        Detectors draw their boxes differently; the mean side is the square root of the box's area.
        None: the box is such a picture already.
        """

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        """Find the faces in an image, uint8 (H, W, 3) RGB, sorted left to right."""


def scaled(
    image: npt.NDArray[np.uint8], side: int = DETECTION_SIDE
) -> tuple[npt.NDArray[np.uint8], float]:
    """Return an image at a size that suits detectors, and that size over the original's.

    Its longer side is at most ``side``, and at least `LEAST_DETECTION_SIDE` unless that takes
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
    elif longer < LEAST_DETECTION_SIDE:
        scale, interpolation = min(4.0, LEAST_DETECTION_SIDE / longer), cv2.INTER_LINEAR
    else:
        return np.ascontiguousarray(image), 1.0
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8), scale


def fitted_box(
    xywh: Sequence[float],
    scale: float,
    shape: tuple[int, ...] | Sequence[int],
    corner: tuple[int, int] = (0, 0),
) -> Box | None:
    """Return a box found on a picture in pixels of the image that it is a scaled part of.

    Args:
        xywh: left, top, width and height on the picture.
        scale: the picture's size over that of the part.
        shape: of the image, (H, W, ...); the box is cut at its borders.
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


def landmarks_of(
    points: npt.ArrayLike, scale: float = 1.0, corner: tuple[float, float] = (0.0, 0.0)
) -> Landmarks:
    """Return landmarks found on a picture in pixels of the image that it is a scaled part of.

    Args:
        points: x, y of the five, (10,), on the picture.
        scale: the picture's size over that of the part.
        corner: left and top of the part in the image.
    """
    placed = np.asarray(points, np.float64).reshape(5, 2) / scale + np.array(corner)
    return tuple((float(x), float(y)) for x, y in placed)


def tidied(detections: Iterable[Detection]) -> list[Detection]:
    """Keep the surest detection of each face (see `distinct`), left to right, then downwards."""
    return in_order(distinct(sorted(detections, key=lambda one: (-one.confidence, _place(one)))))


def distinct(detections: Iterable[Detection]) -> list[Detection]:
    """Keep the first of detections that are of one face.

    Two boxes are of one face if they overlap by 0.4 (intersection over union), or if four fifths of
    the smaller one lie in the other.
    """
    kept: list[Detection] = []
    for detection in detections:
        if not any(_same_face(detection.box, other.box) for other in kept):
            kept.append(detection)
    return kept


def in_order(detections: Iterable[Detection]) -> list[Detection]:
    """Sort detections left to right, then downwards."""
    return sorted(detections, key=_place)


def check_side(side: int) -> int:
    """Return ``side`` if an image can be scaled to it; raises UsageError if not."""
    if side < LEAST_DETECTION_SIDE:
        raise UsageError(
            f"expected a detection side of {LEAST_DETECTION_SIDE} pixels or more, got {side}"
        )
    return side


def _place(detection: Detection) -> tuple[int, int, int, int]:
    box = detection.box
    return (box.x, box.y, box.w, box.h)


def _same_face(one: Box, other: Box) -> bool:
    overlap = one.overlap(other)
    # Intersection over union, i / (a + b - i), tells the intersection: i = o (a + b) / (1 + o).
    shared = overlap * (one.area + other.area) / (1.0 + overlap)
    return overlap > _SAME_FACE_OVERLAP or shared > _INSIDE_SHARE * min(one.area, other.area)
