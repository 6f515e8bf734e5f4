from __future__ import annotations

import io
import logging
from contextlib import closing
from itertools import pairwise

import pytest

from mien.video.frames import BrokenVideo
from mien.video.live import stream_frames
from rtsp_maker import rtp_packets, serving_rtsp
from video_maker import SteppedClock, even_times, number_in, write_video

pytest.importorskip("av")


@pytest.fixture(scope="module")
def clip() -> list[bytes]:
    """Two seconds, 50 frames, as RTP packets."""
    content = io.BytesIO()
    write_video(content, even_times(50), form="mpegts")
    return rtp_packets(content.getvalue())


def test_a_lost_stream_is_reconnected(clip: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    frames: list[tuple[float, int]] = []
    clock = SteppedClock()
    with (
        caplog.at_level(logging.WARNING, "mien"),
        serving_rtsp(clip, clip) as (address, connections),
        closing(stream_frames(address, reconnect_s=3.0, clock=clock, sleep=clock.sleep)) as stream,
        pytest.raises(BrokenVideo, match="not reconnected within 3 s") as broken,
    ):
        frames.extend((frame.time_s, number_in(frame.pixels)) for frame in stream)
    assert len(connections) >= 3
    times, seen = zip(*frames, strict=True)
    assert 90 <= len(frames) <= 100  # the first frames of a stream may be waiting for a key frame
    assert set(seen) >= set(range(10, 40))
    assert all(b > a for a, b in pairwise(times))
    messages = [record.getMessage() for record in caplog.records]
    assert "reconnecting" in messages[0]
    assert "reconnected after" in messages[1]
    assert not any("secret" in text for text in [*messages, str(broken.value)])
