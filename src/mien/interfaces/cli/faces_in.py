"""From ``--detector`` to how a file of a class folder becomes a face."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mien.data.class_folder import FaceOf


def face_finder(detector: str | None) -> FaceOf | None:
    """Return what finds the largest face in a photo, or None where images are face crops.

    Args:
        detector: a detector's name; None or "none" for face crops.

    Raises:
        UsageError: if there is no such detector, or it is not installed.
    """
    from mien.inference.detectors import load_detector
    from mien.inference.one_face import largest_face

    if detector in (None, "none"):
        return None
    return largest_face(load_detector(str(detector)))
