"""Frames of a video: their times, the part of the video to analyze, upright pixels."""

from __future__ import annotations

import math
import re
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.checks import invalid, is_number
from mien.core.errors import InputError, UnreadableImage, UsageError, abbreviate
from mien.core.images import MAX_PIXELS


class BrokenVideo(InputError):
    """A video that ended early: its file is cut or damaged, or a stream was lost."""

    def __init__(self, message: str, time_s: float) -> None:
        self.time_s = time_s  # of the last frame that could be read, in seconds
        super().__init__(message)


class TooLarge(UnreadableImage):
    """A video's frames exceed the maximum number of pixels of an image."""


@dataclass(frozen=True)
class VideoFrame:
    """One frame; its pixels are converted on first access."""

    number: int  # in its video, from 0
    time_s: float  # presentation time from the video's start, from its time stamp
    read: Callable[[], npt.NDArray[np.uint8]]  # returns `pixels`
    area: int = 0  # number of pixels; 0 if unknown

    @cached_property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The upright picture, uint8 (H, W, 3) RGB."""
        return self.read()


# ---------------------------------------------------------------- times as text
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)")
_SECONDS = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?s?")


def parse_time(text: str) -> float:
    """Return the seconds of ``90``, ``1.5``, ``1.5s``, ``1:30`` or ``1:02:03.5``.

    Raises:
        UsageError: if the text has another format.
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
        UsageError: if the text has another format, or the end is not after the start.
    """
    first, dash, second = text.partition("-")
    if not dash:
        first, _, second = text.partition(":")
    try:
        if not dash and ":" in second:
            raise UsageError(text)
        start, end = parse_time(first), parse_time(second)
    except UsageError as error:
        raise UsageError(
            f"expected FROM:TO in seconds, or two times as 1:00-1:05, got {text!r}"
        ) from error
    if not end > start:
        raise UsageError(f"expected an end after the start, got {text!r}")
    return start, end


def format_time(seconds: float, *, digits: int = 1) -> str:
    """Format a time as players do: ``0:04.2``, ``12:00.0``, ``1:02:03.0``."""
    ticks = round(seconds * 10**digits)
    whole, part = divmod(ticks, 10**digits)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    clock = f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{clock}.{part:0{digits}d}" if digits else clock


# ---------------------------------------------------------------- the part to analyze
MAX_TIME_S = 1e9  # thirty years
MIN_STEP_S = 1e-6  # between two analyzed frames
_EPSILON_S = 1e-6  # times are sums of many ticks: equal ones may differ by this much


@dataclass(frozen=True)
class Window:
    """The part of a video to analyze.

    Attributes:
        start: seconds from the video's start, 0 to `MAX_TIME_S`.
        end: seconds (exclusive), or None for the video's end.
        every: seconds between two analyzed frames, `MIN_STEP_S` to `MAX_TIME_S`, or None for every
            frame. The first frame at or after each multiple, counted from ``start``, is taken.
    """

    start: float = 0.0
    end: float | None = None
    every: float | None = None

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        if not is_number(self.start) or not 0 <= self.start <= MAX_TIME_S:
            raise invalid("start", f"seconds from 0 to {MAX_TIME_S:,.0f}", self.start)
        if self.end is not None and not (is_number(self.end) and self.end > self.start):
            raise UsageError(
                f"expected an end after the start ({self.start:g} s), got {abbreviate(self.end)}"
            )
        if self.every is not None and not (
            is_number(self.every) and MIN_STEP_S <= self.every <= MAX_TIME_S
        ):
            expected = f"more than 0 seconds ({MIN_STEP_S:g} to {MAX_TIME_S:,.0f})"
            raise invalid("every", expected, self.every)

    def starts_after(self, time_s: float) -> bool:
        """Return True if a time is before the window."""
        return time_s < self.start - _EPSILON_S

    def ends_before(self, time_s: float) -> bool:
        """Return True if a time is after the window."""
        return self.end is not None and time_s >= self.end - _EPSILON_S

    def step(self, time_s: float) -> int | None:
        """Return the index of the step that contains a time, None if every frame is analyzed."""
        if self.every is None:
            return None
        return math.floor((time_s - self.start + _EPSILON_S) / self.every)


# ---------------------------------------------------------------- time stamps
MAX_GAP_S = 60.0  # between two frames, in formats whose time stamps may jump
MAX_GAP_CONTINUOUS_S = 3600.0  # the same, in other formats
EARLIEST_S = -1.0  # coded sound and reordered frames may start before zero, not earlier

# Frames slightly out of order, or duplicated, share a time; a new series starts further back, or
# continues.
_DISORDER_S = 0.25
_DISORDER_FRAMES = 3
_MIN_ADVANCE_S = 1e-3
_STEP_RANGE_S = (1e-4, 1.0)
_SAME_TIME_S = 1e-6


class FrameClock:
    """Converts the time stamps of frames, in presentation order, into strictly rising times.

    Stamps restart where recordings were concatenated or a camera was restarted, and wrap where a
    transport stream's 33-bit counter overflows. As in FFmpeg's own program, such a jump is removed:
    the next frame follows the last one by one step.
    """

    def __init__(
        self, step_s: float, *, shift_s: float = 0.0, from_s: float = 0.0, gap_s: float = MAX_GAP_S
    ) -> None:
        """Start before the first frame.

        Args:
            step_s: expected step between two frames, until one is measured.
            shift_s: initial offset from stamps to times.
            from_s: lower limit of the first time.
            gap_s: largest gap between two frames that is not a jump.
        """
        self.time_s: float | None = None  # of the last frame
        self.shift_s = shift_s
        self.jumps = 0  # removed so far
        self._step_s = min(max(step_s, _STEP_RANGE_S[0]), _STEP_RANGE_S[1])
        self._from_s = from_s
        self._gap_s = gap_s
        self._disordered = 0

    def time_of(self, stamp_s: float | None) -> float:
        """Return the time of the next frame, from its stamp in seconds or None."""
        is_first = self.time_s is None
        last = self._from_s if self.time_s is None else self.time_s
        expected = last if is_first else last + self._step_s
        time_s = expected if stamp_s is None else stamp_s + self.shift_s
        ahead = time_s - last
        self._disordered = 0 if is_first or ahead > _SAME_TIME_S else self._disordered + 1
        is_back = ahead < -_DISORDER_S or self._disordered > _DISORDER_FRAMES
        if stamp_s is not None and (ahead > self._gap_s or (is_back and not is_first)):
            time_s = expected
            self.shift_s = expected - stamp_s
            self.jumps += 1
        elif ahead <= _SAME_TIME_S:
            time_s = max(time_s, last) if is_first else last + _MIN_ADVANCE_S
        elif not is_first and _STEP_RANGE_S[0] <= ahead <= _STEP_RANGE_S[1]:
            self._step_s = ahead
        self.time_s = time_s
        return time_s


# ---------------------------------------------------------------- pixels
MAX_PIXEL_ASPECT = 4  # pixel aspect ratios above, or below its inverse, are taken for mistakes


class FrameConverter:
    """Converts a stream's decoded frames into upright frames with square pixels.

    Anamorphic pixels are stretched along the side that loses none.
    """

    def __init__(self, stream: Any, name: str) -> None:
        self._stream = stream
        self._name = name  # for errors
        self._is_first = True
        self._coded_aspect: Fraction | None = None
        self._aspect: Fraction | None = stream.sample_aspect_ratio

    def convert(self, number: int, time_s: float, decoded: Any) -> VideoFrame:
        """Convert the frame that PyAV has just decoded; raises TooLarge."""
        orientation = orientation_of(decoded, self._stream)
        width, height = self._square_size(decoded)

        def read() -> npt.NDArray[np.uint8]:
            picture = _reformatter().reformat(decoded, width, height, "rgb24").to_ndarray()
            return rotate_upright(np.asarray(picture, np.uint8), orientation)

        return VideoFrame(number, time_s, read, width * height)

    def size(self, decoded: Any) -> tuple[int, int]:
        """Return the upright width and height of a decoded frame; raises as `convert`."""
        width, height = self._square_size(decoded)
        sideways = is_sideways(orientation_of(decoded, self._stream))
        return (height, width) if sideways else (width, height)

    def _square_size(self, decoded: Any) -> tuple[int, int]:
        """Return the width and height in square pixels, before rotation."""
        # The container's aspect ratio applies until the coded one changes.
        coded = self._stream.codec_context.sample_aspect_ratio
        if coded and coded != self._coded_aspect:
            self._aspect = self._aspect if self._is_first else coded
            self._coded_aspect = coded
        self._is_first = False
        width, height = decoded.width, decoded.height
        aspect = self._aspect
        if aspect and 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
            width, height = round(width * max(1, aspect)), round(height * max(1, 1 / aspect))
        check_size(width, height, self._name)
        return width, height


# One reformatter per thread: PyAV would create one per frame, which takes longer than converting.
_THREAD = threading.local()


def _reformatter() -> Any:
    if not hasattr(_THREAD, "reformatter"):
        from av.video.reformatter import VideoReformatter

        _THREAD.reformatter = VideoReformatter()
    return _THREAD.reformatter


def check_size(width: int, height: int, name: str, limit: int | None = None) -> None:
    """Raise TooLarge if a video's frames have more pixels than ``limit`` (`MAX_PIXELS`)."""
    limit = MAX_PIXELS if limit is None else limit
    if width * height > limit:
        raise TooLarge(
            f"{name}: its frames of {width}x{height} are too large: "
            f"expected at most {limit / 1e6:g} megapixels"
        )


# ---------------------------------------------------------------- rotation
# Phones store frames in the sensor's orientation, with a display matrix (ISO/IEC 14496-12, track
# header) of nine 32-bit numbers. The first two of its first two rows, [a b; c d], map a point
# (x, y) of the stored picture to (a x + c y, b x + d y) of the displayed one, up to a shift.
Orientation = tuple[int, int, int, int]
"""The matrix's a, b, c, d, each -1, 0 or 1: one of the eight orientations of a pixel grid."""

UPRIGHT: Orientation = (1, 0, 0, 1)

_MATRIX = struct.Struct("=9i")
_CLOCKWISE: Mapping[int, Orientation] = {
    0: UPRIGHT,
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


def orientation_from_matrix(matrix: bytes) -> Orientation:
    """Return the orientation nearest to a display matrix of nine native 32-bit integers."""
    a, b, _, c, d, *_ = _MATRIX.unpack(matrix[: _MATRIX.size])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1)
    return (0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0)


def orientation_from_degrees(clockwise: float) -> Orientation:
    """Return the orientation of a ``rotate`` tag, rounded to quarter turns."""
    return _CLOCKWISE[round(clockwise / 90) * 90 % 360]


def is_sideways(orientation: Orientation) -> bool:
    """Return True if width and height are swapped."""
    return orientation[0] == 0


def rotate_upright(
    picture: npt.NDArray[np.uint8], orientation: Orientation
) -> npt.NDArray[np.uint8]:
    """Return a stored picture, uint8 (H, W, 3), as displayed; (W, H, 3) if sideways."""
    if orientation == UPRIGHT:
        return picture
    a, b, c, d = orientation
    # Sideways, columns become rows, reversed if b is negative; rows become columns likewise.
    sideways = is_sideways(orientation)
    displayed = picture.transpose(1, 0, 2)[::b, ::c] if sideways else picture[::d, ::a]
    return np.ascontiguousarray(displayed)


def orientation_of(decoded: Any, stream: Any) -> Orientation:
    """Return a decoded frame's orientation, from its display matrix or the stream's rotate tag."""
    matrix = decoded.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        return orientation_from_matrix(bytes(matrix))
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    try:
        return orientation_from_degrees(float(tags.get("rotate", "0")))
    except ValueError:  # a tag with another meaning
        return UPRIGHT
