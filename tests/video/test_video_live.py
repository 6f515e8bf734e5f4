from __future__ import annotations

import io
import logging
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count, islice, pairwise

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from connection_maker import serving_connections
from mien.core.errors import InputError
from mien.core.web import is_camera, is_stream
from mien.video import live, reader
from mien.video.analysis import open_frames
from mien.video.frames import BrokenVideo, VideoFrame, Window
from mien.video.live import (
    LiveStream,
    camera_frames,
    connect,
    stream_frames,
)
from mien.video.reader import read_video
from video_maker import SteppedClock, even_times, number_in, write_video

pytest.importorskip("av")

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n"


def _stream_bytes(frames: int = 75) -> bytes:
    content = io.BytesIO()
    write_video(content, even_times(frames), form="mpegts")
    return content.getvalue()


@contextmanager
def _serving(*answers: bytes | None, silent: bool = False) -> Iterator[tuple[str, list[int]]]:
    """Serve one answer per connection on loopback; None refuses a connection.

    Yields the address, and a list that grows with each connection. With ``silent``, the first
    connection is not ended after its answer: no more comes.
    """
    kept: list[socket.socket] = []
    left = list(answers)

    def answer(client: socket.socket) -> None:
        if silent and not kept:
            kept.append(client.dup())
        content = left.pop(0) if left else None
        if content is not None:
            client.recv(4096)
            with suppress(OSError):  # the client has closed the connection
                client.sendall(_HEAD + content)

    try:
        with serving_connections(answer) as (port, connections):
            yield f"http://127.0.0.1:{port}/live.ts", connections
    finally:
        for client in kept:
            client.close()


def _read(address: str, clock: SteppedClock, *, reconnect_s: float = 30.0) -> Iterator[VideoFrame]:
    stream = LiveStream(address, allow_private=True)
    return stream_frames(stream, clock=clock, sleep=clock.sleep, reconnect_s=reconnect_s)


def test_a_lost_stream_is_reconnected_with_a_gap(caplog: pytest.LogCaptureFixture) -> None:
    content, clock = _stream_bytes(), SteppedClock()
    half = content[: len(content) // 2]
    frames, error = [], None
    with (
        caplog.at_level(logging.WARNING, "mien"),
        _serving(half, None, None, content) as (address, connections),
    ):
        try:
            for frame in _read(address, clock, reconnect_s=5.0):
                frames.append((frame.number, frame.time_s, number_in(frame.pixels)))
        except BrokenVideo as broken:
            error = broken
    assert len(connections) > 4
    numbers, times, seen = zip(*frames, strict=True)
    assert list(numbers) == list(range(len(frames)))
    assert all(one < other for one, other in pairwise(times))
    again = seen.index(0, 1)  # index of the first picture's second appearance
    assert 20 < again < 70
    assert len(frames) == again + 75
    # Three waits of 0.5, 1 and 2 seconds lie between; within a connection, 1/25 of a second does.
    assert times[again] - times[again - 1] == pytest.approx(3.5, abs=0.1)
    assert times[-1] - times[again] == pytest.approx(74 / 25, abs=0.01)
    assert clock.slept[:3] == [0.5, 1.0, 2.0]
    messages = [record.getMessage() for record in caplog.records]
    assert "reconnecting" in messages[0]
    assert "reconnected after 3.5 s" in messages[1]
    assert error is not None
    assert "not reconnected within 5 s" in str(error)
    assert error.time_s == times[-1]


def test_a_stream_with_restarted_stamps_continues() -> None:
    with _serving(_stream_bytes(25) * 2) as (address, _):
        stream = LiveStream(address, allow_private=True)
        times = [frame.time_s for frame in islice(stream_frames(stream), 50)]
    assert times == pytest.approx(even_times(50), abs=1e-3)


def test_backoff_grows_to_a_limit_and_times_out() -> None:
    clock = SteppedClock()
    with _serving(_stream_bytes(30)) as (address, _), pytest.raises(BrokenVideo):
        list(_read(address, clock, reconnect_s=30.0))
    assert clock.slept == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]


def test_a_missing_stream_is_an_error_at_once() -> None:
    clock = SteppedClock()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(InputError, match="cannot be opened: Connection refused") as caught:
        next(_read(f"rtsp://user:secret@127.0.0.1:{port}/live", clock))
    assert "secret" not in str(caught.value)
    assert clock.slept == []


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_silent_server_times_out(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "OPEN_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:  # connections wait to be accepted
        address = f"{scheme}://user:secret@127.0.0.1:{server.getsockname()[1]}/live"
        with pytest.raises(InputError, match=r"no video received within 0\.3 s") as caught:
            next(_read(address, SteppedClock()))
    assert "secret" not in str(caught.value)


def test_a_stream_that_falls_silent_is_lost_with_a_gap(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reader, "READ_TIMEOUT_S", 1.0)
    content = _stream_bytes()
    part = content[: len(content) * 3 // 4]
    with (
        caplog.at_level(logging.WARNING, "mien"),
        _serving(part, content, silent=True) as (address, connections),
        closing(stream_frames(LiveStream(address, allow_private=True), reconnect_s=20.0)) as stream,
    ):
        times = [frame.time_s for frame in islice(stream, 90)]
        assert len(connections) == 2
    # A second of silence and half a second's wait.
    assert max(b - a for a, b in pairwise(times)) > 1.4
    messages = [record.getMessage() for record in caplog.records]
    assert "lost (no data for 1 s), reconnecting" in messages[0]
    assert "reconnected after" in messages[1]


def test_a_window_ends_a_stream() -> None:
    with _serving(_stream_bytes()) as (address, _):
        frames = list(stream_frames(LiveStream(address, allow_private=True), Window(0.5, 1.0)))
    assert [frame.number for frame in frames] == list(range(13, 25))


def test_an_address_without_a_length_is_a_stream() -> None:
    with _serving(_stream_bytes()) as (address, _):
        stream = connect(address, allow_private=True)
        assert isinstance(stream, LiveStream)
        stream.close()
    assert isinstance(connect("rtsp://127.0.0.1/live"), LiveStream)
    assert connect("0") == connect(0) == 0
    assert connect("clip.mp4") is None


def test_an_address_with_a_length_is_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = _stream_bytes()
    length = b"Content-Length: %d\r\n\r\n" % len(content)
    monkeypatch.setitem(globals(), "_HEAD", _HEAD.removesuffix(b"\r\n") + length)
    with _serving(*[content] * 9) as (address, _):
        assert connect(address, allow_private=True) is None
        assert len(list(open_frames(address, None, Window(), allow_private=True))) == 75


def test_a_stalled_download_is_a_broken_video(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "READ_TIMEOUT_S", 0.5)
    content = _stream_bytes()
    with (
        _serving(content[: len(content) // 2], silent=True) as (address, _),
        pytest.raises(BrokenVideo, match="cut or damaged"),
    ):
        list(read_video(address, allow_private=True))


def test_a_stream_is_opened_once() -> None:
    with _serving(_stream_bytes()) as (address, connections):
        live = connect(address, allow_private=True)
        frames = list(open_frames(address, live, Window(0.0, 1.0)))
        assert len(connections) == 1
    assert [number_in(frame.pixels) for frame in frames] == list(range(25))


def test_cameras_and_streams_are_recognized() -> None:
    assert is_camera(0)
    assert is_camera("1")
    assert is_camera("-1")
    assert not is_camera(True)
    assert not is_camera("clip.mp4")
    assert is_stream("rtsp://host/live")
    assert is_stream("https://host/clip.mp4")
    assert not is_stream("clip.mp4")
    assert not is_stream("file:///clip.mp4")


def test_a_missing_camera_is_reported_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="camera 97: no such camera"):
        next(camera_frames(97))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [-1, 100, 2**31, 10**30])
def test_invalid_camera_numbers_never_reach_opencv(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(cv2, "VideoCapture")
    with pytest.raises(InputError, match="expected a number from 0 to 99"):
        next(camera_frames(number))
    assert is_camera(number)


class _Camera:
    """Fake camera: five blue pictures, then unplugged."""

    released = 0

    def __init__(self, _: int) -> None:
        self._left = 5

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def read(self) -> tuple[bool, npt.NDArray[np.uint8] | None]:
        self._left -= 1
        blue = np.zeros((48, 64, 3), np.uint8)
        blue[..., 0] = 255
        return (True, blue) if self._left >= 0 else (False, None)

    def release(self) -> None:
        _Camera.released += 1


def test_camera_frames_are_rgb_with_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", _Camera)
    before, ticks = _Camera.released, count(100)
    seen = camera_frames(0, clock=lambda: next(ticks) / 10)
    frames = [next(seen) for _ in range(5)]
    with pytest.raises(BrokenVideo, match=r"camera 0: lost after"):
        next(seen)
    assert [frame.number for frame in frames] == list(range(5))
    assert frames[0].time_s < 0.25
    steps = [b.time_s - a.time_s for a, b in pairwise(frames)]
    assert steps == pytest.approx([0.1] * 4)
    assert frames[0].pixels[0, 0].tolist() == [0, 0, 255]
    assert _Camera.released == before + 1


def test_opencvs_log_level_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    level = cv2.utils.logging.getLogLevel()
    with pytest.raises(InputError):
        next(camera_frames(97))
    assert cv2.utils.logging.getLogLevel() == level
    assert live.RECONNECT_TIMEOUT_S == 30.0
