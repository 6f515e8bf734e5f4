"""Follows faces over frames, so that each person keeps a number.

A face is expected where its last place and speed lead; faces and expectations are paired by
distance and size. All is reckoned in seconds, not frames: a variable frame rate, or a frame out of
each half second, follows as well as an even one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.results import Box
from mien.video.assignment import assign

MEMORY_S = 1.0
"""A face that is not seen for this long, in seconds, is somebody new when it comes back."""

_MEMORY_STEPS = 2.0
# How far a face may be from where it is expected, in its own sizes: at once, and more a second.
_REACH = 0.5
_REACH_A_SECOND = 1.5
_MOST_REACH = 1.25
_MOST_GROWTH = math.log(2.0)  # nor may it double or halve
# A new speed counts by how much time it covers; within this many seconds it is mostly forgotten.
_SPEED_MEMORY_S = 0.2
# Further ahead than this, in seconds, nobody goes on as before.
_MOST_AHEAD_S = 0.3
_CUT_GRID = 16
# Grey levels, on average: 5 is much from frame to frame in a street at night, 20 in a fifth of a
# second. Frames that lie further apart differ as much without a cut.
_CUT_LEVELS = 32.0
_CUT_WITHIN_S = 0.25


@dataclass
class _Track:
    """One face's last place, size (pixels) and speed (pixels a second)."""

    number: int
    time_s: float
    x: float
    y: float
    size: float
    speed_x: float = 0.0
    speed_y: float = 0.0

    def expected(self, time_s: float) -> tuple[float, float]:
        ahead = min(time_s - self.time_s, _MOST_AHEAD_S)
        return self.x + self.speed_x * ahead, self.y + self.speed_y * ahead

    def moved(self, time_s: float, x: float, y: float, size: float) -> None:
        passed = time_s - self.time_s
        if passed > 0:
            new = 1.0 - math.exp(-passed / _SPEED_MEMORY_S)
            self.speed_x += new * ((x - self.x) / passed - self.speed_x)
            self.speed_y += new * ((y - self.y) / passed - self.speed_y)
        self.time_s, self.x, self.y, self.size = time_s, x, y, size


def memory_for(every: float | None) -> float:
    """Return `MEMORY_S`, or more where frames are looked at so rarely that it is not enough."""
    return max(MEMORY_S, _MEMORY_STEPS * (every or 0.0))


class Tracker:
    """Gives each face of a frame the number of the person that it is; frames come in order."""

    def __init__(self, *, memory_s: float = MEMORY_S) -> None:
        """Start with nobody; ``memory_s`` is as `MEMORY_S`."""
        self._memory_s = memory_s
        self._tracks: list[_Track] = []
        self._next = 0

    def update(self, time_s: float, boxes: Sequence[Box]) -> list[int]:
        """Return the number of each box's face; a face that was not there before gets a new one.

        Args:
            time_s: the frame's moment in seconds, later than the last one's.
            boxes: in pixels of the upright picture.
        """
        self._tracks = [track for track in self._tracks if time_s - track.time_s <= self._memory_s]
        places = [_place(box) for box in boxes]
        costs = [[_cost(track, time_s, place) for place in places] for track in self._tracks]
        found = {column: self._tracks[row] for row, column in assign(costs)}
        numbers = []
        for column, place in enumerate(places):
            if column in found:
                found[column].moved(time_s, *place)
                numbers.append(found[column].number)
            else:
                self._tracks.append(_Track(self._next, time_s, *place))
                numbers.append(self._next)
                self._next += 1
        return numbers

    def rescale(self, across: float, down: float) -> None:
        """Go on in pictures that are so many times as wide and as high."""
        for track in self._tracks:
            track.x, track.y = track.x * across, track.y * down
            track.speed_x, track.speed_y = track.speed_x * across, track.speed_y * down
            track.size *= math.sqrt(across * down)

    def forget(self) -> None:
        """Forget everybody, as at a cut: who comes next is new."""
        self._tracks = []


class CutFinder:
    """Tells where a film is cut to another picture, by how much of the picture changes at once."""

    def __init__(self) -> None:
        """Start without a picture."""
        self._last: npt.NDArray[np.float32] | None = None
        self._time_s = 0.0

    def is_cut(self, time_s: float, pixels: npt.NDArray[np.uint8]) -> bool:
        """Say whether a frame, uint8 (H, W, 3), shows another picture than the last one did.

        Never where the last one is more than a quarter of a second away: time alone changes much.
        """
        # Thinned out before it is averaged: a cut shows in any sample of the pixels.
        step = max(1, min(pixels.shape[:2]) // (4 * _CUT_GRID))
        small = cv2.resize(
            np.ascontiguousarray(pixels[::step, ::step]),
            (_CUT_GRID, _CUT_GRID),
            interpolation=cv2.INTER_AREA,
        ).astype(np.float32)
        last, self._last = self._last, small
        passed, self._time_s = time_s - self._time_s, time_s
        if last is None or passed > _CUT_WITHIN_S:
            return False
        return float(np.abs(small - last).mean()) > _CUT_LEVELS


def _place(box: Box) -> tuple[float, float, float]:
    return box.x + box.w / 2, box.y + box.h / 2, math.sqrt(box.w * box.h)


def _cost(track: _Track, time_s: float, place: tuple[float, float, float]) -> float:
    """Return how badly a face fits a track, infinity where it cannot be the same."""
    x, y, size = place
    expected_x, expected_y = track.expected(time_s)
    growth = abs(math.log(size / track.size))
    distance = math.hypot(x - expected_x, y - expected_y) / math.sqrt(size * track.size)
    reach = min(_MOST_REACH, _REACH + _REACH_A_SECOND * (time_s - track.time_s))
    if growth > _MOST_GROWTH or distance > reach:
        return math.inf
    return distance + growth
