"""Times of a video: as people write them, as windows, and from the time stamps of frames."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from mien.core.errors import UsageError

_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)")
_SECONDS = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?s?")

MAX_TIME_S = 1e9
"""No moment lies later, in seconds: thirty years."""

MIN_STEP_S = 1e-6
"""The least time between two frames, in seconds, that can be asked for."""

# Times are sums of many ticks: two that mean the same may differ by this many seconds.
_EPSILON = 1e-6


def parse_time(text: str) -> float:
    """Return the seconds that ``90``, ``1.5``, ``1.5s``, ``1:30`` or ``1:02:03.5`` mean.

    Raises:
        UsageError: if the text is none of these.
    """
    clock = _CLOCK.fullmatch(text.strip())
    if clock is not None and float(clock[3]) < 60 and (clock[1] is None or float(clock[2]) < 60):
        return 3600 * float(clock[1] or 0) + 60 * float(clock[2]) + float(clock[3])
    if (seconds := _SECONDS.fullmatch(text.strip())) is not None:
        return float(seconds[1])
    raise UsageError(f"expected a time as seconds, mm:ss or h:mm:ss, got {text!r}")


def parse_span(text: str) -> tuple[float, float]:
    """Return start and end, in seconds, of ``0:5`` (seconds) or ``1:00-1:05`` (two times).

    Raises:
        UsageError: if the text is neither, or the end is not after the start.
    """
    first, dash, second = text.partition("-")
    if not dash:
        first, _, second = text.partition(":")
    if not dash and ":" in second:
        raise UsageError(f"expected FROM:TO in seconds, or two times as 1:00-1:05, got {text!r}")
    try:
        start, end = parse_time(first), parse_time(second)
    except UsageError as error:
        raise UsageError(
            f"expected FROM:TO in seconds, or two times as 1:00-1:05, got {text!r}"
        ) from error
    if not end > start:
        raise UsageError(f"expected an end after the start, got {text!r}")
    return start, end


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
        start: seconds from the video's start, from which on; 0 to `MAX_TIME_S`.
        end: seconds, up to which (exclusive), or None for all.
        every: seconds between two frames that are looked at, `MIN_STEP_S` to `MAX_TIME_S`, or
            None for each frame. The first frame at or after each multiple, counted from
            ``start``, is taken.
    """

    start: float = 0.0
    end: float | None = None
    every: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.start <= MAX_TIME_S:
            raise UsageError(f"expected a start of 0 to {MAX_TIME_S:g} seconds, got {self.start:g}")
        if self.end is not None and not self.end > self.start:
            raise UsageError(
                f"expected an end after the start ({self.start:g} s), got {self.end:g}"
            )
        if self.every is not None and not MIN_STEP_S <= self.every <= MAX_TIME_S:
            raise UsageError(
                f"expected every as more than 0 seconds ({MIN_STEP_S:g} to {MAX_TIME_S:g}), "
                f"got {self.every:g}"
            )

    def starts_after(self, time_s: float) -> bool:
        """Say whether a moment is before the window."""
        return time_s < self.start - _EPSILON

    def ends_before(self, time_s: float) -> bool:
        """Say whether a moment is after the window."""
        return self.end is not None and time_s >= self.end - _EPSILON

    def step(self, time_s: float) -> int | None:
        """Return the number of the step that a moment falls into, or None where each counts."""
        if self.every is None:
            return None
        return math.floor((time_s - self.start + _EPSILON) / self.every)


# ---------------------------------------------------------------- time stamps
MAX_GAP_S = 60.0
"""A leap ahead beyond this, in seconds, is one of the stamps where a format lets them jump."""

MAX_GAP_CONTINUOUS_S = 3600.0
"""As `MAX_GAP_S`, where stamps should be one series."""

EARLIEST_S = -1.0
"""Coded sound and frames that are decoded before they are shown begin before zero, not earlier."""

# Frames that come a little out of order, or twice, share a moment; a new series begins further
# back, or goes on.
_DISORDER_S = 0.25
_DISORDER_FRAMES = 3
_MIN_ADVANCE_S = 1e-3
_TICKS_S = (1e-4, 1.0)
_SAME_S = 1e-6


class FrameClock:
    """Turns the time stamps of frames, in the order they are shown, into times that only rise.

    Stamps restart where recordings were concatenated or a camera was restarted, and wrap
    where a transport stream's 33-bit counter ends. As in FFmpeg's own program, such a jump is taken
    out: the next frame follows the last one by one usual step.

    Attributes:
        time_s: of the last frame, in seconds, or None before the first one.
        shift_s: what is added to stamps at present, in seconds.
        jumps: how many jumps were taken out.
    """

    def __init__(
        self, tick_s: float, *, shift_s: float = 0.0, from_s: float = 0.0, gap_s: float = MAX_GAP_S
    ) -> None:
        """Begin before the first frame.

        Args:
            tick_s: the usual step between two frames, in seconds, until it is seen.
            shift_s: what to add to the first stamps.
            from_s: the least that the first time may be.
            gap_s: how much later than the last frame one may be.
        """
        self.time_s: float | None = None
        self.shift_s = shift_s
        self.jumps = 0
        self._tick_s = min(max(tick_s, _TICKS_S[0]), _TICKS_S[1])
        self._from_s = from_s
        self._gap_s = gap_s
        self._in_disorder = 0

    def time_of(self, stamp_s: float | None) -> float:
        """Return the time of the next frame: later than the last one's.

        Args:
            stamp_s: its time stamp in seconds, or None where it has none.
        """
        is_first = self.time_s is None
        last = self._from_s if self.time_s is None else self.time_s
        expected = last if is_first else last + self._tick_s
        time_s = expected if stamp_s is None else stamp_s + self.shift_s
        ahead = time_s - last
        self._in_disorder = 0 if is_first or ahead > _SAME_S else self._in_disorder + 1
        is_back = ahead < -_DISORDER_S or self._in_disorder > _DISORDER_FRAMES
        if stamp_s is not None and (ahead > self._gap_s or (is_back and not is_first)):
            time_s = expected
            self.shift_s = expected - stamp_s
            self.jumps += 1
        elif ahead <= _SAME_S:
            time_s = max(time_s, last) if is_first else last + _MIN_ADVANCE_S
        elif not is_first and _TICKS_S[0] <= ahead <= _TICKS_S[1]:
            self._tick_s = ahead
        self.time_s = time_s
        return time_s
