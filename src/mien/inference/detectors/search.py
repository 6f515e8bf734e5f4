"""Where a detector looks for faces in an image: scales, tiles and orientations.

Coarse to fine: half the size comes first, which is a quarter of the work; the whole size is
searched where that may show more. A thorough search of a large image goes on in tiles, down to its
own pixels.

Orientations: networks find many lying faces as if they were upright, with the landmarks of an
upright one, but with less confidence; so unsure faces are checked in all four orientations.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, Generic, TypeAlias, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError
from mien.inference.detectors.base import (
    MIN_DETECTION_SIDE,
    Detection,
    box_in_image,
    first_of_each_face,
    landmarks_in_image,
    left_to_right,
    non_max_suppression,
    resized,
    resized_square,
    square_crop,
)

MIN_CONFIDENCE = 0.7
"""Below it, blurs and patterns are taken for faces."""

HINT_CONFIDENCE = 0.2
"""From here on, a coarse detection may be a face too small for that scale."""

SMALL_SIDE = 22
"""Pixels; where a coarse look sees a face smaller than this, others may be too small for it."""

TILED_FROM = 1.5
"""An image is searched in tiles at each size at which it is longer than so many of their sides."""

TILE_OVERLAP = 96
"""Pixels that neighbouring tiles share. A larger face is whole in the tiles of half the size."""

SETTLED_SIDE = 32
"""Pixels; a face as large as this at some scale is taken from there, not from a finer one."""

SURELY_UPRIGHT = 0.91
"""A face of this confidence is not checked in other orientations."""

QUARTERS = (1, 2, 3)
"""Quarter turns, clockwise, by which a face may lean."""

CLOSE_SIDE = 128
CLOSE_SCALE = 2.0
"""In an orientation check, the box's mean side is 64 of the picture's 128 pixels."""

Image: TypeAlias = npt.NDArray[np.uint8]

Rows: TypeAlias = npt.NDArray[np.float64]
"""float64 (N, 5) or (N, 15): x, y, w, h, perhaps five points, and the score, 0 to 1."""

RawDetect: TypeAlias = Callable[[Image], Rows]
"""Finds upright faces in a picture, uint8 (H, W, 3)."""

Found: TypeAlias = tuple[Detection, float]
"""A face, and the scale at which it was found."""

_ROW_WITH_LANDMARKS = 15
_TILE_EDGE = 2  # pixels; a box as near as this to the edge of its tile may be cut off

_Value = TypeVar("_Value")


class PerThread(threading.local, Generic[_Value]):
    """A value for each thread, made in this one at once and in others when they ask for it."""

    def __init__(self, make: Callable[[], _Value]) -> None:
        self.value = make()


class SearchDetector:
    """A detector that searches an image with `_rows`; subclasses say how those are found.

    Attributes:
        name: the name it is chosen by.
        crop_scale: as `Detector.crop_scale`.
        has_scores: whether scores are a network's, so that low ones are hints of small faces and
            a coarse look can be trusted.
    """

    name: str
    crop_scale: float | None = 1.0
    has_scores = True

    def __init__(self, *, side: int, thorough: bool, **options: Any) -> None:
        """Take the search's options (see `load_detector`) and a subclass's own, for pickles."""
        if side < MIN_DETECTION_SIDE:
            raise UsageError(
                f"expected a detection side of {MIN_DETECTION_SIDE} pixels or more, got {side}"
            )
        self._side, self._coarse_side = side, max(MIN_DETECTION_SIDE, side // 2)
        self._thorough = thorough
        self._options = {"side": side, "thorough": thorough, **options}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the options: what is loaded is loaded again where the pickle is."""
        return partial(type(self), **self._options), ()

    def detect(self, image: Image) -> list[Detection]:
        """Find the faces in an image, uint8 (H, W, 3) RGB, sorted left to right.

        Upright ones are searched for first. The image is searched in another orientation where the
        most confident of those (of a thorough search, any) turns out to lean so or, if there is
        none, where a coarse look shows a face; a thorough search looks in all in any case.
        """
        return [one for one, _ in self._find(image)]

    def search(self, image: Image, quarter: int = 0) -> list[View]:
        """Search an image for faces that lean by so many quarter turns.

        Coarse to fine, or, thoroughly, at all of the side at once and in tiles down to the image's
        own pixels.
        """
        detect = rotated(self._rows, quarter)
        if self._thorough:
            views = list(tiled_views(image, detect, self._side))
        else:
            if self.has_scores and max(image.shape[:2]) > self._coarse_side:
                small, scale = resized(image, self._coarse_side)
                rows = detect(small)
                if not may_show_more(rows):
                    return [View(_sure(rows), scale)]
            whole, scale = resized(image, self._side)
            views = [View(detect(whole), scale)]
        if not self.has_scores:
            return views
        return [replace(view, rows=_sure(view.rows)) for view in views]

    def _rows(self, picture: Image) -> Rows:
        raise NotImplementedError

    def _find(self, image: Image) -> list[Found]:
        upright, quarters = self._split_upright(image, merge(self.search(image), image.shape))
        if self._thorough or not (upright or quarters):
            quarters |= self._lying_quarters(image, [one for one, _ in upright])
        if not quarters:
            return upright
        lying = [
            (replace(one, turn=90.0 * quarter if quarter < 3 else -90.0), scale)
            for quarter in sorted(quarters)
            for one, scale in merge(self.search(image, quarter), image.shape)
            if orientation(image, one, self._rows) == quarter
        ]
        lying.sort(key=lambda each: -each[0].confidence)
        return _first_of_each([*upright, *lying])

    def _split_upright(self, image: Image, found: list[Found]) -> tuple[list[Found], set[int]]:
        """Return the faces that are upright, and the quarter turns by which the others lean."""

        def quarter_of(face: Detection) -> int:
            if face.confidence >= SURELY_UPRIGHT:
                return 0
            return orientation(image, face, self._rows) or 0

        best = max((one for one, _ in found), key=lambda one: one.confidence, default=None)
        if best is None or (not self._thorough and not quarter_of(best)):
            return found, set()
        quarters = [quarter_of(one) for one, _ in found]
        upright = [each for each, quarter in zip(found, quarters, strict=True) if not quarter]
        return upright, {quarter for quarter in quarters if quarter}

    def _lying_quarters(self, image: Image, known: list[Detection]) -> set[int]:
        """Return the quarter turns by which faces beside the known ones lean."""
        picture, scale = resized(image, self._side if self._thorough else self._coarse_side)
        quarters = set()
        for quarter in QUARTERS:
            view = View(_sure(rotated(self._rows, quarter)(picture)), scale)
            new = first_of_each_face([*known, *view.detections(image.shape)])[len(known) :]
            if any(orientation(image, one, self._rows) == quarter for one in new):
                quarters.add(quarter)
        return quarters


# ---------------------------------------------------------------- scales and tiles
@dataclass(frozen=True)
class View:
    """The raw detections in an image, or a tile of it, at one scale.

    Attributes:
        rows: in pixels of the scaled picture.
        scale: the scaled picture's size over the original's.
        corner: left and top of the tile in the image.
    """

    rows: Rows
    scale: float
    corner: tuple[int, int] = (0, 0)

    def detections(self, shape: Sequence[int]) -> list[Detection]:
        """Return the faces in pixels of the image, whose shape is (H, W, ...)."""
        found = []
        for row in self.rows:
            box = box_in_image(row[:4], self.scale, shape, self.corner)
            if box is not None:
                full = len(row) == _ROW_WITH_LANDMARKS
                points = landmarks_in_image(row[4:14], self.scale, self.corner) if full else None
                found.append(Detection(box, min(1.0, float(row[-1])), points))
        return found


def may_show_more(rows: Rows) -> bool:
    """Say whether a finer look may find faces that a coarse one, with these rows, missed."""
    small = rows[:, 2:4].min(axis=1) < SMALL_SIDE
    return not len(_sure(rows)) or bool((small & (rows[:, -1] >= HINT_CONFIDENCE)).any())


def tiled_views(image: Image, detect: RawDetect, side: int) -> Iterator[View]:
    """Detect in the whole image at ``side``, then, ever larger to its own size, in tiles of it."""
    whole, scale = resized(image, side)
    yield View(detect(whole), scale)
    height, width = image.shape[:2]
    longer, factor = max(height, width), 1
    while longer / (2 * factor) > TILED_FROM * side:
        factor *= 2
    while factor and longer / factor > TILED_FROM * side:
        for top, bottom in _spans(height, side * factor, TILE_OVERLAP * factor):
            for left, right in _spans(width, side * factor, TILE_OVERLAP * factor):
                tile = _shrunk(image[top:bottom, left:right], factor)
                inner = (left > 0, top > 0, right < width, bottom < height)
                yield View(_uncut(detect(tile), tile.shape, inner), 1 / factor, (left, top))
        factor //= 2


def merge(views: Iterable[View], shape: Sequence[int]) -> list[Found]:
    """Return each face of an image, (H, W, ...), once, left to right, with its view's scale.

    It is taken from the coarsest view in which it is `SETTLED_SIDE` pixels large, else from the
    finest; of equals, the most confident.
    """
    settled: list[Found] = []
    small: list[Found] = []
    ordered = sorted(views, key=lambda view: view.scale)
    for scale, level in groupby(ordered, key=lambda view: view.scale):
        for one in non_max_suppression(each for view in level for each in view.detections(shape)):
            is_settled = min(one.box.w, one.box.h) * scale >= SETTLED_SIDE
            (settled if is_settled else small).append((one, scale))
    return _first_of_each([*settled, *reversed(small)])


def _first_of_each(ranked: Sequence[Found]) -> list[Found]:
    scales = dict(reversed(ranked))  # of equal detections, too, the first one's
    kept = left_to_right(first_of_each_face(one for one, _ in ranked))
    return [(one, scales[one]) for one in kept]


def _sure(rows: Rows) -> Rows:
    return rows[rows[:, -1] >= MIN_CONFIDENCE]


def _spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Return starts and ends of tiles that cover a length evenly, with this overlap or more."""
    if length <= tile:
        return [(0, length)]
    count = math.ceil((length - overlap) / (tile - overlap))
    starts = [(length - tile) * number // (count - 1) for number in range(count)]
    return [(start, start + tile) for start in starts]


def _shrunk(tile: Image, factor: int) -> Image:
    if factor == 1:
        return np.ascontiguousarray(tile)
    size = (max(1, tile.shape[1] // factor), max(1, tile.shape[0] // factor))
    return np.asarray(cv2.resize(tile, size, interpolation=cv2.INTER_AREA), np.uint8)


def _uncut(rows: Rows, shape: tuple[int, ...], inner: tuple[bool, bool, bool, bool]) -> Rows:
    """Leave out boxes that reach an inner edge (left, top, right, bottom) of their tile."""
    low, high = rows[:, :2], rows[:, :2] + rows[:, 2:4]
    beyond = np.hstack([low < _TILE_EDGE, high > np.array(shape[1::-1]) - _TILE_EDGE])
    return np.asarray(rows[~(beyond & np.array(inner)).any(axis=1)])


# ---------------------------------------------------------------- orientations
def orientation(image: Image, face: Detection, detect: RawDetect) -> int | None:
    """Return by how many quarter turns, clockwise, a face leans, 0 to 3; None if it is no face.

    A close-up is searched in each orientation; that of the highest confidence is taken.
    """
    crop = square_crop(image, face.box, CLOSE_SCALE * math.sqrt(face.box.w * face.box.h))
    close = resized_square(crop, CLOSE_SIDE)
    scores = [_central_score(rotated(detect, quarter)(close)) for quarter in (0, *QUARTERS)]
    best = int(np.argmax(scores))
    return best if scores[best] >= MIN_CONFIDENCE else None


def rotated(detect: RawDetect, quarter: int) -> RawDetect:
    """Return a function that finds faces leaning by so many quarter turns, clockwise.

    Boxes and points are in the picture before rotation.
    """
    if quarter == 0:
        return detect

    def detect_rotated(picture: Image) -> Rows:
        rows = detect(np.ascontiguousarray(np.rot90(picture, quarter)))
        height, width = picture.shape[:2]
        # The width of the picture before each turn, the last one first.
        for number in reversed(range(quarter)):
            rows = _rotated_back(rows, width if number % 2 == 0 else height)
        return rows

    return detect_rotated


def _rotated_back(rows: Rows, width: int) -> Rows:
    """Map rows from a picture turned by 90 degrees to the one before, which is ``width`` wide."""
    back = rows.copy()
    back[:, 0], back[:, 1] = width - rows[:, 1] - rows[:, 3], rows[:, 0]
    back[:, 2], back[:, 3] = rows[:, 3], rows[:, 2]
    back[:, 4:-1:2], back[:, 5:-1:2] = width - rows[:, 5:-1:2], rows[:, 4:-1:2]
    return back


def _central_score(rows: Rows) -> float:
    centres = rows[:, :2] + rows[:, 2:4] / 2
    near = np.hypot(*(centres - CLOSE_SIDE / 2).T) < CLOSE_SIDE / 4
    return float(rows[near, -1].max(initial=0.0))
