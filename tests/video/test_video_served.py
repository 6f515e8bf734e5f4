"""Streams from a real server: FFmpeg's program, if available."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path

import pytest

from mien.core.errors import InputError
from mien.video.live import LiveStream, connect, stream_frames
from video_maker import even_times, write_video
from waiting import PATIENCE_S

pytest.importorskip("av")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ffmpeg() -> str:
    """FFmpeg's program: on the path, or in the package imageio-ffmpeg."""
    found = shutil.which("ffmpeg")
    if found is None and importlib.util.find_spec("imageio_ffmpeg"):
        found = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    if found is None:
        pytest.skip("there is no ffmpeg program")
    return str(found)


class _Server:
    """Serves a clip repeatedly, in real time, to one client."""

    def __init__(self, ffmpeg: str, clip: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}/live.ts"
        played = ["-loglevel", "quiet", "-re", "-stream_loop", "-1", "-i", str(clip), "-c", "copy"]
        self._command = [ffmpeg, *played, "-f", "mpegts", "-listen", "1", self.address]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)

    def cut(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def server(ffmpeg: str, tmp_path: Path) -> Iterator[_Server]:
    """A running server, ended after the test."""
    write_video(tmp_path / "clip.mp4", even_times(100))
    one = _Server(ffmpeg, tmp_path / "clip.mp4")
    one.start()
    yield one
    one.cut()


def _first_connection(address: str) -> LiveStream:
    for _ in range(10 * PATIENCE_S):
        try:
            stream = connect(address, allow_private=True)
        except InputError:  # it is still starting
            time.sleep(0.1)
            continue
        assert isinstance(stream, LiveStream)
        return stream
    raise AssertionError("ffmpeg serves nothing")


def test_a_lost_stream_continues_after_reconnecting(
    server: _Server, caplog: pytest.LogCaptureFixture
) -> None:
    stream = _first_connection(server.address)
    with (
        caplog.at_level(logging.WARNING, "mien"),
        closing(stream_frames(stream, reconnect_s=30.0)) as frames,
    ):
        times = [frame.time_s for frame in islice(frames, 20)]
        server.cut()
        server.start()
        # Frames that the first server had sent come first, then those of the second one.
        for frame in frames:
            times.append(frame.time_s)
            if len(caplog.records) >= 2 and len(times) > 150:
                break
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "reconnecting" in messages[0]
    assert "reconnected after" in messages[1]
    assert all(b > a for a, b in pairwise(times))
    assert max(b - a for a, b in pairwise(times)) > 0.4  # the first wait


def test_reconnecting_times_out(server: _Server) -> None:
    stream = _first_connection(server.address)
    with closing(stream_frames(stream, reconnect_s=2.0)) as frames:
        next(frames)
        server.cut()
        with pytest.raises(InputError, match="not reconnected within 2 s"):
            list(frames)
