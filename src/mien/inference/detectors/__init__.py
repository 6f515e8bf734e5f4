"""Face detectors behind one Protocol: an image goes in, boxes in its pixels come out."""

from __future__ import annotations

from pathlib import Path

from mien.core.errors import UsageError, expectation
from mien.inference.detectors.base import (
    DETECTION_SIDE,
    Detection,
    Detector,
    NoDetector,
    crop_scale_of,
)

__all__ = [
    "DETECTION_SIDE",
    "DETECTORS",
    "Detection",
    "Detector",
    "NoDetector",
    "crop_scale_of",
    "load_detector",
]

DETECTORS: tuple[str, ...] = ("auto", "yunet", "libface", "haar", "none")
"""The names that `load_detector` takes."""


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
        name: one of `DETECTORS`. "auto" is YuNet where its weights are in the cache, else libface;
            it never downloads anything.
        weights: a file with YuNet's weights, for "yunet" alone.
        offline: never download YuNet's weights.
        side: images are scaled down to this longer side for detection; a larger one finds smaller
            faces in large images and takes longer.
        thorough: search at that size at once, and larger images in tiles as well, down to their
            own pixels (see `mien.inference.detectors.search`). Otherwise yunet and libface search
            at half of that size first, and at all of it where that may show more.

    Raises:
        UsageError: if the name is unknown.
        ModelError: if the detector's weights are missing or damaged, or OpenCV cannot run it.
    """
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
    raise UsageError(f"unknown detector {name!r}: {expectation(name, DETECTORS)}")
