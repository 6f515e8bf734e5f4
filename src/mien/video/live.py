"""Live streams and cameras: frames as they come, and reconnecting after a stream is lost."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import InputError, PrivateAddressError
from mien.core.web import is_web_address, redact_address
from mien.video import reader
from mien.video.frames import BrokenVideo, Presentation, TooLarge, VideoFrame
from mien.video.reader import (
    Decoder,
    duration_of,
    fell_silent,
    opened,
    picture_stream,
    rate_of,
    reason_of,
    stamp_of,
)
from mien.video.times import FrameClock, Window

PATIENCE_S = 30.0
"""For so many seconds, reconnecting to a lost stream is tried."""

_PROTOCOLS = ("http", "https", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp")
_ADDRESS = re.compile(r"([a-z]+)://.+", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?\d{1,18}")
# OpenCV takes higher numbers for one of its ways to a camera, and crashes at some.
_MAX_CAMERAS = 100
_FIRST_WAIT_S = 0.5
_MAX_WAIT_S = 8.0

_log = logging.getLogger(__name__)


def is_camera(source: str | Path | int) -> bool:
    """Say whether this is a camera's number, whether or not there is such a camera."""
    if isinstance(source, str):
        return _NUMBER.fullmatch(source) is not None
    return isinstance(source, Integral) and not isinstance(source, bool)


def is_stream(source: str | Path | int) -> bool:
    """Say whether this is an address that can be played while it is received."""
    found = _ADDRESS.fullmatch(source) if isinstance(source, str) else None
    return found is not None and found[1].lower() in _PROTOCOLS


class LiveStream:
    """A live stream, and its connection if one is open.

    Some servers accept one client, so probing and reading use the same connection.
    """

    def __init__(self, address: str, *, allow_private: bool = False) -> None:
        """Take an address, and whether http(s) may be of a host that is not on the public internet.

        `connected` makes streams of sources.
        """
        self.address = address
        self._allow_private = allow_private
        self._container: Any = None

    def opened(self) -> Any:
        """Return the container that is open, else a new one; raises InputError if there is none."""
        container, self._container = self._container, None
        if container is not None:
            return container
        options = {"rtsp_transport": "tcp"} if self.address.lower().startswith("rtsp") else {}
        return opened(self.address, options=options, allow_private=self._allow_private)

    def is_file(self) -> bool:
        """Connect, and say whether this is a file; raises InputError if there is nothing."""
        self._container = container = self.opened()
        is_file = True
        try:
            stream = picture_stream(container, self.address)
            if container.format.name.startswith(("hls", "dash")):
                is_file = duration_of(container, stream) is not None
            else:
                is_file = bool(container.size > 0)  # a live stream has no size
            return is_file
        finally:
            if is_file:  # or it is none that is read
                self.close()

    def close(self) -> None:
        """Close a connection that was not used."""
        container, self._container = self._container, None
        if container is not None:
            container.close()


def connected(source: str | Path | int, *, allow_private: bool = False) -> LiveStream | int | None:
    """Return a live source: a stream, or a camera's number; None for a file.

    Args:
        source: a file's path, an address, or a camera's number.
        allow_private: as `mien.video.reader.opened` has it.

    Raises:
        InputError: if an http(s) address, which may lead to either, does not answer.
    """
    if is_camera(source):
        return int(str(source))
    if not is_stream(source):
        return None
    stream = LiveStream(str(source), allow_private=allow_private)
    return None if is_web_address(stream.address) and stream.is_file() else stream


def stream_frames(
    stream: LiveStream | str,
    window: Window | None = None,
    *,
    patience_s: float = PATIENCE_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Generator[VideoFrame, None, None]:
    """Yield the frames of a stream; where it is lost, reconnect with exponential backoff.

    Times count from the first frame. While a stream is away its time goes on by the clock, so that
    the gap shows in the times of the frames.

    Args:
        stream: one, or its address: http(s), rtsp, rtmp, srt, udp or tcp.
        window: which part.
        patience_s: for how many seconds to try to reconnect.
        clock: gives the time in seconds.
        sleep: waits for seconds.

    Raises:
        InputError: if the stream cannot be opened to begin with.
        BrokenVideo: if it is lost and does not come back.
    """
    window = window or Window()
    stream = LiveStream(stream) if isinstance(stream, str) else stream
    name = redact_address(stream.address)
    connection = _Connection(stream, clock)
    backoff = _Backoff(name, patience_s, clock, sleep)
    while True:
        reason = "it ended"
        try:
            with closing(connection.frames()) as frames:
                for frame in frames:
                    backoff.reset()
                    if window.ends_before(frame.time_s):
                        return
                    if not window.starts_after(frame.time_s):
                        yield frame
        except InputError as error:
            if connection.time_s is None:
                raise
            if isinstance(error, PrivateAddressError | TooLarge):  # it would be so again
                raise BrokenVideo(str(error), connection.time_s) from error
            reason = str(error).removeprefix(f"{name}: ")
        if connection.time_s is None:
            raise InputError(f"{name}: no frame of this stream can be decoded")
        backoff.wait(reason, connection.heard, connection.time_s)


class _Backoff:
    """Waits before each attempt to reconnect, twice as long each time."""

    def __init__(
        self,
        name: str,
        patience_s: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._name, self._patience_s = name, patience_s
        self._clock, self._sleep = clock, sleep
        self._lost_at: float | None = None
        self._wait_s = _FIRST_WAIT_S

    def reset(self) -> None:
        """Note that the stream is there."""
        if self._lost_at is not None:
            _log.warning("%s: back after %.1f s", self._name, self._clock() - self._lost_at)
            self._lost_at, self._wait_s = None, _FIRST_WAIT_S

    def wait(self, reason: str, heard: float, time_s: float) -> None:
        """Wait after a failure, heard of last at that clock; raises BrokenVideo in the end."""
        if self._lost_at is None:
            self._lost_at = heard
            _log.warning("%s: lost (%s), connecting again", self._name, reason)
        if self._clock() - self._lost_at + self._wait_s > self._patience_s:
            raise BrokenVideo(
                f"{self._name}: lost after {time_s:.1f} s ({reason}), "
                f"and not back within {self._patience_s:g} s",
                time_s,
            )
        self._sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, _MAX_WAIT_S)


def camera_frames(
    number: int,
    window: Window | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[VideoFrame]:
    """Yield a camera's frames, with the seconds since the first, until the window ends.

    Raises:
        InputError: if there is no such camera, or it is in use.
        BrokenVideo: if it is unplugged.
    """
    window = window or Window()
    camera = _opened_camera(number)
    count, began, time_s = 0, clock(), 0.0
    try:
        while True:
            is_read, picture = camera.read()
            if not is_read:
                if count == 0:
                    raise InputError(f"camera {number}: gives no picture: is it in use elsewhere?")
                raise BrokenVideo(f"camera {number}: lost after {time_s:.1f} s", time_s)
            began = clock() if count == 0 else began
            time_s = clock() - began
            if window.ends_before(time_s):
                return
            if not window.starts_after(time_s):
                yield VideoFrame(count, time_s, partial(_rgb, picture))
            count += 1
    finally:
        camera.release()


def _rgb(picture: cv2.typing.MatLike) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _opened_camera(number: int) -> cv2.VideoCapture:
    if not 0 <= number < _MAX_CAMERAS:
        raise InputError(f"camera {number}: expected a number from 0 to {_MAX_CAMERAS - 1}")
    level = cv2.utils.logging.getLogLevel()
    # OpenCV logs each of its backends that fails; one line of ours is enough.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        camera = cv2.VideoCapture(number)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not camera.isOpened():
        camera.release()
        raise InputError(
            f"camera {number}: there is none with this number, or it may not be used: "
            "cameras count from 0"
        )
    return camera


class _Connection:
    """The successive connections to a stream, on one clock."""

    def __init__(self, stream: LiveStream, clock: Callable[[], float]) -> None:
        self._live = stream
        self.time_s: float | None = None
        self.heard = clock()
        self._clock = clock
        self._number = 0

    def frames(self) -> Generator[VideoFrame, None, None]:
        """Yield the frames of one connection until it ends; raises InputError where it fails."""
        address = self._live.address
        with self._live.opened() as container:
            stream = picture_stream(container, address)
            stream.thread_type = "AUTO"
            tick = 1.0 / rate_of(stream)
            presentation = Presentation(stream, redact_address(address))
            times: FrameClock | None = None
            decoder = Decoder(container, stream)
            for decoded in decoder.frames(decoder.packets()):
                stamp = stamp_of(decoded, stream)
                if times is None:
                    now = self._time_now(tick)
                    times = FrameClock(tick, shift_s=now - (stamp or 0.0), from_s=now)
                frame = presentation.frame(self._number, times.time_of(stamp), decoded)
                self.time_s, self.heard = frame.time_s, self._clock()
                yield frame
                self._number += 1
            if decoder.stopped is not None:
                reason = reason_of(decoder.stopped)
                if fell_silent(decoder.stopped):
                    # The frames that were held back came at the end of the silence.
                    self.heard -= reader.READ_TIMEOUT_S
                raise InputError(f"{redact_address(address)}: {reason}") from decoder.stopped

    def _time_now(self, tick: float) -> float:
        """Return the time of a frame that is received now."""
        if self.time_s is None:
            return 0.0
        return self.time_s + max(tick, self._clock() - self.heard)
