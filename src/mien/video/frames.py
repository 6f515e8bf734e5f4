"""A frame of a video, and the error that a video ends with where it is damaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import InputError, UnreadableImage
from mien.core.images import MAX_PIXELS
from mien.video.rotation import (
    UPRIGHT,
    Turn,
    is_sideways,
    turn_of_degrees,
    turn_of_matrix,
    turned,
)

MOST_ANAMORPHIC = 4
"""Pixels that say they are more times wider than high, or higher than wide, are taken as square."""


class BrokenVideo(InputError):
    """A video stopped before its end: its file is cut or damaged, or a stream was lost.

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
    """

    number: int
    time_s: float
    read: Callable[[], npt.NDArray[np.uint8]]

    @cached_property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The upright picture, uint8 (H, W, 3) RGB."""
        return self.read()


class Presentation:
    """How the decoded frames of a stream are to be shown: with square pixels, upright.

    Anamorphic pixels are widened or heightened to squares, whichever loses none.
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
            picture = decoded.to_ndarray(format="rgb24", width=width, height=height)
            return turned(np.asarray(picture, np.uint8), turn)

        return VideoFrame(number, time_s, read)

    def size(self, decoded: Any) -> tuple[int, int]:
        """Return the width and height that a frame has when it is shown; raises as `frame`."""
        width, height = self._squared(decoded)
        return (height, width) if is_sideways(turn_of(decoded, self._stream)) else (width, height)

    def _squared(self, decoded: Any) -> tuple[int, int]:
        """Return a frame's width and height in square pixels, as it is stored."""
        # The container's word counts for as long as what is coded stays as it was.
        coded = self._stream.codec_context.sample_aspect_ratio
        if coded and coded != self._coded:
            self._pixel = self._pixel if self._is_first else coded
            self._coded = coded
        self._is_first = False
        width, height = decoded.width, decoded.height
        pixel = self._pixel
        if pixel and 1 / MOST_ANAMORPHIC <= pixel <= MOST_ANAMORPHIC:
            width, height = round(width * max(1, pixel)), round(height * max(1, 1 / pixel))
        check_size(width, height, self._name)
        return width, height


def check_size(width: int, height: int, name: str) -> None:
    """Raise TooLarge if a frame of the video called ``name`` has too many pixels."""
    if width * height > MAX_PIXELS:
        raise TooLarge(
            f"{name}: its frames of {width}x{height} are too large: "
            f"expected at most {MAX_PIXELS // 1_000_000} megapixels"
        )


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
