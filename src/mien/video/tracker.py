"""Tracking of faces over frames, and each person's scores over time: smoothing and baseline.

A track predicts its face's position from the last position and speed; faces are assigned to tracks
by distance and size. Everything is measured in seconds rather than frames, so that variable frame
rates and two frames a second work as well as an even rate.

A baseline corrects for faces that look a little angry or sad at rest. Scores are compositions, so
they are compared by ratios: the correction is the perturbation that takes the geometric mean of a
person's scores at rest to those of a neutral face, which is a constant shift of log scores before
the softmax (Aitchison 1986, "The Statistical Analysis of Compositional Data").
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.checks import invalid, is_number
from mien.core.emotions import match_label
from mien.core.errors import UsageError
from mien.core.results import Box, Face, Result, Smoothed

# ---------------------------------------------------------------- tracks
MEMORY_S = 1.0
"""Seconds after which a face that is absent loses its track id."""

STALL_S = 5.0
"""Longest gap between two frames, in seconds, over which faces of the last frame keep their ids."""

_MEMORY_STEPS = 2.0
# Largest distance between a face and its prediction, in sizes of the face: at once, and per second.
_REACH = 0.5
_REACH_PER_S = 1.5
_MAX_REACH = 1.25
_MAX_GROWTH = math.log(2.0)  # of the size, either way
_SPEED_TIME_S = 0.2  # time constant of the smoothed speed
_MAX_PREDICTION_S = 0.3


@dataclass
class _Track:
    """Last position and size (pixels) and speed (pixels per second) of a face."""

    number: int
    time_s: float
    x: float
    y: float
    size: float
    speed_x: float = 0.0
    speed_y: float = 0.0

    def cost(self, time_s: float, place: tuple[float, float, float]) -> float:
        """Return the cost of assigning a face (x, y, size), infinity if it is not allowed."""
        x, y, size = place
        elapsed = time_s - self.time_s
        ahead = min(elapsed, _MAX_PREDICTION_S)
        away = math.hypot(x - self.x - self.speed_x * ahead, y - self.y - self.speed_y * ahead)
        distance = away / math.sqrt(size * self.size)
        growth = abs(math.log(size / self.size))
        reach = min(_MAX_REACH, _REACH + _REACH_PER_S * elapsed)
        return math.inf if growth > _MAX_GROWTH or distance > reach else distance + growth

    def move(self, time_s: float, x: float, y: float, size: float) -> None:
        elapsed = time_s - self.time_s
        if elapsed > 0:
            weight = 1.0 - math.exp(-elapsed / _SPEED_TIME_S)
            self.speed_x += weight * ((x - self.x) / elapsed - self.speed_x)
            self.speed_y += weight * ((y - self.y) / elapsed - self.speed_y)
        self.time_s, self.x, self.y, self.size = time_s, x, y, size


def track_memory(every: float | None) -> float:
    """Return `MEMORY_S`, or more if few frames are analyzed (one per ``every`` seconds)."""
    return max(MEMORY_S, _MEMORY_STEPS * (every or 0.0))


class Tracker:
    """Assigns track ids to the faces of successive frames."""

    def __init__(self, *, memory_s: float = MEMORY_S) -> None:
        """Start without tracks; ``memory_s`` is as `MEMORY_S`."""
        self.memory_s = memory_s
        self._tracks: list[_Track] = []
        self._next = 0
        self._last_s = -math.inf

    def update(self, time_s: float, boxes: Sequence[Box]) -> list[int]:
        """Return the track id of each box; a new face gets a new one.

        Args:
            time_s: time of the frame in seconds, later than the last one's.
            boxes: in pixels of the upright picture.
        """
        self._tracks = [track for track in self._tracks if self._is_current(track, time_s)]
        self._last_s = time_s
        places = [(box.x + box.w / 2, box.y + box.h / 2, math.sqrt(box.area)) for box in boxes]
        costs = [[track.cost(time_s, place) for place in places] for track in self._tracks]
        matches = {column: self._tracks[row] for row, column in assign(costs)}
        numbers = []
        for column, place in enumerate(places):
            track = matches.get(column)
            if track is None:
                track = _Track(self._next, time_s, *place)
                self._tracks.append(track)
                self._next += 1
            track.move(time_s, *place)
            numbers.append(track.number)
        return numbers

    def _is_current(self, track: _Track, time_s: float) -> bool:
        # A gap without frames, on a slow machine or connection, is not an absence.
        was_in_last_frame = track.time_s == self._last_s
        return time_s - track.time_s <= max(self.memory_s, STALL_S if was_in_last_frame else 0.0)

    def rescale(self, across: float, down: float) -> None:
        """Scale the tracks to a new frame size by ``across`` (width) and ``down`` (height)."""
        for track in self._tracks:
            track.x, track.y = track.x * across, track.y * down
            track.speed_x, track.speed_y = track.speed_x * across, track.speed_y * down
            track.size *= math.sqrt(across * down)

    def clear(self) -> None:
        """Drop all tracks, as at a cut."""
        self._tracks = []


def assign(costs: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Assign rows to columns: as many allowed pairs as possible, at the lowest total cost.

    Args:
        costs: (rows, columns), 0 or more; infinity where a pair is not allowed.

    Returns:
        (row, column) of each pair, ordered by row.
    """
    if not costs or not costs[0]:
        return []
    table = np.array(costs, np.float64)
    rows, columns = table.shape
    allowed = np.isfinite(table)
    # Leaving a row alone costs more than all allowed pairs together, and a forbidden pair costs
    # even more, so the cheapest assignment has as many allowed pairs as possible.
    alone = 1.0 + float(table[allowed].sum())
    square = np.hstack([np.where(allowed, table, 2 * alone), np.full((rows, rows), alone)])
    pairs = enumerate(_solve_assignment(square))
    return [(row, column) for row, column in pairs if column < columns and allowed[row, column]]


def _solve_assignment(costs: npt.NDArray[np.float64]) -> list[int]:
    """Return each row's column in a table (rows, columns) with at least as many columns as rows.

    The Hungarian method with shortest augmenting paths (Jonker and Volgenant, 1987). Index 0 of
    its arrays stands for "none".
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
        while column != 0:  # augment along the path, from its end to its start
            owner[column] = owner[came_from[column]]
            column = int(came_from[column])
    assigned = np.zeros(rows + 1, int)
    assigned[owner[1:]] = np.arange(columns)
    return [int(column) for column in assigned[1:]]


# ---------------------------------------------------------------- cuts
_CUT_GRID = 16
# Mean difference of grey levels: 5 is much from frame to frame in a street at night, 20 in a fifth
# of a second. Over longer times, scenes change as much without a cut.
_CUT_LEVELS = 32.0
_CUT_WITHIN_S = 0.25


class CutDetector:
    """Detects cuts by how much of the picture changes at once."""

    def __init__(self) -> None:
        self._last: npt.NDArray[np.float32] | None = None
        self._time_s = 0.0

    def is_cut(self, time_s: float, pixels: npt.NDArray[np.uint8]) -> bool:
        """Return True if there is a cut between the last frame and this one, uint8 (H, W, 3).

        Frames more than a quarter of a second apart are never a cut.
        """
        # Every few pixels are enough.
        step = max(1, min(pixels.shape[:2]) // (4 * _CUT_GRID))
        small = cv2.resize(
            np.ascontiguousarray(pixels[::step, ::step]),
            (_CUT_GRID, _CUT_GRID),
            interpolation=cv2.INTER_AREA,
        ).astype(np.float32)
        last, self._last = self._last, small
        elapsed, self._time_s = time_s - self._time_s, time_s
        if last is None or elapsed > _CUT_WITHIN_S:
            return False
        return float(np.abs(small - last).mean()) > _CUT_LEVELS


# ---------------------------------------------------------------- smoothing
SMOOTHING_S = 0.5
"""Default time constant: seconds after which 63 % of a change shows."""


class Smoother:
    """Exponential smoothing of each person's scores over time, whatever the frame rate."""

    def __init__(self, constant_s: float = SMOOTHING_S) -> None:
        """Start without people.

        Args:
            constant_s: time constant in seconds; scores t seconds old have the weight
                exp(-t / constant_s). 0 disables smoothing.

        Raises:
            UsageError: if the constant is negative or not finite.
        """
        if not is_number(constant_s) or not 0 <= constant_s <= sys.float_info.max:
            raise invalid("smooth_s", "0 seconds or more", constant_s)
        self._constant_s = constant_s
        self._people: dict[int, tuple[float, dict[str, float]]] = {}

    def update(self, time_s: float, track_id: int, scores: Mapping[str, float]) -> Smoothed:
        """Add a person's scores at a time and return the smoothed ones."""
        last = self._people.get(track_id)
        if last is None or self._constant_s == 0:
            mean = dict(scores)
        else:
            weight = 1.0 - math.exp(-max(0.0, time_s - last[0]) / self._constant_s)
            mean = {name: old + weight * (scores[name] - old) for name, old in last[1].items()}
        self._people[track_id] = (time_s, mean)
        emotion = max(mean, key=mean.__getitem__)
        return Smoothed(emotion, mean[emotion], mean)

    def drop_before(self, time_s: float) -> None:
        """Drop people last seen before a time."""
        self._people = {
            track_id: state for track_id, state in self._people.items() if state[0] >= time_s
        }


def track_faces(result: Result, time_s: float, tracker: Tracker, smoother: Smoother) -> Result:
    """Add track ids and smoothed scores to the faces of a frame, later than the last one.

    Smoothed scores are kept no longer than tracks.
    """
    numbers = tracker.update(time_s, [face.box for face in result.faces])
    faces = tuple(
        replace(face, track_id=number, smoothed=smoother.update(time_s, number, face.scores))
        for face, number in zip(result.faces, numbers, strict=True)
    )
    smoother.drop_before(time_s - tracker.memory_s)
    return replace(result, faces=faces)


# ---------------------------------------------------------------- baseline
NEUTRAL_SHARE = 0.76
"""Score of neutral to which a baseline is corrected; the other emotions share the rest evenly."""

ADDED_SHARE = 0.01
"""Added to each score before its logarithm, because ratios of smaller scores are noise."""


def neutral_scores(labels: Sequence[str]) -> dict[str, float]:
    """Return the scores to which a baseline is corrected.

    Raises:
        UsageError: if no label means neutral, or there is no other.
    """
    neutral = match_label("neutral", labels)
    if neutral is None or len(labels) < 2:
        raise UsageError(
            "a baseline needs a model with the class neutral and others: "
            f"this one has {', '.join(labels)}"
        )
    rest = (1.0 - NEUTRAL_SHARE) / (len(labels) - 1)
    return {label: NEUTRAL_SHARE if label == neutral else rest for label in labels}


def shift_to_neutral(baseline: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the shift of each label's log score, from one or more of a person's scores at rest."""
    return {
        label: _log(share) - math.fsum(_log(scores[label]) for scores in baseline) / len(baseline)
        for label, share in neutral_scores(tuple(baseline[0])).items()
    }


def correct(scores: Mapping[str, float], shift: Mapping[str, float]) -> Smoothed:
    """Return scores with shifted logarithms, and their top emotion."""
    powers = {label: math.exp(_log(score) + shift[label]) for label, score in scores.items()}
    total = math.fsum(powers.values())
    corrected = {label: power / total for label, power in powers.items()}
    emotion = max(corrected, key=corrected.__getitem__)
    return Smoothed(emotion, corrected[emotion], corrected)


def _log(share: float) -> float:
    return math.log(share + ADDED_SHARE)


class Baseline:
    """Corrects the results of a video; results before the baseline's end are held until then."""

    def __init__(self, labels: Sequence[str], start_s: float, end_s: float) -> None:
        """Start a video in which everyone is neutral between two times.

        Raises:
            UsageError: if the model's labels have no neutral.
        """
        neutral_scores(labels)
        self.start_s, self.end_s = start_s, end_s
        self._at_rest: dict[int, list[Mapping[str, float]]] = {}
        self._shifts: dict[int, dict[str, float]] | None = None
        self._held: list[Result] = []
        self._without: set[int] = set()

    def add(self, result: Result) -> list[Result]:
        """Add the result of the next frame; return the results that are ready, in order."""
        is_over = result.error is not None or (result.time_s or 0.0) >= self.end_s
        if self._shifts is None and not is_over:
            if (result.time_s or 0.0) >= self.start_s:
                for face in result.faces:
                    if face.track_id is not None:
                        self._at_rest.setdefault(face.track_id, []).append(face.scores)
            self._held.append(result)
            return []
        return [*self.finish(), self._correct_result(result)]

    def finish(self) -> list[Result]:
        """Return the held results, at the end of the baseline or the video."""
        if self._shifts is None:
            self._shifts = {
                track_id: shift_to_neutral(scores) for track_id, scores in self._at_rest.items()
            }
            self._at_rest.clear()
        held, self._held = self._held, []
        return [self._correct_result(result) for result in held]

    def people_without(self) -> list[int]:
        """Return the track ids of people absent from the baseline, whose scores stay raw."""
        return sorted(self._without)

    def _correct_result(self, result: Result) -> Result:
        return replace(result, faces=tuple(self._correct_face(face) for face in result.faces))

    def _correct_face(self, face: Face) -> Face:
        shift = None if face.track_id is None else (self._shifts or {}).get(face.track_id)
        if shift is not None:
            return replace(face, corrected=correct(face.scores, shift))
        if face.track_id is not None:
            self._without.add(face.track_id)
        return face
