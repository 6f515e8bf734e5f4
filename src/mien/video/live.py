"""Live streams, with reconnection after a loss, and cameras."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.checks import check_type
from mien.core.errors import InputError, PrivateAddressError
from mien.core.web import is_camera, is_stream, is_web_address, redact_address
from mien.video import reader
from mien.video.frames import (
    BrokenVideo,
    FrameClock,
    FrameConverter,
    TooLarge,
    VideoFrame,
    Window,
)
from mien.video.reader import (
    Decoder,
    duration_of,
    frame_rate,
    is_timeout,
    open_video,
    reason_of,
    stamp_s,
    video_stream,
)

RECONNECT_TIMEOUT_S = 30.0  # time limit for reconnecting to a lost stream

# OpenCV interprets higher numbers as a choice of backend, and crashes on some.
_MAX_CAMERAS = 100
_FIRST_DELAY_S = 0.5
_MAX_DELAY_S = 8.0

_log = logging.getLogger(__name__)


# ---------------------------------------------------------------- streams
class LiveStream:
    """A live stream and its open connection, if there is one.

    Some servers accept one client, so probing and reading use the same connection.
    """

    def __init__(self, address: str, *, allow_private: bool = False) -> None:
        """Create a stream without connecting; arguments as `connect`."""
        self.address = address
        self._allow_private = allow_private
        self._container: Any = None

    def open(self) -> Any:
        """Return the open container, or a new one; raises InputError if it cannot be opened."""
        container, self._container = self._container, None
        if container is not None:
            return container
        options = {"rtsp_transport": "tcp"} if self.address.lower().startswith("rtsp") else {}
        return open_video(self.address, options=options, allow_private=self._allow_private)

    def is_file(self) -> bool:
        """Connect, and return True for a file; raises InputError if there is nothing."""
        self._container = container = self.open()
        is_file = True
        try:
            stream = video_stream(container, self.address)
            if container.format.name.startswith(("hls", "dash")):
                is_file = duration_of(container, stream) is not None
            else:
                is_file = bool(container.size > 0)  # a live stream has no size
            return is_file
        finally:
            if is_file:  # or without pictures
                self.close()

    def close(self) -> None:
        """Close a connection that was not used."""
        container, self._container = self._container, None
        if container is not None:
            container.close()


def connect(source: str | Path | int, *, allow_private: bool = False) -> LiveStream | int | None:
    """Return a live source: a connected stream, or a camera's number; None for a file.

    Args:
        source: path, address or camera number.
        allow_private: as for `open_video`.

    Raises:
        UsageError: if this is not a source.
        InputError: if an http(s) address, which can be a stream or a file, does not answer.
    """
    if is_camera(source):
        return int(str(source))
    check_type("source", source, (str, os.PathLike), "a file, an address or a camera's number")
    if not is_stream(source):
        return None
    stream = LiveStream(str(source), allow_private=allow_private)
    return None if is_web_address(stream.address) and stream.is_file() else stream


def stream_frames(
    stream: LiveStream | str,
    window: Window | None = None,
    *,
    reconnect_s: float = RECONNECT_TIMEOUT_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Generator[VideoFrame, None, None]:
    """Yield the frames of a stream, reconnecting with exponential backoff when it is lost.

    Times count from the first frame and continue during an outage, so that it shows as a gap.

    Args:
        stream: a stream, or an address: http(s), rtsp, rtmp, srt, udp or tcp.
        window: the part to read.
        reconnect_s: time limit for reconnecting, in seconds.
        clock: current time in seconds.
        sleep: waits for some seconds.

    Raises:
        InputError: if the stream cannot be opened at first.
        BrokenVideo: if it is lost and reconnecting fails.
    """
    window = window or Window()
    stream = LiveStream(stream) if isinstance(stream, str) else stream
    name = redact_address(stream.address)
    connection = _Connection(stream, clock)
    backoff = _Backoff(name, reconnect_s, clock, sleep)
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
            if isinstance(error, PrivateAddressError | TooLarge):  # reconnecting would not help
                raise BrokenVideo(str(error), connection.time_s) from error
            reason = str(error).removeprefix(f"{name}: ")
        if connection.time_s is None:
            raise InputError(f"{name}: no frame of this stream can be decoded")
        backoff.wait(reason, connection.received_at, connection.time_s)


class _Backoff:
    """Waits before each attempt to reconnect, twice as long each time."""

    def __init__(
        self,
        name: str,
        timeout_s: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._clock, self._sleep = clock, sleep
        self._lost_at: float | None = None
        self._delay_s = _FIRST_DELAY_S

    def reset(self) -> None:
        """Start again after a frame was received."""
        if self._lost_at is not None:
            _log.warning("%s: reconnected after %.1f s", self._name, self._clock() - self._lost_at)
            self._lost_at, self._delay_s = None, _FIRST_DELAY_S

    def wait(self, reason: str, received_at: float, time_s: float) -> None:
        """Wait after a failure, or raise BrokenVideo after the timeout.

        ``received_at`` is when the last frame was received, ``time_s`` its time in the video.
        """
        if self._lost_at is None:
            self._lost_at = received_at
            _log.warning("%s: lost (%s), reconnecting", self._name, reason)
        if self._clock() - self._lost_at + self._delay_s > self._timeout_s:
            raise BrokenVideo(
                f"{self._name}: lost after {time_s:.1f} s ({reason}), "
                f"and not reconnected within {self._timeout_s:g} s",
                time_s,
            )
        self._sleep(self._delay_s)
        self._delay_s = min(2 * self._delay_s, _MAX_DELAY_S)


class _Connection:
    """Successive connections to a stream, on one time line."""

    def __init__(self, stream: LiveStream, clock: Callable[[], float]) -> None:
        self._live = stream
        self._clock = clock
        self._number = 0
        self.time_s: float | None = None  # of the last frame
        self.received_at = clock()  # when the last frame came

    def frames(self) -> Generator[VideoFrame, None, None]:
        """Yield the frames of one connection until it ends; raises InputError if it fails."""
        name = redact_address(self._live.address)
        with self._live.open() as container:
            stream = video_stream(container, self._live.address)
            stream.thread_type = "AUTO"
            step_s = 1.0 / frame_rate(stream)
            converter = FrameConverter(stream, name)
            times: FrameClock | None = None
            decoder = Decoder(container, stream)
            for decoded in decoder.frames(decoder.packets()):
                stamp = stamp_s(decoded, stream)
                if times is None:
                    now = self._time_now(step_s)
                    times = FrameClock(step_s, shift_s=now - (stamp or 0.0), from_s=now)
                frame = converter.convert(self._number, times.time_of(stamp), decoded)
                self.time_s, self.received_at = frame.time_s, self._clock()
                yield frame
                self._number += 1
            if decoder.stopped is not None:
                if is_timeout(decoder.stopped):
                    # The decoder was flushed at the end of the silence, not at its start.
                    self.received_at -= reader.READ_TIMEOUT_S
                reason = reason_of(decoder.stopped)
                raise InputError(f"{name}: {reason}") from decoder.stopped

    def _time_now(self, step_s: float) -> float:
        """Return the time of a frame that is received now."""
        if self.time_s is None:
            return 0.0
        return self.time_s + max(step_s, self._clock() - self.received_at)


# ---------------------------------------------------------------- cameras
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
    camera = _open_camera(number)
    count, started, time_s = 0, clock(), 0.0
    try:
        while True:
            is_read, picture = camera.read()
            if not is_read:
                if count == 0:
                    raise InputError(
                        f"camera {number}: returns no picture: another program may be using it"
                    )
                raise BrokenVideo(f"camera {number}: lost after {time_s:.1f} s", time_s)
            started = clock() if count == 0 else started
            time_s = clock() - started
            if window.ends_before(time_s):
                return
            if not window.starts_after(time_s):
                yield VideoFrame(count, time_s, partial(_to_rgb, picture))
            count += 1
    finally:
        camera.release()


def _to_rgb(picture: cv2.typing.MatLike) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _open_camera(number: int) -> cv2.VideoCapture:
    if not 0 <= number < _MAX_CAMERAS:
        raise InputError(f"camera {number}: expected a number from 0 to {_MAX_CAMERAS - 1}")
    level = cv2.utils.logging.getLogLevel()
    # OpenCV logs each backend that fails; one error message is enough.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        camera = cv2.VideoCapture(number)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not camera.isOpened():
        camera.release()
        raise InputError(
            f"camera {number}: no such camera, or no permission to use it: "
            "camera numbers start at 0"
        )
    return camera
