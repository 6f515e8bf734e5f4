"""Searching an image from coarse to fine: half the size first, which is a quarter of the work.

A network that finds faces sees large ones as well in a smaller picture. The whole size is searched
where the first look gives a reason to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mien.inference.detectors.base import LEAST_DETECTION_SIDE, scaled

LEAST_CONFIDENCE = 0.7
"""Below it, blurs and patterns are taken for faces."""

HINT_CONFIDENCE = 0.2
"""What a first look sees from here on may be a face too small for it."""

SMALL_SIDE = 22
"""Pixels; where a first look sees a face smaller than this, others may be too small for it."""

Rows: TypeAlias = npt.NDArray[np.float64]
"""A row for each that may be a face: x, y, w, h, whatever else, and last its score, 0 to 1."""


@dataclass(frozen=True)
class Look:
    """What was seen in an image brought to one size.

    Attributes:
        rows: float64 (N, 5 or more), the sure ones alone, in pixels of the scaled image.
        scale: the scaled image's size over the original's.
    """

    rows: Rows
    scale: float


def search(
    image: npt.NDArray[np.uint8],
    side: int,
    look: Callable[[npt.NDArray[np.uint8]], Rows],
    *,
    thorough: bool = False,
) -> Look:
    """Look for faces at half of ``side``, and at all of it if that may show more.

    It may where the first look is sure of no face at all, or sees something that is small there,
    surely a face or not.

    Args:
        image: uint8 (H, W, 3).
        side: the longer side, in pixels, at which the image is searched in the end.
        look: finds faces in a picture, uint8 (H, W, 3), down to `HINT_CONFIDENCE`.
        thorough: look at all of it at once.
    """
    coarse_side = max(LEAST_DETECTION_SIDE, side // 2)
    if not thorough and max(image.shape[:2]) > coarse_side:
        small, scale = scaled(image, coarse_side)
        rows = look(small)
        if not shows_more(rows):
            return Look(_sure(rows), scale)
    whole, scale = scaled(image, side)
    return Look(_sure(look(whole)), scale)


def shows_more(rows: Rows) -> bool:
    """Say whether a finer look may find faces that a first one, which gave these rows, did not."""
    small = rows[:, 2:4].min(axis=1) < SMALL_SIDE
    return not len(_sure(rows)) or bool((small & (rows[:, -1] >= HINT_CONFIDENCE)).any())


def _sure(rows: Rows) -> Rows:
    return rows[rows[:, -1] >= LEAST_CONFIDENCE]
