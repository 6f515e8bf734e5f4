"""Search strategy of the detectors: scales, tiles and orientations, and the geometry it needs.

Coarse to fine: an image is searched at half the size first, a quarter of the work, and at the full
size only where that may show more. A thorough search continues in tiles, down to the image's own
pixels.

Orientations: networks detect many rotated faces as if they were upright, with upright landmarks
but less confidence. So uncertain faces are checked in all four orientations.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, Generic, TypeAlias, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.checks import check_integer
from mien.core.errors import UsageError
from mien.core.results import Box
from mien.inference.detectors import Detection, Landmarks

MIN_CONFIDENCE = 0.7  # detections below are mostly blurs and patterns
HINT_CONFIDENCE = 0.2  # from here on, a coarse detection may be a face too small for its scale
MIN_DETECTION_SIDE = 192
"""Smaller images are enlarged: libface finds 73 % of FER-2013's faces at 48 pixels, 96 % at 192."""

# All in pixels of the searched picture.
SMALL_SIDE = 22  # if a coarse search shows a face smaller than this, it may have missed others
SETTLED_SIDE = 32  # a face of this size is taken from the coarsest scale that shows it so large
TILE_OVERLAP = 96  # a larger face is whole in the tiles of half the scale
TILED_FROM = 1.5
"""Tiles are used at each scale at which the image is longer than this many tile sides."""

SURELY_UPRIGHT = 0.91  # faces of this confidence are not checked in other orientations
QUARTERS = (1, 2, 3)  # clockwise quarter turns, other than upright
CLOSE_UP_SIDE, CLOSE_UP_SCALE = 128, 2.0
"""Close-up for an orientation check: the box's mean side is 64 of its 128 pixels."""

SAME_FACE_IOU, SAME_FACE_CONTAINED = 0.4, 0.8
"""Two boxes are the same face above this intersection over union, or if this share of the smaller
one lies in the other."""

Image: TypeAlias = npt.NDArray[np.uint8]

RawDetections: TypeAlias = npt.NDArray[np.float64]
"""float64 (N, 5) or (N, 15): x, y, w, h, five points if there are landmarks, score (0 to 1)."""

DetectFunction: TypeAlias = Callable[[Image], RawDetections]
"""Detects upright faces in a picture, uint8 (H, W, 3)."""

ScaledDetection: TypeAlias = tuple[Detection, float]
"""A face and the scale at which it was detected."""

_ROW_WITH_LANDMARKS = 15
_TILE_MARGIN = 2  # pixels; a box this close to an inner edge of its tile may be cut off

_Value = TypeVar("_Value")


class PerThread(threading.local, Generic[_Value]):
    """One value per thread: made here at once, and in other threads on first access."""

    def __init__(self, make: Callable[[], _Value]) -> None:
        self.value = make()


class SearchDetector(ABC):
    """Base of the detectors that search an image at several scales and orientations.

    Attributes:
        name: as `Detector.name`.
        crop_scale: as `Detector.crop_scale`.
        has_scores: whether scores are a network's, so that low ones hint at small faces and a
            coarse search can be trusted.
    """

    name: str
    crop_scale: float | None = 1.0
    has_scores = True

    def __init__(self, *, side: int, thorough: bool, **options: Any) -> None:
        """Store all options, for pickles; raises UsageError if the side is too small."""
        check_integer("side", side, MIN_DETECTION_SIDE)
        self._side, self._coarse_side = side, max(MIN_DETECTION_SIDE, side // 2)
        self._thorough = thorough
        self._options = {"side": side, "thorough": thorough, **options}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the options only; the weights are loaded again on unpickling."""
        return partial(type(self), **self._options), ()

    @abstractmethod
    def _detect_upright(self, picture: Image) -> RawDetections:
        """Detect upright faces in a picture, uint8 (H, W, 3) RGB, at its own size."""

    def detect(self, image: Image) -> list[Detection]:
        """Detect the faces in an image, uint8 (H, W, 3) RGB, sorted left to right.

        Upright faces come first. Another orientation is searched if the most confident of them (in
        a thorough search: any of them) turns out to lie in it or, without any, if a coarse search
        finds a face in it; a thorough search tries every orientation.
        """
        return [face for face, _ in self._detect_with_scales(image)]

    def search(self, image: Image, quarter: int = 0) -> list[View]:
        """Search an image for faces rotated by some clockwise quarter turns, 0 to 3.

        Coarse to fine or, if thorough, at the full side at once and in tiles down to the image's
        own pixels.
        """
        detect = rotate_detector(self._detect_upright, quarter)
        if self._thorough:
            views = list(tiled_views(image, detect, self._side))
        else:
            if self.has_scores and max(image.shape[:2]) > self._coarse_side:
                small, scale = resize_to_side(image, self._coarse_side)
                rows = detect(small)
                if not needs_finer_search(rows):
                    return [View(_confident(rows), scale)]
            whole, scale = resize_to_side(image, self._side)
            views = [View(detect(whole), scale)]
        if not self.has_scores:
            return views
        return [replace(view, rows=_confident(view.rows)) for view in views]

    def _detect_with_scales(self, image: Image) -> list[ScaledDetection]:
        upright, quarters = self._split_upright(image, merge_views(self.search(image), image.shape))
        if self._thorough or not (upright or quarters):
            quarters |= self._rotated_quarters(image, [face for face, _ in upright])
        if not quarters:
            return upright
        rotated = [
            (replace(face, turn=90.0 * quarter if quarter < 3 else -90.0), scale)
            for quarter in sorted(quarters)
            for face, scale in merge_views(self.search(image, quarter), image.shape)
            if find_orientation(image, face, self._detect_upright) == quarter
        ]
        rotated.sort(key=lambda scaled: -scaled[0].confidence)
        return _unique([*upright, *rotated])

    def _split_upright(
        self, image: Image, faces: list[ScaledDetection]
    ) -> tuple[list[ScaledDetection], set[int]]:
        """Return the upright faces, and the quarter turns of the others."""

        def quarter_of(face: Detection) -> int:
            if face.confidence >= SURELY_UPRIGHT:
                return 0
            return find_orientation(image, face, self._detect_upright) or 0

        best = max((face for face, _ in faces), key=lambda face: face.confidence, default=None)
        if best is None or (not self._thorough and not quarter_of(best)):
            return faces, set()
        quarters = [quarter_of(face) for face, _ in faces]
        upright = [scaled for scaled, quarter in zip(faces, quarters, strict=True) if not quarter]
        return upright, {quarter for quarter in quarters if quarter}

    def _rotated_quarters(self, image: Image, known: list[Detection]) -> set[int]:
        """Return the quarter turns in which a coarse search shows faces that are not yet known."""
        picture, scale = resize_to_side(image, self._side if self._thorough else self._coarse_side)
        quarters = set()
        for quarter in QUARTERS:
            rows = rotate_detector(self._detect_upright, quarter)(picture)
            faces = View(_confident(rows), scale).detections(image.shape)
            new = suppress_duplicates([*known, *faces])[len(known) :]
            if any(find_orientation(image, face, self._detect_upright) == quarter for face in new):
                quarters.add(quarter)
        return quarters


# ---------------------------------------------------------------- scales and tiles
@dataclass(frozen=True)
class View:
    """Raw detections in an image, or a tile of it, at one scale."""

    rows: RawDetections  # in pixels of the scaled picture
    scale: float  # size of the scaled picture over the original's
    corner: tuple[int, int] = (0, 0)  # left and top of the tile in the image

    def detections(self, shape: Sequence[int]) -> list[Detection]:
        """Return the faces in pixels of the image, whose shape is (H, W, ...)."""
        faces = []
        for row in self.rows:
            box = box_in_image(row[:4], self.scale, shape, self.corner)
            if box is not None:
                full = len(row) == _ROW_WITH_LANDMARKS
                points = landmarks_in_image(row[4:14], self.scale, self.corner) if full else None
                faces.append(Detection(box, min(1.0, float(row[-1])), points))
        return faces


def needs_finer_search(rows: RawDetections) -> bool:
    """Return True if a finer search may find faces that the coarse one with these rows missed."""
    small = rows[:, 2:4].min(axis=1) < SMALL_SIDE
    return not len(_confident(rows)) or bool((small & (rows[:, -1] >= HINT_CONFIDENCE)).any())


def tiled_views(image: Image, detect: DetectFunction, side: int) -> Iterator[View]:
    """Detect in the whole image at ``side``, then in tiles at larger scales up to its own size."""
    whole, scale = resize_to_side(image, side)
    yield View(detect(whole), scale)
    height, width = image.shape[:2]
    longer, factor = max(height, width), 1
    while longer / (2 * factor) > TILED_FROM * side:
        factor *= 2
    while factor and longer / factor > TILED_FROM * side:
        for top, bottom in _tile_spans(height, side * factor, TILE_OVERLAP * factor):
            for left, right in _tile_spans(width, side * factor, TILE_OVERLAP * factor):
                tile = _shrink(image[top:bottom, left:right], factor)
                inner = (left > 0, top > 0, right < width, bottom < height)
                rows = _drop_cut_off(detect(tile), tile.shape, inner)
                yield View(rows, 1 / factor, (left, top))
        factor //= 2


def merge_views(views: Iterable[View], shape: Sequence[int]) -> list[ScaledDetection]:
    """Merge the faces of all views of an image, (H, W, ...), left to right.

    A face is taken from the coarsest view in which it is `SETTLED_SIDE` pixels large, else from the
    finest; within a scale, the most confident detection is kept.
    """
    settled: list[ScaledDetection] = []
    small: list[ScaledDetection] = []
    ordered = sorted(views, key=lambda view: view.scale)
    for scale, level in groupby(ordered, key=lambda view: view.scale):
        for face in non_max_suppression(face for view in level for face in view.detections(shape)):
            is_settled = min(face.box.w, face.box.h) * scale >= SETTLED_SIDE
            (settled if is_settled else small).append((face, scale))
    return _unique([*settled, *reversed(small)])


def _unique(ranked: Sequence[ScaledDetection]) -> list[ScaledDetection]:
    """Keep the first detection of each face, left to right."""
    scales = dict(reversed(ranked))  # of equal detections, the first one's scale
    kept = suppress_duplicates(face for face, _ in ranked)
    return [(face, scales[face]) for face in sorted(kept, key=_position)]


def _confident(rows: RawDetections) -> RawDetections:
    return rows[rows[:, -1] >= MIN_CONFIDENCE]


def _tile_spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Return start and end of tiles that cover a length evenly, with at least ``overlap``."""
    if length <= tile:
        return [(0, length)]
    count = math.ceil((length - overlap) / (tile - overlap))
    starts = [(length - tile) * number // (count - 1) for number in range(count)]
    return [(start, start + tile) for start in starts]


def _shrink(tile: Image, factor: int) -> Image:
    if factor == 1:
        return np.ascontiguousarray(tile)
    size = (max(1, tile.shape[1] // factor), max(1, tile.shape[0] // factor))
    return np.asarray(cv2.resize(tile, size, interpolation=cv2.INTER_AREA), np.uint8)


def _drop_cut_off(
    rows: RawDetections, shape: tuple[int, ...], inner: tuple[bool, bool, bool, bool]
) -> RawDetections:
    """Drop boxes that touch an inner edge (left, top, right, bottom) of their tile."""
    low, high = rows[:, :2], rows[:, :2] + rows[:, 2:4]
    touches = np.hstack([low < _TILE_MARGIN, high > np.array(shape[1::-1]) - _TILE_MARGIN])
    return np.asarray(rows[~(touches & np.array(inner)).any(axis=1)])


# ---------------------------------------------------------------- orientations
def find_orientation(image: Image, face: Detection, detect: DetectFunction) -> int | None:
    """Return the clockwise quarter turns, 0 to 3, of a face; None if it is not a face.

    A close-up is searched in each orientation, and the most confident one wins.
    """
    crop = crop_square(image, face.box, CLOSE_UP_SCALE * math.sqrt(face.box.w * face.box.h))
    interpolation = cv2.INTER_AREA if crop.shape[0] > CLOSE_UP_SIDE else cv2.INTER_LINEAR
    size = (CLOSE_UP_SIDE, CLOSE_UP_SIDE)
    close_up = np.asarray(cv2.resize(crop, size, interpolation=interpolation), np.uint8)
    scores = [_center_score(rotate_detector(detect, turn)(close_up)) for turn in (0, *QUARTERS)]
    best = int(np.argmax(scores))
    return best if scores[best] >= MIN_CONFIDENCE else None


def rotate_detector(detect: DetectFunction, quarter: int) -> DetectFunction:
    """Return a function that detects faces rotated by some clockwise quarter turns.

    Its boxes and points refer to the unrotated picture.
    """
    if quarter == 0:
        return detect

    def detect_rotated(picture: Image) -> RawDetections:
        rows = detect(np.ascontiguousarray(np.rot90(picture, quarter)))
        height, width = picture.shape[:2]
        # Width of the picture before each quarter turn, the last turn first.
        for number in reversed(range(quarter)):
            rows = _rotate_back(rows, width if number % 2 == 0 else height)
        return rows

    return detect_rotated


def _rotate_back(rows: RawDetections, width: int) -> RawDetections:
    """Map rows from a picture rotated by 90 degrees to the unrotated one, ``width`` wide."""
    back = rows.copy()
    back[:, 0], back[:, 1] = width - rows[:, 1] - rows[:, 3], rows[:, 0]
    back[:, 2], back[:, 3] = rows[:, 3], rows[:, 2]
    back[:, 4:-1:2], back[:, 5:-1:2] = width - rows[:, 5:-1:2], rows[:, 4:-1:2]
    return back


def _center_score(rows: RawDetections) -> float:
    """Return the highest score near the centre of a close-up."""
    centers = rows[:, :2] + rows[:, 2:4] / 2
    near = np.hypot(*(centers - CLOSE_UP_SIDE / 2).T) < CLOSE_UP_SIDE / 4
    return float(rows[near, -1].max(initial=0.0))


# ---------------------------------------------------------------- pixels
def resize_to_side(image: Image, side: int) -> tuple[Image, float]:
    """Resize an image for detection; return it with its size over the original's.

    Its longer side becomes at most ``side``, and at least `MIN_DETECTION_SIDE` as far as enlarging
    by four allows.

    Raises:
        UsageError: if the image has no pixels.
    """
    height, width = image.shape[:2]
    if height == 0 or width == 0:
        raise UsageError(f"expected an image with pixels, got one of {width} x {height}")
    longer = max(height, width)
    if longer > side:
        scale, interpolation = side / longer, cv2.INTER_AREA
    elif longer < MIN_DETECTION_SIDE:
        scale, interpolation = min(4.0, MIN_DETECTION_SIDE / longer), cv2.INTER_LINEAR
    else:
        return np.ascontiguousarray(image), 1.0
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8), scale


def crop_padded(image: Image, left: int, top: int, right: int, bottom: int) -> Image:
    """Crop a rectangle from an image (H, W, 3), repeating border pixels outside of it."""
    height, width = image.shape[:2]
    inside = image[max(0, top) : min(height, bottom), max(0, left) : min(width, right)]
    missing = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
    if not any(missing):
        return inside
    return np.asarray(cv2.copyMakeBorder(inside, *missing, cv2.BORDER_REPLICATE), np.uint8)


def crop_square(image: Image, box: Box, side: float) -> Image:
    """Crop a square of ``side`` pixels from an image (H, W, 3), centred on a box."""
    size = max(1, round(side))
    left, top = round(box.x + (box.w - size) / 2), round(box.y + (box.h - size) / 2)
    return crop_padded(image, left, top, left + size, top + size)


# ---------------------------------------------------------------- boxes
def box_in_image(
    xywh: Sequence[float], scale: float, shape: Sequence[int], corner: tuple[int, int] = (0, 0)
) -> Box | None:
    """Map a box from a scaled tile to its image, (H, W, ...), and clip it; None if outside.

    ``scale`` and ``corner`` of the tile are as in `View`.
    """
    height, width = shape[0], shape[1]
    x, y, w, h = (float(value) / scale for value in xywh)
    x, y = x + corner[0], y + corner[1]
    left, right = max(0, round(x)), min(width, round(x + w))
    top, bottom = max(0, round(y)), min(height, round(y + h))
    if right <= left or bottom <= top:
        return None
    return Box(left, top, right - left, bottom - top)


def landmarks_in_image(
    points: npt.ArrayLike, scale: float, corner: tuple[float, float] = (0.0, 0.0)
) -> Landmarks:
    """Map five landmarks, (10,) of x, y, as `box_in_image` maps a box."""
    mapped = np.asarray(points, np.float64).reshape(5, 2) / scale + np.array(corner)
    return tuple((float(x), float(y)) for x, y in mapped)


def non_max_suppression(detections: Iterable[Detection]) -> list[Detection]:
    """Keep the most confident detection of each face, sorted left to right, then downwards."""
    ranked = sorted(detections, key=lambda face: (-face.confidence, _position(face)))
    return sorted(suppress_duplicates(ranked), key=_position)


def suppress_duplicates(detections: Iterable[Detection]) -> list[Detection]:
    """Keep the first detection of each face; see `SAME_FACE_IOU` and `SAME_FACE_CONTAINED`."""
    kept: list[Detection] = []
    for detection in detections:
        if not any(_is_same_face(detection.box, other.box) for other in kept):
            kept.append(detection)
    return kept


def _position(detection: Detection) -> tuple[int, int, int, int]:
    box = detection.box
    return (box.x, box.y, box.w, box.h)


def _is_same_face(box: Box, other: Box) -> bool:
    iou = box.overlap(other)
    # iou = i / (a + b - i) gives the intersection: i = iou (a + b) / (1 + iou).
    intersection = iou * (box.area + other.area) / (1.0 + iou)
    smaller = min(box.area, other.area)
    return iou > SAME_FACE_IOU or intersection > SAME_FACE_CONTAINED * smaller
