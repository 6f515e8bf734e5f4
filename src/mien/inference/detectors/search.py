"""Where to look for faces in an image, and at what size.

A network that finds faces sees large ones as well in a smaller picture, so half the size comes
first, which is a quarter of the work; the whole size is searched where the first look gives a
reason to. A thorough search of a large image goes on from there, in tiles, down to its own pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from mien.inference.detectors.base import (
    LEAST_DETECTION_SIDE,
    Detection,
    distinct,
    fitted_box,
    in_order,
    landmarks_of,
    scaled,
    tidied,
)

LEAST_CONFIDENCE = 0.7
"""Below it, blurs and patterns are taken for faces."""

HINT_CONFIDENCE = 0.2
"""What a first look sees from here on may be a face too small for it."""

SMALL_SIDE = 22
"""Pixels; where a first look sees a face smaller than this, others may be too small for it."""

TILED_FROM = 1.5
"""An image is searched in tiles at each size at which it is longer than so many of their sides."""

TILE_OVERLAP = 96
"""Pixels that neighbouring tiles share. A face that is larger is whole in the tiles of half the
size, or of a quarter, where it is still large enough to be found."""

SETTLED_SIDE = 32
"""Pixels; a face that is as large as this in a look is not searched for closer to."""

Rows: TypeAlias = npt.NDArray[np.float64]
"""A row for each that may be a face: x, y, w, h, perhaps five points, and its score, 0 to 1."""

See: TypeAlias = Callable[[npt.NDArray[np.uint8]], Rows]
"""Finds faces in a picture, uint8 (H, W, 3)."""

Found: TypeAlias = tuple[Detection, float]
"""A face and the scale of the look it is taken from."""

_ROW_WITH_LANDMARKS = 15
_CUT = 2  # pixels; a box that is as near to the edge of its tile may be of part of a face


@dataclass(frozen=True)
class Look:
    """What was seen in an image, or a tile of it, brought to one size.

    Attributes:
        rows: float64 (N, 5 or 15), the sure ones alone, in pixels of the scaled picture.
        scale: the scaled picture's size over the original's.
        corner: left and top of the tile in the image.
    """

    rows: Rows
    scale: float
    corner: tuple[int, int] = (0, 0)

    def detections(self, shape: tuple[int, ...]) -> list[Detection]:
        """Return the faces in pixels of the image, whose shape is (H, W, ...)."""
        found = []
        for row in self.rows:
            box = fitted_box(row[:4], self.scale, shape, self.corner)
            if box is not None:
                full = len(row) == _ROW_WITH_LANDMARKS
                points = landmarks_of(row[4:14], self.scale, self.corner) if full else None
                found.append(Detection(box, min(1.0, float(row[-1])), points))
        return found


def search(
    image: npt.NDArray[np.uint8], side: int, look: See, *, thorough: bool = False
) -> list[Look]:
    """Look for faces at half of ``side``, and at all of it if that may show more.

    It may where the first look is sure of no face at all, or sees something that is small there,
    surely a face or not.

    Args:
        image: uint8 (H, W, 3).
        side: the longer side, in pixels, at which the image is searched in the end.
        look: finds faces down to `HINT_CONFIDENCE`.
        thorough: look at all of it at once, and in tiles of the image's own pixels.
    """
    if thorough:
        return [
            Look(_sure(seen.rows), seen.scale, seen.corner)
            for seen in search_all(image, side, look)
        ]
    coarse_side = max(LEAST_DETECTION_SIDE, side // 2)
    if max(image.shape[:2]) > coarse_side:
        small, scale = scaled(image, coarse_side)
        rows = look(small)
        if not shows_more(rows):
            return [Look(_sure(rows), scale)]
    whole, scale = scaled(image, side)
    return [Look(_sure(look(whole)), scale)]


def search_all(image: npt.NDArray[np.uint8], side: int, look: See) -> Iterator[Look]:
    """Look at the whole image at ``side``, then, ever larger to its own size, in tiles of it.

    Its own size is halved for as long as it is more than `TILED_FROM` tiles long. Memory is that of
    a tile, however large the image is.
    """
    whole, scale = scaled(image, side)
    yield Look(look(whole), scale)
    height, width = image.shape[:2]
    longer, factor = max(height, width), 1
    while longer / (2 * factor) > TILED_FROM * side:
        factor *= 2
    while factor and longer / factor > TILED_FROM * side:
        for top, bottom in _spans(height, side * factor, TILE_OVERLAP * factor):
            for left, right in _spans(width, side * factor, TILE_OVERLAP * factor):
                tile = _shrunk(image[top:bottom, left:right], factor)
                inner = (left > 0, top > 0, right < width, bottom < height)
                yield Look(_whole(look(tile), tile.shape, inner), 1 / factor, (left, top))
        factor //= 2


def faces_of(looks: Iterable[Look], shape: tuple[int, ...]) -> list[Found]:
    """Return each face of an image once, left to right, and the scale of the look it is taken from.

    It is taken from the coarsest look in which it is `SETTLED_SIDE` pixels large, else from the
    finest; of equals, from the surest.

    Args:
        looks: at the image.
        shape: the image's, (H, W, ...).
    """
    settled: list[Found] = []
    small: list[Found] = []
    ordered = sorted(looks, key=lambda each: each.scale)
    for scale, level in groupby(ordered, key=lambda each: each.scale):
        for one in tidied(found for each in level for found in each.detections(shape)):
            is_settled = min(one.box.w, one.box.h) * scale >= SETTLED_SIDE
            (settled if is_settled else small).append((one, scale))
    return first_of_each([*settled, *reversed(small)])


def first_of_each(ranked: Sequence[Found]) -> list[Found]:
    """Return the first of what was found of each face, left to right."""
    scales = dict(reversed(ranked))  # of equal detections, too, the first one's
    return [(one, scales[one]) for one in in_order(distinct(one for one, _ in ranked))]


def shows_more(rows: Rows) -> bool:
    """Say whether a finer look may find faces that a first one, which gave these rows, did not."""
    small = rows[:, 2:4].min(axis=1) < SMALL_SIDE
    return not len(_sure(rows)) or bool((small & (rows[:, -1] >= HINT_CONFIDENCE)).any())


def _sure(rows: Rows) -> Rows:
    return rows[rows[:, -1] >= LEAST_CONFIDENCE]


def _spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Return where tiles begin and end that cover a length, evenly, with this overlap or more."""
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    starts = [(length - tile) * number // (count - 1) for number in range(count)]
    return [(start, start + tile) for start in starts]


def _shrunk(tile: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    if factor == 1:
        return np.ascontiguousarray(tile)
    size = (max(1, tile.shape[1] // factor), max(1, tile.shape[0] // factor))
    return np.asarray(cv2.resize(tile, size, interpolation=cv2.INTER_AREA), np.uint8)


def _whole(rows: Rows, shape: tuple[int, ...], inner: tuple[bool, bool, bool, bool]) -> Rows:
    """Leave out boxes that reach an inner edge (left, top, right, bottom) of their tile."""
    (left, top), (right, bottom) = rows[:, :2].T, (rows[:, :2] + rows[:, 2:4]).T
    beyond = (left < _CUT, top < _CUT, right > shape[1] - _CUT, bottom > shape[0] - _CUT)
    cut = np.zeros(len(rows), bool)
    for is_inner, reaches in zip(inner, beyond, strict=True):
        cut |= is_inner & reaches
    return rows[~cut]
