"""What the results of a video tell of all of it: each person's episodes, and totals of events."""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from mien.core.emotions import valence
from mien.core.errors import InputError, UsageError
from mien.core.results import SCORE_DIGITS, Face, Result, score_columns
from mien.video.times import parse_time
from mien.video.tracker import MEMORY_S


# ---------------------------------------------------------------- episodes
@dataclass(frozen=True)
class Episode:
    """A stretch of time in which a person's smoothed scores say the same emotion.

    Attributes:
        start_s: when it begins, in seconds.
        end_s: when it ends: where the next one begins, or one frame after it was last seen.
        emotion: the likeliest emotion.
        confidence: the mean of its smoothed score.
        frames: how many frames were read in it.
    """

    start_s: float
    end_s: float
    emotion: str
    confidence: float
    frames: int

    def to_dict(self) -> dict[str, Any]:
        """Return the episode as JSON has it."""
        return {
            "start_s": round(self.start_s, SCORE_DIGITS),
            "end_s": round(self.end_s, SCORE_DIGITS),
            "emotion": self.emotion,
            "confidence": round(self.confidence, SCORE_DIGITS),
            "frames": self.frames,
        }


@dataclass(frozen=True)
class Person:
    """One person of a video, by number, with their episodes in order."""

    track_id: int
    episodes: tuple[Episode, ...]

    @property
    def frames(self) -> int:
        """How many frames the person was read in."""
        return sum(episode.frames for episode in self.episodes)

    @property
    def seconds(self) -> float:
        """How long the person was seen."""
        return sum(episode.end_s - episode.start_s for episode in self.episodes)

    def to_dict(self) -> dict[str, Any]:
        """Return the person as JSON has it."""
        episodes = [episode.to_dict() for episode in self.episodes]
        return {
            "track_id": self.track_id,
            "frames": self.frames,
            "start_s": episodes[0]["start_s"],
            "end_s": episodes[-1]["end_s"],
            "episodes": episodes,
        }


@dataclass
class _Track:
    """A person's past episodes, and the sums of the present one."""

    start_s: float
    last_s: float
    emotion: str
    past: list[Episode] = field(default_factory=list)
    total: float = 0.0
    frames: int = 0

    def present(self, end_s: float) -> Episode:
        return Episode(self.start_s, end_s, self.emotion, self.total / self.frames, self.frames)


class Summary:
    """Gathers episodes while results pass by; keeps no results."""

    def __init__(self, *, gap_s: float = MEMORY_S) -> None:
        """Take how long, in seconds, a person may be unseen within one episode."""
        self.frames = 0
        self.faces = 0
        self._gap_s = gap_s
        self._tracks: dict[int, _Track] = {}
        self._last_s: float | None = None
        self._tick = 0.0

    def add(self, result: Result) -> None:
        """Take the result of the next frame; one that is of no frame changes nothing."""
        if result.time_s is None or result.error is not None:
            return
        if self._last_s is not None and 0 < result.time_s - self._last_s <= self._gap_s:
            self._tick = result.time_s - self._last_s
        self._last_s = result.time_s
        self.frames += 1
        for face in result.faces:
            self.faces += 1
            self._add_face(result.time_s, face)

    def people(self) -> list[Person]:
        """Return everybody so far, by number; episodes that go on end with their last frame."""
        return [
            Person(number, (*track.past, track.present(track.last_s + self._tick)))
            for number, track in sorted(self._tracks.items())
        ]

    def _add_face(self, time_s: float, face: Face) -> None:
        if face.track_id is None or face.smoothed is None:
            return
        emotion = face.smoothed.emotion
        track = self._tracks.get(face.track_id)
        if track is None:
            track = self._tracks[face.track_id] = _Track(time_s, time_s, emotion)
        lost = time_s - track.last_s > self._gap_s
        if lost or track.emotion != emotion:
            track.past.append(track.present(track.last_s + self._tick if lost else time_s))
            track.start_s, track.emotion, track.total, track.frames = time_s, emotion, 0.0, 0
        track.last_s = time_s
        track.total += face.smoothed.confidence
        track.frames += 1


# ---------------------------------------------------------------- markers
MARKER_COLUMNS: tuple[str, ...] = ("start", "end", "label")
"""Columns that a file of markers has to have; ``source`` may be there, too."""

_FIRST_STEP_S = 0.04  # how long a video's only frame is taken to last


@dataclass(frozen=True)
class Marker:
    """An event.

    Attributes:
        start_s: when it begins, in seconds from the video's start.
        end_s: when it ends.
        label: what it is called; events of one name are told apart by their times.
        source: the video that it is of, by its path or file name; None: of each.
    """

    start_s: float
    end_s: float
    label: str
    source: str | None = None

    def is_of(self, source: str) -> bool:
        """Say whether this is an event of a video."""
        return self.source is None or self.source in (source, PurePath(source).name)


Markers: TypeAlias = "str | Path | Sequence[Marker | tuple[float, float, str]]"
"""Events as `markers_of` takes them."""


def markers_of(markers: Markers) -> list[Marker]:
    """Return events from a CSV file (see `read_markers`) or a list of (start, end, label).

    Raises:
        InputError: if the file cannot be read, or a line of it is not an event.
        UsageError: if an end is not after its start, or something else is in the list.
    """
    if isinstance(markers, str | Path):
        return read_markers(Path(markers))
    found = []
    for each in markers:
        try:
            one = each if isinstance(each, Marker) else Marker(*each)
            is_event = 0 <= one.start_s < one.end_s
        except TypeError:
            is_event = False
        if not is_event:
            raise UsageError(
                f"expected events as (start, end, label), the end after the start, got {each!r:.80}"
            )
        found.append(one)
    return found


def read_markers(path: Path) -> list[Marker]:
    """Read a CSV file of events: ``start``, ``end`` (as `parse_time` has them), ``label``.

    Columns may come in any order and be separated by commas, semicolons or tabs.

    Raises:
        InputError: if the file cannot be read, or a line of it is not an event.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is not UTF-8 text") from error
    head = lines[0] if lines else ""
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(lines, delimiter=delimiter, restval="")
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    missing = [name for name in MARKER_COLUMNS if name not in reader.fieldnames]
    if missing:
        raise InputError(f"{path}: expected the columns start, end, label; {missing[0]} is missing")
    markers = [_marker(row, f"{path}, line {reader.line_num}") for row in reader]
    if not markers:
        raise InputError(f"{path}: holds no event: expected a line for each")
    return markers


def _marker(row: Mapping[str, str], place: str) -> Marker:
    try:
        start, end = parse_time(row["start"]), parse_time(row["end"])
    except UsageError as error:
        raise InputError(f"{place}: {error}") from error
    if not end > start:
        raise InputError(f"{place}: expected an end after the start, got {row['end'].strip()!r}")
    return Marker(start, end, row["label"].strip(), (row.get("source") or "").strip() or None)


# ---------------------------------------------------------------- totals
@dataclass
class _Totals:
    """Scores summed over time: a frame counts as long as it is shown."""

    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    shares: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, emotion: str, scores: Mapping[str, float], seconds: float) -> None:
        self.seconds += seconds
        for name, score in scores.items():
            self.sums[name] += seconds * score
        self.shares[emotion] += seconds

    def cells(self, labels: Sequence[str], prefix: str = "") -> dict[str, float | None]:
        """Return valence, mean scores and shares of time, as `_total_columns` names them."""
        columns = _total_columns(labels, prefix)
        if self.seconds <= 0:
            return dict.fromkeys(columns)
        means = {label: self.sums[label] / self.seconds for label in labels}
        shares = (self.shares[label] / self.seconds for label in labels)
        values = (valence(means), *means.values(), *shares)
        return {
            name: None if value is None else round(value, SCORE_DIGITS)
            for name, value in zip(columns, values, strict=True)
        }


def _total_columns(labels: Sequence[str], prefix: str = "") -> list[str]:
    """Return ``valence``, each label's column, and ``share_`` of each, all after a prefix."""
    scores = list(score_columns(labels).values())
    return [prefix + name for name in ("valence", *scores, *(f"share_{name}" for name in scores))]


class EventTable:
    """Gathers what was read in each event of a video while results pass by; keeps none of them."""

    def __init__(
        self,
        markers: Sequence[Marker],
        labels: Sequence[str],
        *,
        gap_s: float = MEMORY_S,
        by_person: bool = True,
    ) -> None:
        """Begin a video.

        Args:
            markers: its events.
            labels: the model's.
            gap_s: a frame is taken to last until the next one, but no longer than this, in seconds.
            by_person: a row for each person, or one for all together.
        """
        self._markers, self._labels = list(markers), labels
        self._gap_s, self._by_person = gap_s, by_person
        # By the marker's number and the person's.
        self._raw: dict[tuple[int, int | None], _Totals] = defaultdict(_Totals)
        self._corrected: dict[tuple[int, int | None], _Totals] = defaultdict(_Totals)
        self._frames: Counter[tuple[int, int | None]] = Counter()
        self._last: Result | None = None
        self._step_s = _FIRST_STEP_S

    def add(self, result: Result) -> None:
        """Take the result of the next frame; one that is of no frame changes nothing."""
        if result.time_s is None or result.error is not None:
            return
        if self._last is not None:
            self._step_s = min(result.time_s - (self._last.time_s or 0.0), self._gap_s)
            self._count(self._last)
        self._last = result

    def rows(self, *, corrected: bool = False) -> list[dict[str, Any]]:
        """Return a row for each event and person, or for an event in which nobody is seen.

        The keys are ``label``, ``start_s``, ``end_s``, ``track_id``, ``seconds``, ``frames``, then
        `_total_columns`, and with ``corrected`` those once more, as ``corrected_…``.
        """
        if self._last is not None:
            self._count(self._last)
            self._last = None
        rows = []
        for number, marker in enumerate(self._markers):
            people = sorted(
                (key for key in self._raw if key[0] == number), key=lambda key: key[1] or 0
            )
            for key in people or [(number, None)]:
                totals = self._raw.get(key, _Totals())
                row: dict[str, Any] = {
                    "label": marker.label,
                    "start_s": marker.start_s,
                    "end_s": marker.end_s if math.isfinite(marker.end_s) else None,
                    "track_id": key[1],
                    "seconds": round(totals.seconds, SCORE_DIGITS),
                    "frames": self._frames[key],
                    **totals.cells(self._labels),
                }
                if corrected:
                    row |= self._corrected.get(key, _Totals()).cells(self._labels, "corrected_")
                rows.append(row)
        return rows

    def _count(self, result: Result) -> None:
        begins = result.time_s or 0.0
        for number, marker in enumerate(self._markers):
            seconds = min(begins + self._step_s, marker.end_s) - max(begins, marker.start_s)
            if seconds <= 0:
                continue
            keys = [(number, face.track_id if self._by_person else None) for face in result.faces]
            self._frames.update(set(keys))
            for key, face in zip(keys, result.faces, strict=True):
                self._raw[key].add(face.emotion, face.scores, seconds)
                if (one := face.corrected) is not None:
                    self._corrected[key].add(one.emotion, one.scores, seconds)


def event_columns(labels: Sequence[str], *, corrected: bool) -> list[str]:
    """Return the columns of a table of events; see `EventTable.rows`."""
    more = _total_columns(labels, "corrected_") if corrected else []
    head = ["source", "label", "start_s", "end_s", "track_id", "seconds", "frames"]
    return [*head, *_total_columns(labels), *more]


def comparison_columns(labels: Sequence[str], *, corrected: bool) -> list[str]:
    """Return the columns of a table that compares videos, a row each."""
    more = _total_columns(labels, "corrected_") if corrected else []
    return ["source", "people", "seconds", "frames", *_total_columns(labels), *more]
