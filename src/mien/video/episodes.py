"""What each person of a video felt from when to when: the summary of its results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mien.core.results import SCORE_DIGITS, Face, Result
from mien.video.tracker import MEMORY_S


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
