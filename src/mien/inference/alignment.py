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


def turn_of(landmarks: Landmarks | None, align: str) -> float:
    """Return by how many degrees a face's crop is to be turned back; 0 for not at all."""
    if landmarks is None or align == "off":
        return 0.0
    roll = roll_of(landmarks)
    return roll if align == "on" or abs(roll) >= AUTO_ROLL else 0.0
