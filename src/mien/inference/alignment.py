"""How far a face leans, and whether to level its eyes before it is read."""

from __future__ import annotations

import math

import numpy as np

from mien.core.errors import UsageError
from mien.inference.detectors.base import Landmarks

ALIGN: tuple[str, ...] = ("auto", "on", "off")
"""Level the eyes where it helps (from `AUTO_ROLL` on), always, or never."""

AUTO_ROLL = 10.0
"""Degrees from which on "auto" levels the eyes: FER-2013's own faces lean by less, mostly, and are
read a little worse when they are turned."""


def check_align(align: str) -> str:
    """Return ``align`` if it is one of `ALIGN`; raises UsageError if not."""
    if align not in ALIGN:
        raise UsageError(f"expected align={', '.join(map(repr, ALIGN))}, got {align!r}")
    return align


def roll_of(landmarks: Landmarks) -> float:
    """Return how far a face leans, in degrees, clockwise as one looks at the picture.

    The line of the eyes and the line from their middle to the mouth's, which stands upright on it,
    count together: the first one is short in a face that is turned away.

    Args:
        landmarks: eyes, tip of the nose and corners of the mouth, as `Detection` has them.
    """
    points = np.asarray(landmarks, np.float64)
    eyes = points[1] - points[0]
    down = (points[3] + points[4] - points[0] - points[1]) / 2
    x, y = eyes[0] + down[1], eyes[1] - down[0]
    return math.degrees(math.atan2(y, x))


def turn_of(landmarks: Landmarks | None, align: str, quarter: float = 0.0) -> float:
    """Return by how many degrees, -180 to 180, a face's crop is to be turned back.

    Args:
        landmarks: as `Detection` has them.
        align: one of `ALIGN`.
        quarter: degrees by which the image was turned back to find the face; its crop is, too,
            whatever ``align`` says.
    """
    if landmarks is None or align == "off":
        return quarter
    roll = roll_of(landmarks)
    lean = math.remainder(roll - quarter, 360.0)
    return roll if align == "on" or abs(lean) >= AUTO_ROLL else quarter
