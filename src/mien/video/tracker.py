"""Tracks faces over frames, so that each person keeps a number, and smooths their scores.

A face is expected where its last place and speed lead; faces and expectations are paired by
distance and size. All is reckoned in seconds, not frames: a variable frame rate, or a frame out of
each half second, is tracked as well as an even one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError
from mien.core.results import Box, Result, Smoothed

MEMORY_S = 1.0
"""A face that was away for longer than this, in seconds, gets a new number."""

STALL_S = 5.0
"""A face of the last frame keeps its number over a gap of up to so many seconds between frames."""

_MEMORY_STEPS = 2.0
# How far a face may be from where it is expected, in its own sizes: at once, and more a second.
_REACH = 0.5
_REACH_A_SECOND = 1.5
_MAX_REACH = 1.25
_MAX_GROWTH = math.log(2.0)  # nor may it double or halve
_SPEED_TIME_S = 0.2  # time constant of the smoothed speed
_MAX_AHEAD_S = 0.3  # for how long a track is extrapolated


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

    def cost(self, time_s: float, place: tuple[float, float, float]) -> float:
        """Return how badly a face fits this track, infinity where it cannot be the same."""
        x, y, size = place
        passed = time_s - self.time_s
        ahead = min(passed, _MAX_AHEAD_S)
        away = math.hypot(x - self.x - self.speed_x * ahead, y - self.y - self.speed_y * ahead)
        distance = away / math.sqrt(size * self.size)
        growth = abs(math.log(size / self.size))
        reach = min(_MAX_REACH, _REACH + _REACH_A_SECOND * passed)
        return math.inf if growth > _MAX_GROWTH or distance > reach else distance + growth

    def move(self, time_s: float, x: float, y: float, size: float) -> None:
        passed = time_s - self.time_s
        if passed > 0:
            new = 1.0 - math.exp(-passed / _SPEED_TIME_S)
            self.speed_x += new * ((x - self.x) / passed - self.speed_x)
            self.speed_y += new * ((y - self.y) / passed - self.speed_y)
        self.time_s, self.x, self.y, self.size = time_s, x, y, size


def memory_for(every: float | None) -> float:
    """Return `MEMORY_S`, or more where frames are looked at so rarely that it is not enough."""
    return max(MEMORY_S, _MEMORY_STEPS * (every or 0.0))


class Tracker:
    """Gives each face of a frame its person's number; frames come in order."""

    def __init__(self, *, memory_s: float = MEMORY_S) -> None:
        """Start without tracks; ``memory_s`` is as `MEMORY_S`."""
        self.memory_s = memory_s
        self._tracks: list[_Track] = []
        self._next = 0
        self._last_s = -math.inf

    def update(self, time_s: float, boxes: Sequence[Box]) -> list[int]:
        """Return the number of each box's face; a new face gets a new one.

        Args:
            time_s: the frame's moment in seconds, later than the last one's.
            boxes: in pixels of the upright picture.
        """
        self._tracks = [track for track in self._tracks if self._is_current(track, time_s)]
        self._last_s = time_s
        places = [(box.x + box.w / 2, box.y + box.h / 2, math.sqrt(box.area)) for box in boxes]
        costs = [[track.cost(time_s, place) for place in places] for track in self._tracks]
        found = {column: self._tracks[row] for row, column in assign(costs)}
        numbers = []
        for column, place in enumerate(places):
            track = found.get(column)
            if track is None:
                track = _Track(self._next, time_s, *place)
                self._tracks.append(track)
                self._next += 1
            track.move(time_s, *place)
            numbers.append(track.number)
        return numbers

    def _is_current(self, track: _Track, time_s: float) -> bool:
        # Nobody has left while no frame was read: a slow machine or connection is not an absence.
        was_in_last_frame = track.time_s == self._last_s
        return time_s - track.time_s <= max(self.memory_s, STALL_S if was_in_last_frame else 0.0)

    def rescale(self, across: float, down: float) -> None:
        """Go on in pictures that are so many times as wide and as high."""
        for track in self._tracks:
            track.x, track.y = track.x * across, track.y * down
            track.speed_x, track.speed_y = track.speed_x * across, track.speed_y * down
            track.size *= math.sqrt(across * down)

    def forget(self) -> None:
        """Forget all tracks, as at a cut."""
        self._tracks = []


# ---------------------------------------------------------------- assignment
def assign(costs: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Pair rows with columns: as many allowed pairs as can be, and of those the cheapest together.

    Args:
        costs: a row each; 0 or more, infinity where a pair is not allowed.

    Returns:
        (row, column) of each pair, by rows.
    """
    if not costs or not costs[0]:
        return []
    table = np.array(costs, np.float64)
    rows, columns = table.shape
    allowed = np.isfinite(table)
    # Staying alone is dearer than all allowed pairs together, a pair that is not allowed dearer
    # still: so a pair is never given up to save a little.
    alone = 1.0 + float(table[allowed].sum())
    square = np.hstack([np.where(allowed, table, 2 * alone), np.full((rows, rows), alone)])
    pairs = enumerate(_cheapest(square))
    return [(row, column) for row, column in pairs if column < columns and allowed[row, column]]


def _cheapest(costs: npt.NDArray[np.float64]) -> list[int]:
    """Return each row's column, in a table (rows, columns) with at least as many columns as rows.

    The Hungarian method with shortest augmenting paths (Jonker and Volgenant, 1987). Row and column
    0 of its own tables stand for "none".
    """
    rows, columns = costs.shape
    row_price, column_price = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.zeros(columns + 1, int)
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        reach = np.full(columns + 1, np.inf)
        came_from = np.zeros(columns + 1, int)
        done = np.zeros(columns + 1, bool)
        while owner[column] != 0:
            done[column] = True
            at = owner[column]
            steps = np.full(columns + 1, np.inf)
            steps[1:] = costs[at - 1] - row_price[at] - column_price[1:]
            shorter = ~done & (steps < reach)
            reach[shorter], came_from[shorter] = steps[shorter], column
            column = int(np.argmin(np.where(done, np.inf, reach)))
            step = reach[column]
            row_price[owner[done]] += step
            column_price[done] -= step
            reach[~done] -= step
        while column != 0:  # hand the columns along the path on, from its end to its start
            owner[column] = owner[came_from[column]]
            column = int(came_from[column])
    chosen = np.zeros(rows + 1, int)
    chosen[owner[1:]] = np.arange(columns)
    return [int(column) for column in chosen[1:]]


# ---------------------------------------------------------------- cuts
_CUT_GRID = 16
# Grey levels, on average: 5 is much from frame to frame in a street at night, 20 in a fifth of a
# second. Frames that lie further apart differ as much without a cut.
_CUT_LEVELS = 32.0
_CUT_WITHIN_S = 0.25


class CutFinder:
    """Detects cuts, by how much of the picture changes at once."""

    def __init__(self) -> None:
        """Start without a picture."""
        self._last: npt.NDArray[np.float32] | None = None
        self._time_s = 0.0

    def is_cut(self, time_s: float, pixels: npt.NDArray[np.uint8]) -> bool:
        """Say whether there is a cut between the last frame and this one, uint8 (H, W, 3).

        Never after more than a quarter of a second, in which any scene changes much.
        """
        # A sample of the pixels will do.
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


# ---------------------------------------------------------------- smoothing
SMOOTHING_S = 0.5
"""Seconds in which a change of expression has come through by 63 %."""


class Smoother:
    """Exponential smoothing of each person's scores, by the time that has passed.

    What was seen t seconds ago counts exp(-t / constant), whatever the frame rate.
    """

    def __init__(self, constant_s: float = SMOOTHING_S) -> None:
        """Take the time constant in seconds, 0 for none.

        Raises:
            UsageError: if the constant is negative or not finite.
        """
        if not (math.isfinite(constant_s) and constant_s >= 0):
            raise UsageError(f"expected smoothing over 0 seconds or more, got {constant_s}")
        self._constant_s = constant_s
        self._people: dict[int, tuple[float, dict[str, float]]] = {}

    def update(self, time_s: float, track_id: int, scores: Mapping[str, float]) -> Smoothed:
        """Take a person's scores at a moment and return the smoothed ones."""
        last = self._people.get(track_id)
        if last is None or self._constant_s == 0:
            mean = dict(scores)
        else:
            new = 1.0 - math.exp(-max(0.0, time_s - last[0]) / self._constant_s)
            mean = {name: old + new * (scores[name] - old) for name, old in last[1].items()}
        self._people[track_id] = (time_s, mean)
        emotion = max(mean, key=mean.__getitem__)
        return Smoothed(emotion, mean[emotion], mean)

    def forget_before(self, time_s: float) -> None:
        """Forget people last seen before this moment."""
        self._people = {
            number: known for number, known in self._people.items() if known[0] >= time_s
        }


def tracked(found: Result, time_s: float, tracker: Tracker, smoother: Smoother) -> Result:
    """Return a frame's result with the numbers and the smoothed scores of the people in it.

    Scores are kept no longer than tracks.

    Args:
        found: the frame's result.
        time_s: its moment in seconds, later than that of the frame before.
        tracker: what knows the people of the frames before.
        smoother: what knows their scores.
    """
    numbers = tracker.update(time_s, [face.box for face in found.faces])
    faces = tuple(
        replace(face, track_id=number, smoothed=smoother.update(time_s, number, face.scores))
        for face, number in zip(found.faces, numbers, strict=True)
    )
    smoother.forget_before(time_s - tracker.memory_s)
    return replace(found, faces=faces)
