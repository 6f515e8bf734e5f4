"""Moments and stretches of a video: how they are written, and which frames they take."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from mien.core.errors import UsageError

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)")
_SECONDS = re.compile(r"\d+(?:\.\d*)?|\.\d+")

LONGEST_S = 1e9
"""No moment lies later, in seconds: thirty years."""

SHORTEST_STEP_S = 1e-6
"""The least time between two frames, in seconds, that can be asked for."""

# Times are sums of many ticks: two that mean the same may differ by this many seconds.
_EPSILON = 1e-6


def parse_time(text: str) -> float:
    """Return the seconds that ``90``, ``1.5``, ``1:30`` or ``1:02:03.5`` mean.

    Raises:
        UsageError: if the text is none of these.
    """
    clock = _CLOCK.fullmatch(text.strip())
    if clock is not None and float(clock[3]) < 60 and (clock[1] is None or float(clock[2]) < 60):
        return 3600 * float(clock[1] or 0) + 60 * float(clock[2]) + float(clock[3])
    if _SECONDS.fullmatch(text.strip()):
        return float(text)
    raise UsageError(f"expected a time as seconds, mm:ss or h:mm:ss, got {text!r}")


def format_time(seconds: float, *, digits: int = 1) -> str:
    """Write a moment as a player shows it: ``0:04.2``, ``12:00.0``, ``1:02:03.0``."""
    ticks = round(seconds * 10**digits)
    whole, part = divmod(ticks, 10**digits)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    clock = f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{clock}.{part:0{digits}d}" if digits else clock


@dataclass(frozen=True)
class Window:
    """Which moments of a video are looked at.

    Attributes:
        start: seconds from the video's start, from which on; 0 to `LONGEST_S`.
        end: seconds, up to which (exclusive), or None for all that comes.
        every: seconds between two frames that are looked at, `SHORTEST_STEP_S` to `LONGEST_S`, or
            None for each frame. The first frame at or after each multiple, counted from
            ``start``, is taken.
    """

    start: float = 0.0
    end: float | None = None
    every: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.start <= LONGEST_S:
            raise UsageError(f"expected a start of 0 to {LONGEST_S:g} seconds, got {self.start:g}")
        if self.end is not None and not self.end > self.start:
            raise UsageError(
                f"expected an end after the start ({self.start:g} s), got {self.end:g}"
            )
        if self.every is not None and not SHORTEST_STEP_S <= self.every <= LONGEST_S:
            raise UsageError(
                f"expected every as more than 0 seconds ({SHORTEST_STEP_S:g} to {LONGEST_S:g}), "
                f"got {self.every:g}"
            )

    def starts_after(self, time_s: float) -> bool:
        """Say whether a moment lies before the window."""
        return time_s < self.start - _EPSILON

    def ends_before(self, time_s: float) -> bool:
        """Say whether a moment lies behind the window."""
        return self.end is not None and time_s >= self.end - _EPSILON

    def step(self, time_s: float) -> int | None:
        """Return the number of the step that a moment falls into, or None where each counts."""
        if self.every is None:
            return None
        return math.floor((time_s - self.start + _EPSILON) / self.every)
