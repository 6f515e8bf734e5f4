"""A frame of a video, and the error that a video ends with where it is damaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import InputError
from mien.video.rotation import (
    UPRIGHT,
    Turn,
    turn_of_degrees,
    turn_of_matrix,
    turned,
)


class BrokenVideo(InputError):
    """A video stopped before its end: its file is cut or damaged, or a stream was lost.

    Attributes:
        time_s: the moment of the last frame that could be read, in seconds.
    """

    def __init__(self, message: str, time_s: float) -> None:
        """Say what happened, and when in the video."""
        self.time_s = time_s
        super().__init__(message)


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


def decoded_frame(number: int, time_s: float, decoded: Any, stream: Any) -> VideoFrame:
    """Return what PyAV decoded as a frame, turned as the stream says."""

    def read() -> npt.NDArray[np.uint8]:
        picture = np.asarray(decoded.to_ndarray(format="rgb24"), np.uint8)
        return turned(picture, turn_of(decoded, stream))

    return VideoFrame(number, time_s, read)


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
