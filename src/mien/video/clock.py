"""Turns the time stamps of frames into times that only rise, whatever the stamps do.

Stamps begin anew where recordings were put together or a camera was started again, and leap where a
transport stream's 33-bit counter wraps. As FFmpeg's own program does, such a jump is taken out: the
next frame follows the last one by one usual step.
"""

from __future__ import annotations

MOST_GAP_S = 60.0
"""A leap ahead beyond this, in seconds, is one of the stamps where a format lets them jump."""

MOST_GAP_ELSEWHERE_S = 3600.0
"""As `MOST_GAP_S`, where stamps should be one series."""

EARLIEST_S = -1.0
"""Coded sound and frames that are decoded before they are shown begin before zero, not earlier."""

# Frames that come a little out of order, or twice, share a moment; a new series begins further
# back, or goes on.
_DISORDER_S = 0.25
_DISORDER_FRAMES = 3
_LEAST_STEP_S = 1e-3
_TICKS_S = (1e-4, 1.0)
_SAME_S = 1e-6


class FrameClock:
    """The times of a video's frames, in the order they are shown.

    Attributes:
        time_s: of the last frame, in seconds, or None before the first one.
        shift_s: what is added to stamps at present, in seconds.
        jumps: how many jumps were taken out.
        jumps: how many jumps were taken out.
    """

    def __init__(
        self, tick_s: float, *, shift_s: float = 0.0, from_s: float = 0.0, gap_s: float = MOST_GAP_S
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
            self.jumps += 1
        elif ahead <= _SAME_S:
            time_s = max(time_s, last) if is_first else last + _LEAST_STEP_S
        elif not is_first and _TICKS_S[0] <= ahead <= _TICKS_S[1]:
            self._tick_s = ahead
        self.time_s = time_s
        return time_s
