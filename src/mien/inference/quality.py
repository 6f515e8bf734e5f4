"""How well a face can be seen. docs/evidence/faces.md says where each threshold comes from."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.results import Box, Quality
from mien.inference.detectors.base import Landmarks

SMALL_PX = 24
"""Side of a box, in pixels, below which a face counts as small."""

BLURRED = 0.4
"""Blur from which on a face counts as blurred: that of a Gaussian of one pixel in 48."""

DARK_LEVEL = 50
"""Mean grey (0-255) below which a face counts as dark."""

BRIGHT_LEVEL = 250
BRIGHT_SHARE = 0.4
"""A face counts as bright if this share of it is at `BRIGHT_LEVEL` or above: overexposed."""

YAW_LIMIT = 0.3
"""A face counts as turned away, to a side, from this `yaw_of` on."""

PITCH_RANGE = (0.42, 0.66)
"""A face counts as turned away, up or down, outside of this `pitch_of`."""

# Fine detail (variance of the Laplacian over variance of the picture) of FER-2013's faces: half of
# them as they are and blurred by half a pixel; and blurred by three pixels.
_SHARP_DETAIL = 0.35
_BLURRED_DETAIL = 0.004
# Keeps flat pictures, whose little variance is noise, from counting as sharp.
_NOISE_VARIANCE = 25.0


def quality_of(
    face: npt.NDArray[np.uint8], box: Box, landmarks: Landmarks | None = None
) -> Quality:
    """Judge how well a face can be seen.

    Args:
        face: the standard face, uint8 (48, 48).
        box: the face's, in pixels of the image.
        landmarks: as `Detection` has them; without them, no face counts as turned away.
    """
    blur = blur_of(face)
    flags = {
        "small": min(box.w, box.h) < SMALL_PX,
        "blurred": blur >= BLURRED,
        "dark": float(face.mean()) < DARK_LEVEL,
        "bright": float((face >= BRIGHT_LEVEL).mean()) >= BRIGHT_SHARE,
        "turned_away": landmarks is not None
        and (
            yaw_of(landmarks) >= YAW_LIMIT
            or not PITCH_RANGE[0] < pitch_of(landmarks) < PITCH_RANGE[1]
        ),
    }
    return Quality(min(box.w, box.h), blur, tuple(flag for flag, is_so in flags.items() if is_so))


def blur_of(face: npt.NDArray[np.uint8]) -> float:
    """Measure the blur of a standard face, 0 (sharp) to 1 (nothing but blur).

    It is the logarithm of the fine detail: the variance of the Laplacian over the variance of the
    picture, which makes it independent of contrast.
    """
    values = face.astype(np.float32)
    laplacian = float(cv2.Laplacian(values, cv2.CV_32F).var())
    detail = laplacian / (float(values.var()) + _NOISE_VARIANCE)
    if detail <= _BLURRED_DETAIL:
        return 1.0
    blur = math.log(_SHARP_DETAIL / detail) / math.log(_SHARP_DETAIL / _BLURRED_DETAIL)
    return min(1.0, max(0.0, blur))


def pitch_of(landmarks: Landmarks) -> float:
    """Return how far down the tip of the nose lies: 0 at the height of the eyes, 1 at the mouth's.

    It is 0.5 to 0.6 in a face to the camera, less in one that looks up, more in one that looks
    down; however the face leans. Landmarks without height give infinity.
    """
    points = np.asarray(landmarks, np.float64)
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    down = mouth - eyes
    square = float(down @ down)
    return float((points[2] - eyes) @ down) / square if square else math.inf


def yaw_of(landmarks: Landmarks) -> float:
    """Return how far a head is turned to a side: 0 (to the camera) and up, over 1 in profile.

    It is the distance of the nose's tip from the middle of eyes and mouth, across the face, in
    distances between the eyes; however the face leans.
    """
    points = np.asarray(landmarks, np.float64)
    down = points[3] + points[4] - points[0] - points[1]
    length = float(np.hypot(*down))
    if length == 0:
        return math.inf
    across = np.array([down[1], -down[0]]) / length
    eyes = float((points[1] - points[0]) @ across)
    nose = abs(float((points[2] - points[[0, 1, 3, 4]].mean(axis=0)) @ across))
    return nose / eyes if eyes > 0 else math.inf
