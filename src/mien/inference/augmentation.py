"""Test-time augmentation: the same faces mirrored and shifted, for a mean of probabilities."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

SHIFT_PIXELS = 3
"""How far the shifted views are moved, in pixels of the standard face."""

SHIFTS: tuple[tuple[int, int], ...] = (
    (0, 0),
    (0, -SHIFT_PIXELS),
    (0, SHIFT_PIXELS),
    (-SHIFT_PIXELS, 0),
    (SHIFT_PIXELS, 0),
)
"""(down, right): as it is, left, right, up, down."""

VIEWS = 2 * len(SHIFTS)
"""How many views there are of each face."""


def shifted(faces: npt.NDArray[np.uint8], down: int, right: int) -> npt.NDArray[np.uint8]:
    """Move faces (N, 48, 48) by whole pixels, repeating the border's pixels in what opens up.

    It is the crop of a picture padded with its border.
    """
    height, width = faces.shape[1:]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return faces[:, rows[:, None], columns[None, :]]


def augmented_views(faces: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the `VIEWS` views of faces, each uint8 (N, 48, 48): `SHIFTS`, then those mirrored."""
    for mirrored in (False, True):
        pictures = faces[:, :, ::-1] if mirrored else faces
        for down, right in SHIFTS:
            yield shifted(pictures, down, right)
