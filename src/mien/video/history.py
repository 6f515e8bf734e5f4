"""Each person's smoothed scores over time, thinned so that no video is too long to be drawn."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

from mien.core.results import Result

_CELLS = 40_000
_FIRST_WIDTH_S = 1 / 64


@dataclass
class _Cell:
    """The sum of the scores in one stretch of time, and how many they are."""

    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, scores: dict[str, float], count: int = 1) -> None:
        for name, score in scores.items():
            self.sums[name] = self.sums.get(name, 0.0) + score
        self.count += count


class History:
    """Means of scores in even stretches of time; stretches double when they become too many."""

    def __init__(self, *, cells: int = _CELLS) -> None:
        """Take how many stretches are kept, of all people together."""
        self.width_s = _FIRST_WIDTH_S
        self.start_s: float | None = None
        self.end_s = 0.0
        self._most = cells
        self._count = 0
        self._people: dict[int, dict[int, _Cell]] = {}
        self._steps: deque[float] = deque(maxlen=256)

    def add(self, result: Result) -> None:
        """Take the result of the next frame; one that is of no frame changes nothing."""
        if result.time_s is None or result.error is not None:
            return
        if self.start_s is None:
            self.start_s = result.time_s
        else:
            self._steps.append(result.time_s - self.end_s)
        self.end_s = result.time_s
        for face in result.faces:
            if face.track_id is None or face.smoothed is None:
                continue
            cells = self._people.setdefault(face.track_id, {})
            place = int(result.time_s / self.width_s)
            if place not in cells:
                cells[place] = _Cell()
                self._count += 1
            cells[place].add(dict(face.smoothed.scores))
        while self._count > self._most and self._halve():
            pass

    @property
    def step_s(self) -> float:
        """The usual time between two frames that are looked at, in seconds."""
        return statistics.median(self._steps) if self._steps else 0.0

    def people(self) -> list[int]:
        """Return the numbers of everybody, in order."""
        return sorted(self._people)

    def scores(self, track_id: int) -> dict[float, dict[str, float]]:
        """Return a person's mean scores by the moment at which each stretch begins, in order."""
        return {
            place * self.width_s: {name: total / cell.count for name, total in cell.sums.items()}
            for place, cell in sorted(self._people[track_id].items())
        }

    def _halve(self) -> bool:
        """Merge stretches in pairs; say whether that left fewer."""
        before = self._count
        self.width_s *= 2
        self._count = 0
        for number, cells in self._people.items():
            merged: dict[int, _Cell] = {}
            for place, cell in cells.items():
                merged.setdefault(place // 2, _Cell()).add(cell.sums, cell.count)
            self._people[number] = merged
            self._count += len(merged)
        return self._count < before
