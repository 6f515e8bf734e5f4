"""Summaries of a video's results: each person's episodes of emotion, and totals per event."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from mien.core.checks import check_list, check_path
from mien.core.emotions import valence
from mien.core.errors import InputError, UsageError
from mien.core.files import read_text
from mien.core.results import SCORE_DIGITS, Face, Result, score_columns
from mien.video.frames import parse_time
from mien.video.tracker import MEMORY_S


# ---------------------------------------------------------------- episodes
@dataclass(frozen=True)
class Episode:
    """A period in which a person's smoothed scores name the same emotion.

    Attributes:
        start_s: start in seconds.
        end_s: end in seconds: the start of the next episode, or one frame after the last sight.
        emotion: the top emotion.
        confidence: mean of its smoothed score.
        frames: number of frames.
    """

    start_s: float
    end_s: float
    emotion: str
    confidence: float
    frames: int

    def to_dict(self) -> dict[str, Any]:
        """Return the episode for JSON."""
        return {
            name: round(value, SCORE_DIGITS) if isinstance(value, float) else value
            for name, value in vars(self).items()
        }


@dataclass(frozen=True)
class Person:
    """A person of a video, by track id, with their episodes in order."""

    track_id: int
    episodes: tuple[Episode, ...]

    @property
    def frames(self) -> int:
        """Number of frames that show the person."""
        return sum(episode.frames for episode in self.episodes)

    @property
    def seconds(self) -> float:
        """Total duration of the episodes."""
        return sum(episode.end_s - episode.start_s for episode in self.episodes)

    def to_dict(self) -> dict[str, Any]:
        """Return the person for JSON."""
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
    """A person's finished episodes, and the sums of the current one."""

    start_s: float
    last_s: float
    emotion: str
    finished: list[Episode] = field(default_factory=list)
    total: float = 0.0
    frames: int = 0

    def current(self, end_s: float) -> Episode:
        return Episode(self.start_s, end_s, self.emotion, self.total / self.frames, self.frames)


class Summary:
    """Episodes of each person, and the numbers of frames and faces, updated result by result."""

    def __init__(self, *, gap_s: float = MEMORY_S) -> None:
        """Start a video; ``gap_s`` is the longest absence within one episode, in seconds."""
        self.frames = 0
        self.faces = 0
        self._gap_s = gap_s
        self._tracks: dict[int, _Track] = {}
        self._last_s: float | None = None
        self._step_s = 0.0

    def add(self, result: Result) -> None:
        """Add the result of the next frame; results without a frame are ignored."""
        if result.time_s is None or result.error is not None:
            return
        if self._last_s is not None and 0 < result.time_s - self._last_s <= self._gap_s:
            self._step_s = result.time_s - self._last_s
        self._last_s = result.time_s
        self.frames += 1
        for face in result.faces:
            self.faces += 1
            self._add_face(result.time_s, face)

    def people(self) -> list[Person]:
        """Return everyone so far, by track id; open episodes end with their last frame."""
        return [
            Person(number, (*track.finished, track.current(track.last_s + self._step_s)))
            for number, track in sorted(self._tracks.items())
        ]

    def _add_face(self, time_s: float, face: Face) -> None:
        if face.track_id is None or face.smoothed is None:
            return
        emotion = face.smoothed.emotion
        track = self._tracks.get(face.track_id)
        if track is None:
            track = self._tracks[face.track_id] = _Track(time_s, time_s, emotion)
        was_absent = time_s - track.last_s > self._gap_s
        if was_absent or track.emotion != emotion:
            end_s = track.last_s + self._step_s if was_absent else time_s
            track.finished.append(track.current(end_s))
            track.start_s, track.emotion, track.total, track.frames = time_s, emotion, 0.0, 0
        track.last_s = time_s
        track.total += face.smoothed.confidence
        track.frames += 1


# ---------------------------------------------------------------- markers
MARKER_COLUMNS: tuple[str, ...] = ("start", "end", "label")  # and, optionally, source


@dataclass(frozen=True)
class Marker:
    """A marked event.

    Attributes:
        start_s: start in seconds from the video's start.
        end_s: end in seconds.
        label: name; events of the same name are distinguished by their times.
        source: path or file name of the video that it belongs to; None: all videos.
    """

    start_s: float
    end_s: float
    label: str
    source: str | None = None

    def applies_to(self, source: str) -> bool:
        """Return True if the event belongs to a video."""
        return self.source is None or self.source in (source, PurePath(source).name)


Markers: TypeAlias = "str | Path | Sequence[Marker | tuple[float, float, str]]"


def parse_markers(markers: Markers) -> list[Marker]:
    """Return events from a CSV file (see `read_markers`) or a list of (start, end, label).

    Raises:
        InputError: if the file cannot be read, or a line is not an event.
        UsageError: if an entry is not an event, or its end is not after its start.
    """
    if isinstance(markers, str | os.PathLike):
        return read_markers(check_path("markers", markers))
    check_list("markers", markers)
    parsed = []
    for entry in markers:
        try:
            marker = entry if isinstance(entry, Marker) else Marker(*entry)
            is_valid = 0 <= marker.start_s < marker.end_s
        except TypeError:
            is_valid = False
        if not is_valid:
            raise UsageError(
                "expected events as (start, end, label), the end after the start, "
                f"got {entry!r:.80}"
            )
        parsed.append(marker)
    return parsed


def read_markers(path: Path) -> list[Marker]:
    """Read a CSV file of events: ``start`` and ``end`` (as for `parse_time`), ``label``.

    Columns can have any order, and commas, semicolons or tabs between them.

    Raises:
        InputError: if the file cannot be read, or a line is not an event.
    """
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is not UTF-8 text") from error
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(lines, delimiter=delimiter, restval="")
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    missing = [name for name in MARKER_COLUMNS if name not in reader.fieldnames]
    if missing:
        raise InputError(f"{path}: expected the columns start, end, label; {missing[0]} is missing")
    markers = [_parse_marker(row, f"{path}, line {reader.line_num}") for row in reader]
    if not markers:
        raise InputError(f"{path}: contains no events: expected one per line")
    return markers


def _parse_marker(row: Mapping[str, str], where: str) -> Marker:
    try:
        start, end = parse_time(row["start"]), parse_time(row["end"])
    except UsageError as error:
        raise InputError(f"{where}: {error}") from error
    if not end > start:
        raise InputError(f"{where}: expected an end after the start, got {row['end'].strip()!r}")
    return Marker(start, end, row["label"].strip(), (row.get("source") or "").strip() or None)


# ---------------------------------------------------------------- events
_SINGLE_FRAME_S = 0.04  # duration of a video's only frame


@dataclass
class _Totals:
    """Scores summed over time, each frame weighted by its duration."""

    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    shares: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, emotion: str, scores: Mapping[str, float], seconds: float) -> None:
        self.seconds += seconds
        for name, score in scores.items():
            self.sums[name] += seconds * score
        self.shares[emotion] += seconds

    def cells(self, labels: Sequence[str], prefix: str = "") -> dict[str, float | None]:
        """Return valence, mean scores and shares of time by the names of `_total_columns`."""
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
    """Return ``valence``, each label's column, and ``share_`` of each, with a prefix."""
    scores = list(score_columns(labels).values())
    return [prefix + name for name in ("valence", *scores, *(f"share_{name}" for name in scores))]


_Key = tuple[int, int | None]
"""Index of the marker, and track id."""


class EventTable:
    """Mean scores of each event of a video, updated result by result."""

    def __init__(
        self,
        markers: Sequence[Marker],
        labels: Sequence[str],
        *,
        gap_s: float = MEMORY_S,
        by_person: bool = True,
    ) -> None:
        """Start a video.

        Args:
            markers: its events.
            labels: the model's emotions.
            gap_s: a frame lasts until the next one, but no longer than this, in seconds.
            by_person: a row per person, or one for all together.
        """
        self._markers, self._labels = list(markers), labels
        self._gap_s, self._by_person = gap_s, by_person
        self._raw: dict[_Key, _Totals] = defaultdict(_Totals)
        self._corrected: dict[_Key, _Totals] = defaultdict(_Totals)
        self._frames: Counter[_Key] = Counter()
        self._last: Result | None = None
        self._duration_s = _SINGLE_FRAME_S

    def add(self, result: Result) -> None:
        """Add the result of the next frame; results without a frame are ignored."""
        if result.time_s is None or result.error is not None:
            return
        if self._last is not None:
            self._duration_s = min(result.time_s - (self._last.time_s or 0.0), self._gap_s)
            self._count(self._last)
        self._last = result

    def rows(self, *, corrected: bool = False) -> list[dict[str, Any]]:
        """Return a row per event and person, or one for an event without anyone.

        The keys are ``label``, ``start_s``, ``end_s``, ``track_id``, ``seconds``, ``frames``, then
        `_total_columns`, and with ``corrected`` those again as ``corrected_…``.
        """
        if self._last is not None:
            self._count(self._last)
            self._last = None
        rows = []
        for number, marker in enumerate(self._markers):
            keys = sorted(
                (key for key in self._raw if key[0] == number), key=lambda key: key[1] or 0
            )
            for key in keys or [(number, None)]:
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
        start_s = result.time_s or 0.0
        end_s = start_s + self._duration_s
        for number, marker in enumerate(self._markers):
            seconds = min(end_s, marker.end_s) - max(start_s, marker.start_s)
            if seconds <= 0:
                continue
            keys = [(number, face.track_id if self._by_person else None) for face in result.faces]
            self._frames.update(set(keys))
            for key, face in zip(keys, result.faces, strict=True):
                self._raw[key].add(face.emotion, face.scores, seconds)
                if (corrected := face.corrected) is not None:
                    self._corrected[key].add(corrected.emotion, corrected.scores, seconds)


def event_columns(labels: Sequence[str], *, corrected: bool) -> list[str]:
    """Return the columns of an event table; see `EventTable.rows`."""
    head = ["source", "label", "start_s", "end_s", "track_id", "seconds", "frames"]
    return [*head, *_score_totals(labels, corrected)]


def comparison_columns(labels: Sequence[str], *, corrected: bool) -> list[str]:
    """Return the columns of a table that compares videos, one row each."""
    return ["source", "people", "seconds", "frames", *_score_totals(labels, corrected)]


def _score_totals(labels: Sequence[str], corrected: bool) -> list[str]:
    more = _total_columns(labels, "corrected_") if corrected else []
    return [*_total_columns(labels), *more]
