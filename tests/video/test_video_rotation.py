from __future__ import annotations

import struct

import numpy as np
import pytest

from mien.video.rotation import (
    UPRIGHT,
    is_sideways,
    turn_of_degrees,
    turn_of_matrix,
    turned,
)

PICTURE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


@pytest.mark.parametrize("quarters", range(4))
def test_degrees_turn_clockwise(quarters: int) -> None:
    turn = turn_of_degrees(90 * quarters)
    np.testing.assert_array_equal(turned(PICTURE, turn), np.rot90(PICTURE, -quarters))
    assert is_sideways(turn) == bool(quarters % 2)


@pytest.mark.parametrize("degrees", [-90, 450, 89.6])
def test_degrees_are_taken_to_the_nearest_quarter(degrees: float) -> None:
    assert turn_of_degrees(degrees) == turn_of_degrees(270 if degrees < 0 else 90)


def _matrix(a: int, b: int, c: int, d: int) -> bytes:
    one = 1 << 16
    return struct.pack("=9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)


@pytest.mark.parametrize(
    ("abcd", "axis"), [((-1, 0, 0, 1), 1), ((1, 0, 0, -1), 0)], ids=["mirrored", "upside down"]
)
def test_a_matrix_may_mirror(abcd: tuple[int, int, int, int], axis: int) -> None:
    turn = turn_of_matrix(_matrix(*abcd))
    np.testing.assert_array_equal(turned(PICTURE, turn), np.flip(PICTURE, axis))


def test_a_matrix_may_swap_rows_and_columns() -> None:
    turn = turn_of_matrix(_matrix(0, 1, 1, 0))
    np.testing.assert_array_equal(turned(PICTURE, turn), PICTURE.transpose(1, 0, 2))


def test_nothing_is_done_to_an_upright_picture() -> None:
    assert turn_of_matrix(_matrix(1, 0, 0, 1)) == UPRIGHT
    assert turned(PICTURE, UPRIGHT) is PICTURE
