"""Frames of a video as they are shown: upright, with square pixels."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import InputError, UnreadableImage
from mien.core.images import MAX_PIXELS

MAX_ANAMORPHIC = 4
"""A pixel aspect ratio beyond this, or below its inverse, is taken for a mistake."""


class BrokenVideo(InputError):
    """A video that broke off: its file is cut or damaged, or a stream was lost.

    Attributes:
        time_s: the moment of the last frame that could be read, in seconds.
    """

    def __init__(self, message: str, time_s: float) -> None:
        """Say what happened, and when in the video."""
        self.time_s = time_s
        super().__init__(message)


class TooLarge(UnreadableImage):
    """A video's frames have more pixels than an image may have."""


@dataclass(frozen=True)
class VideoFrame:
    """One frame; its pixels are made when they are first asked for.

    Attributes:
        number: of the frame in its video, from 0.
        time_s: when it is shown, in seconds from the video's start; from its own time stamp.
        read: gives the upright picture, uint8 (H, W, 3) RGB.
        area: how many pixels that has; 0 where nobody says so.
    """

    number: int
    time_s: float
    read: Callable[[], npt.NDArray[np.uint8]]
    area: int = 0

    @cached_property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The upright picture, uint8 (H, W, 3) RGB."""
        return self.read()


class Presentation:
    """How the decoded frames of a stream are to be shown: with square pixels, upright.

    Anamorphic pixels are stretched to squares, along the side that loses none.
    """

    def __init__(self, stream: Any, name: str) -> None:
        """Take PyAV's stream before its first frame, and what errors call the video."""
        self._stream = stream
        self._name = name
        self._is_first = True
        self._coded: Fraction | None = None
        self._pixel: Fraction | None = stream.sample_aspect_ratio

    def frame(self, number: int, time_s: float, decoded: Any) -> VideoFrame:
        """Return what PyAV has just decoded as a frame.

        Raises:
            TooLarge: if it has more pixels than an image may have.
        """
        turn = turn_of(decoded, self._stream)
        width, height = self._squared(decoded)

        def read() -> npt.NDArray[np.uint8]:
            picture = _reformatter().reformat(decoded, width, height, "rgb24").to_ndarray()
            return turned(np.asarray(picture, np.uint8), turn)

        return VideoFrame(number, time_s, read, width * height)

    def size(self, decoded: Any) -> tuple[int, int]:
        """Return the width and height that a frame has when it is shown; raises as `frame`."""
        width, height = self._squared(decoded)
        return (height, width) if is_sideways(turn_of(decoded, self._stream)) else (width, height)

    def _squared(self, decoded: Any) -> tuple[int, int]:
        """Return a frame's width and height in square pixels, as it is stored."""
        # The container's aspect ratio counts until the coded one changes.
        coded = self._stream.codec_context.sample_aspect_ratio
        if coded and coded != self._coded:
            self._pixel = self._pixel if self._is_first else coded
            self._coded = coded
        self._is_first = False
        width, height = decoded.width, decoded.height
        pixel = self._pixel
        if pixel and 1 / MAX_ANAMORPHIC <= pixel <= MAX_ANAMORPHIC:
            width, height = round(width * max(1, pixel)), round(height * max(1, 1 / pixel))
        check_size(width, height, self._name)
        return width, height


# PyAV's own, one a thread: a frame that is converted by itself makes one, which takes longer than
# the conversion.
_THREAD = threading.local()


def _reformatter() -> Any:
    if not hasattr(_THREAD, "reformatter"):
        from av.video.reformatter import VideoReformatter

        _THREAD.reformatter = VideoReformatter()
    return _THREAD.reformatter


def check_size(width: int, height: int, name: str, most: int | None = None) -> None:
    """Raise TooLarge if a video's frames have more pixels than ``most`` (`MAX_PIXELS`)."""
    most = MAX_PIXELS if most is None else most
    if width * height > most:
        raise TooLarge(
            f"{name}: its frames of {width}x{height} are too large: "
            f"expected at most {most / 1e6:g} megapixels"
        )


# ---------------------------------------------------------------- rotation
# Phones store frames as the sensor lies, with a matrix that says how to turn them. The display
# matrix (ISO/IEC 14496-12, track header) has nine 32-bit numbers. The first two of its first two
# rows, [a b; c d], map a point (x, y) of the stored picture to (a x + c y, b x + d y) of the shown
# one, up to a shift.
Turn = tuple[int, int, int, int]
"""The matrix's a, b, c, d, each -1, 0 or 1: one of the eight ways to lay a picture on a grid."""

UPRIGHT: Turn = (1, 0, 0, 1)

_MATRIX = struct.Struct("=9i")
_CLOCKWISE: Mapping[int, Turn] = {
    0: UPRIGHT,
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


def turn_of_matrix(matrix: bytes) -> Turn:
    """Return the turn nearest to a display matrix of nine native 32-bit integers."""
    a, b, _, c, d, *_ = _MATRIX.unpack(matrix[: _MATRIX.size])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1)
    return (0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0)


def turn_of_degrees(clockwise: float) -> Turn:
    """Return the turn of a ``rotate`` tag: degrees clockwise, taken to the nearest quarter."""
    return _CLOCKWISE[round(clockwise / 90) * 90 % 360]


def is_sideways(turn: Turn) -> bool:
    """Say whether width and height are swapped."""
    return turn[0] == 0


def turned(picture: npt.NDArray[np.uint8], turn: Turn) -> npt.NDArray[np.uint8]:
    """Return a stored picture, uint8 (H, W, 3), as it is to be shown; (W, H, 3) if sideways."""
    if turn == UPRIGHT:
        return picture
    a, b, c, d = turn
    # Sideways, columns become rows, reversed where b is negative; rows become columns likewise.
    sideways = is_sideways(turn)
    shown = picture.transpose(1, 0, 2)[::b, ::c] if sideways else picture[::d, ::a]
    return np.ascontiguousarray(shown)


def turn_of(decoded: Any, stream: Any) -> Turn:
    """Return how a decoded frame lies: by its display matrix, else by the stream's rotate tag."""
    matrix = decoded.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        return turn_of_matrix(bytes(matrix))
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    try:
        return turn_of_degrees(float(tags.get("rotate", "0")))
    except ValueError:  # a tag of another meaning
        return UPRIGHT
