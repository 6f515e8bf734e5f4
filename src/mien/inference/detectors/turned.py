"""Faces that lie on a side or stand on their heads, in photos whose metadata say nothing of it.

Networks that find faces take many of them for upright ones, with eyes and mouth where an upright
face has them. What gives them away is that they are surer of them the right way up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from mien.inference.crops import face_crop
from mien.inference.detectors.base import (
    LEAST_DETECTION_SIDE,
    Detection,
    distinct,
    scaled,
)
from mien.inference.detectors.search import (
    LEAST_CONFIDENCE,
    Found,
    Look,
    Rows,
    See,
    faces_of,
    first_of_each,
)

SURELY_UPRIGHT = 0.91
"""A face that is found with this confidence is not looked at the other ways up."""

CLOSE_SIDE = 128
CLOSE_FRAMING = 2.0
"""How a face is looked at each way up: its box's mean side is 64 of the picture's 128 pixels."""

QUARTERS = (1, 2, 3)
"""Quarter turns, clockwise, by which a face may lean."""


def find_faces(
    image: npt.NDArray[np.uint8],
    side: int,
    look: See,
    search: Callable[[See], Iterable[Look]],
    *,
    thorough: bool = False,
) -> list[Found]:
    """Find the faces of an image, whichever way up, left to right.

    Upright ones are searched for first. The image is searched turned, too, where the surest of
    those turns out to be one that lies, and where a look at it turned, at half of ``side``, shows
    one after none was found.

    Args:
        image: uint8 (H, W, 3) RGB.
        side: the longer side at which all of the image is looked at, in pixels.
        look: finds upright faces in a picture.
        search: searches the image with such a function.
        thorough: doubt all faces, not the surest alone, and look at the image turned in any case,
            at all of ``side``.
    """
    upright, quarters = _sorted_out(image, faces_of(search(look), image.shape), look, thorough)
    if thorough or not (upright or quarters):
        picture, scale = scaled(image, side if thorough else max(LEAST_DETECTION_SIDE, side // 2))
        for quarter in QUARTERS:
            known = [one for one, _ in upright]
            seen = Look(turned(look, quarter)(picture), scale).detections(image.shape)
            sure = [one for one in seen if one.confidence >= LEAST_CONFIDENCE]
            new = distinct([*known, *sure])[len(known) :]
            if any(way_up(image, one, look) == quarter for one in new):
                quarters.add(quarter)
    if not quarters:
        return upright
    lying = [
        (replace(one, turn=90.0 * quarter if quarter < 3 else -90.0), scale)
        for quarter in sorted(quarters)
        for one, scale in faces_of(search(turned(look, quarter)), image.shape)
        if way_up(image, one, look) == quarter
    ]
    lying.sort(key=lambda found: -found[0].confidence)
    return first_of_each([*upright, *lying])


def _sorted_out(
    image: npt.NDArray[np.uint8], found: list[Found], look: See, thorough: bool
) -> tuple[list[Found], set[int]]:
    """Return the faces that are upright, and the quarter turns by which the others lean."""
    surest = max((one for one, _ in found), key=lambda one: one.confidence, default=None)
    if surest is None or (not thorough and not _leans(image, surest, look)):
        return found, set()
    ways = [_leans(image, one, look) for one, _ in found]
    upright = [each for each, quarter in zip(found, ways, strict=True) if not quarter]
    return upright, {quarter for quarter in ways if quarter}


def _leans(image: npt.NDArray[np.uint8], face: Detection, look: See) -> int:
    """Return the quarter turns by which what was found as an upright face leans; 0 if it is one."""
    return 0 if face.confidence >= SURELY_UPRIGHT else way_up(image, face, look) or 0


def way_up(image: npt.NDArray[np.uint8], face: Detection, look: See) -> int | None:
    """Return by how many quarter turns, clockwise, a face leans, 0 to 3; None if it is no face.

    It is looked at from close to each way up; that in which the detector is surest is taken.
    """
    crop = face_crop(image, face.box, CLOSE_FRAMING)
    shrinks = crop.shape[0] > CLOSE_SIDE
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    size = (CLOSE_SIDE, CLOSE_SIDE)
    close = np.asarray(cv2.resize(crop, size, interpolation=interpolation), np.uint8)
    scores = [_score_in_the_middle(turned(look, quarter)(close)) for quarter in (0, *QUARTERS)]
    best = int(np.argmax(scores))
    return best if scores[best] >= LEAST_CONFIDENCE else None


def turned(look: See, quarter: int) -> See:
    """Return a function that finds faces that lean by so many quarter turns, clockwise.

    It gives boxes and points in the picture as it is given.
    """

    def see(picture: npt.NDArray[np.uint8]) -> Rows:
        rows = look(np.ascontiguousarray(np.rot90(picture, quarter)))
        height, width = picture.shape[:2]
        # The width of the picture before each turn, the last one first.
        for number in reversed(range(quarter)):
            rows = _turned_back(rows, width if number % 2 == 0 else height)
        return rows

    return see


def _turned_back(rows: Rows, width: int) -> Rows:
    """Return rows found in a picture turned by 90 degrees, in the one before, which is so wide."""
    back = rows.copy()
    back[:, 0], back[:, 1] = width - rows[:, 1] - rows[:, 3], rows[:, 0]
    back[:, 2], back[:, 3] = rows[:, 3], rows[:, 2]
    back[:, 4:-1:2], back[:, 5:-1:2] = width - rows[:, 5:-1:2], rows[:, 4:-1:2]
    return back


def _score_in_the_middle(rows: Rows) -> float:
    middles = rows[:, :2] + rows[:, 2:4] / 2
    near = np.hypot(*(middles - CLOSE_SIDE / 2).T) < CLOSE_SIDE / 4
    return float(rows[near, -1].max(initial=0.0))
