"""Face detectors: the protocol they share, their detections, and a loader by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mien.core.checks import check_type
from mien.core.errors import UsageError, expected_one_of
from mien.core.models import DETECTORS
from mien.core.results import Box

DETECTION_SIDE = 640
"""Images with a longer side than this are scaled down to it for detection."""

Landmarks = tuple[tuple[float, float], ...]
"""(x, y) in pixels of right eye, left eye, nose tip, right and left mouth corner; right and left
are the person's own."""


@dataclass(frozen=True)
class Detection:
    """A detected face.

    Attributes:
        box: in pixels of the input image, inside it.
        confidence: 0 to 1; each detector has its own scale.
        landmarks: five points in pixels of the image, or None where the detector has none.
        turn: clockwise rotation of the image, in degrees, in which the face was upright: 0, 90, 180
            or -90. Box and landmarks refer to the unrotated image.
    """

    box: Box
    confidence: float
    landmarks: Landmarks | None = None
    turn: float = 0.0


class Detector(Protocol):
    """Face detector; keeps no state between calls, so that threads can share it."""

    @property
    def name(self) -> str:
        """Name that results and messages show."""

    @property
    def crop_scale(self) -> float | None:
        """Side of the square crop that frames a face as FER-2013 does, over the box's mean side.

        The mean side is the square root of the box's area. None: the box itself is the crop.
        """

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        """Detect the faces in an image, uint8 (H, W, 3) RGB, sorted left to right."""


def crop_scale_of(detector: Detector) -> float | None:
    """Return a detector's `crop_scale`, or its ``framing``, the attribute's name before 1.3."""
    scale: float | None = getattr(detector, "framing", None)
    return getattr(detector, "crop_scale", scale)


class NoDetector:
    """Stand-in for a detector where images are face crops already."""

    name = "none"
    crop_scale = None

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        """Return the whole image, uint8 (H, W, 3), as one face of confidence 1."""
        height, width = image.shape[:2]
        return [Detection(Box(0, 0, width, height), 1.0)]


def load_detector(
    name: str = "auto",
    *,
    weights: Path | None = None,
    offline: bool = False,
    side: int = DETECTION_SIDE,
    thorough: bool = False,
) -> Detector:
    """Load a face detector.

    Args:
        name: one of `DETECTORS`. "auto" is YuNet if its weights are in the cache, else libface; it
            never downloads anything.
        weights: path of YuNet's weights, for "yunet" only.
        offline: never download YuNet's weights.
        side: images are scaled down to this longer side, in pixels. A larger one finds smaller
            faces in large images and takes longer.
        thorough: search at the full side at once, and larger images also in tiles, down to their
            own pixels (see `mien.inference.detectors.search`). Otherwise yunet and libface search
            at half the side first, and at the full side only where that may show more.

    Raises:
        UsageError: if the name or the side is invalid.
        ModelError: if the weights are missing or damaged, or OpenCV cannot run the detector.
    """
    check_type("detector", name, str, "a name")
    if weights is not None and name != "yunet":
        raise UsageError(f"only detector='yunet' takes weights, got detector={name!r}")
    if name in ("auto", "yunet"):
        from mien.inference.detectors.yunet import WEIGHTS, YuNetDetector

        if name == "yunet" or WEIGHTS.is_cached():
            offline = offline or name == "auto"
            return YuNetDetector(weights=weights, offline=offline, side=side, thorough=thorough)
    if name in ("auto", "libface"):
        from mien.inference.detectors.libface import LibfaceDetector

        return LibfaceDetector(side=side, thorough=thorough)
    if name == "haar":
        from mien.inference.detectors.haar import HaarDetector

        return HaarDetector(side=side, thorough=thorough)
    if name == "none":
        return NoDetector()
    raise UsageError(f"unknown detector {name!r}: {expected_one_of(name, DETECTORS)}")
