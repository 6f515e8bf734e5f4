"""Turns frames upright: phones write them as the sensor lies, with a matrix that says how to turn.

The display matrix (ISO/IEC 14496-12, track header) has nine 32-bit numbers. The first two of its
first two rows, [a b; c d], turn a point (x, y) of the stored picture into (a x + c y, b x + d y) of
the shown one, up to a shift.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Turn = tuple[int, int, int, int]
"""The matrix's a, b, c, d, each -1, 0 or 1: one of the eight ways to lay a picture on a grid."""

UPRIGHT: Turn = (1, 0, 0, 1)

_MATRIX = struct.Struct("=9i")
_CLOCKWISE: Mapping[int, Turn] = {
    0: UPRIGHT,
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


def turn_of_matrix(matrix: bytes) -> Turn:
    """Return the turn nearest to a display matrix of nine native 32-bit integers."""
    a, b, _, c, d, *_ = _MATRIX.unpack(matrix[: _MATRIX.size])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1)
    return (0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0)


def turn_of_degrees(clockwise: float) -> Turn:
    """Return the turn of a ``rotate`` tag: degrees clockwise, taken to the nearest quarter."""
    return _CLOCKWISE[round(clockwise / 90) * 90 % 360]


def is_sideways(turn: Turn) -> bool:
    """Say whether width and height change places."""
    return turn[0] == 0


def turned(picture: npt.NDArray[np.uint8], turn: Turn) -> npt.NDArray[np.uint8]:
    """Return a stored picture, uint8 (H, W, 3), as it is to be shown; (W, H, 3) if sideways."""
    if turn == UPRIGHT:
        return picture
    a, b, c, d = turn
    # Sideways, columns become rows, reversed where b is negative; rows become columns likewise.
    sideways = is_sideways(turn)
    shown = picture.transpose(1, 0, 2)[::b, ::c] if sideways else picture[::d, ::a]
    return np.ascontiguousarray(shown)
