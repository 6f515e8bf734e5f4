"""`/v1/video`: uploads, events and limits; nothing stays on disk."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import io
import itertools
import json
import socket
import struct
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service_maker import (
    END,
    FORM,
    Gated,
    Reply,
    Service,
    form,
    loader,
    picture,
    running,
)
from waiting import PATIENCE_S, until

pytest.importorskip("fastapi")
pytest.importorskip("av")

from mien.service import Limits, openapi
from mien.service.errors import ApiError
from mien.video.analysis import analyze_video
from video_maker import even_times, write_video

MP4 = {"Content-Type": "video/mp4"}
Once = Callable[[Callable[[], object]], None]


@pytest.fixture(scope="module")
def clip() -> bytes:
    """A second of 25 frames."""
    buffer = io.BytesIO()
    write_video(buffer, even_times(25), form="mp4")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def long_clip() -> bytes:
    buffer = io.BytesIO()
    write_video(buffer, even_times(1000), form="mp4")
    return buffer.getvalue()


def send(service: Service, body: Any, query: str = "", **headers: str) -> Reply:
    return service.ask(f"/v1/video{query}", body, {**MP4, **headers}, "POST")


def events(reply: Reply) -> list[Any]:
    assert reply.status == 200, reply.text
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in reply.text.splitlines()]


def rows(found: list[Any]) -> list[Any]:
    return [each for each in found if each["schema"] == "mien/1"]


def refused(reply: Reply, status: int, code: str, message: str) -> None:
    assert (reply.status, reply.json["code"]) == (status, code)
    assert message in reply.json["error"]
    assert len(reply.json["error"].splitlines()) == 1
    assert "/dev" not in reply.text
    assert "file:" not in reply.text


# ---------------------------------------------------------------- what it answers


def test_frames_get_the_results_of_analyze_video(
    service: Service, clip: bytes, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip)
    expected = [each.to_dict() for each in analyze_video(loader(tiny_model)(), path)]
    expected = json.loads(json.dumps([{**each, "source": None} for each in expected]))
    found = events(send(service, clip))
    assert rows(found) == expected
    done = found[-1]
    assert (done["event"], done["frames"], done["faces"], done["error"]) == ("done", 25, 25, None)
    assert [person["frames"] for person in done["people"]] == [25]
    assert found[0]["event"] == "progress"
    assert found[0]["duration_s"] == pytest.approx(1, abs=0.1)
    openapi.Progress.model_validate(found[0])
    openapi.Done.model_validate(done)
    openapi.Result.model_validate(expected[0])


def test_a_form_provides_the_file_name(service: Service, clip: bytes) -> None:
    body = form(clip, field="video", name="/home/me/clip.mp4", kind="video/mp4") + END
    found = rows(events(send(service, body, **FORM)))
    assert {each["source"] for each in found} == {"clip.mp4"}
    assert len(found) == 25


def test_server_sent_events_on_request(service: Service, clip: bytes) -> None:
    reply = send(service, clip, "?every=0.5", Accept="text/event-stream")
    assert reply.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in reply.text.strip().split("\n\n")]
    names = [lines[0].removeprefix("event: ") for lines in blocks]
    assert (names.count("result"), names[-1]) == (2, "done")
    assert all(json.loads(lines[1].removeprefix("data: ")) for lines in blocks)


def test_start_end_and_every_select_frames(service: Service, clip: bytes) -> None:
    times = [each["time_s"] for each in rows(events(send(service, clip, "?start=0.2&end=0.4")))]
    assert times == pytest.approx([0.2, 0.24, 0.28, 0.32, 0.36])
    assert len(rows(events(send(service, clip, "?every=0.25")))) == 4


@pytest.mark.parametrize("query", ["start=x", "every=0", "end=-1", "start=2&end=1", "every=nan"])
def test_400_for_invalid_times(service: Service, clip: bytes, query: str) -> None:
    refused(send(service, clip, f"?{query}"), 400, "malformed", "are seconds")


def test_a_truncated_video_is_reported_in_done(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, even_times(100), options={"movflags": "faststart"})
    whole = path.read_bytes()
    found = events(send(service, whole[: len(whole) * 2 // 3]))
    assert rows(found)[-1]["status"] == "unreadable"
    assert found[-1]["event"] == "done"
    assert "cut or damaged" in found[-1]["error"]
    assert 10 < found[-1]["frames"] < 100


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "message"),
    [
        (b"", MP4, 400, "malformed", "the video is empty"),
        (form(b"x") + END, FORM, 400, "malformed", "unexpected field 'image'"),
        (form(b"", field="video", kind="video/mp4") + END, FORM, 400, "malformed", "is empty"),
        (
            form(b"x", field="video", kind="text/plain") + END,
            FORM,
            415,
            "unsupported_type",
            "video",
        ),
        (b"x", {"Content-Type": "image/png"}, 415, "unsupported_type", "video/mp4"),
        (b"x", {**MP4, "Content-Encoding": "gzip"}, 415, "unsupported_type", "send the video"),
        (b"no video", MP4, 422, "undecodable", "not a video"),
        (picture(), MP4, 422, "undecodable", "the video"),
    ],
    ids=range(8),
)
def test_invalid_uploads_get_one_error(
    service: Service, body: bytes, headers: dict[str, str], status: int, code: str, message: str
) -> None:
    refused(service.ask("/v1/video", body, headers, "POST"), status, code, message)


def test_playlists_cannot_refer_to_other_files(
    service: Service, clip: bytes, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(clip)
    for playlist in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{secret}'\n",
        f"v=0\nm=video 1 RTP/AVP 96\na=control:file://{secret}\n",
    ):
        refused(send(service, playlist.encode()), 422, "undecodable", "the video")


def claiming(video: bytes, table: bytes, values: bytes) -> bytes:
    """The video with other values at the start of its first table of this name."""
    at = video.index(table) + 4
    return video[:at] + values + video[at + len(values) :]


def test_422_for_mp4_headers_that_claim_too_many_samples(service: Service, clip: bytes) -> None:
    buffer = io.BytesIO()
    write_video(
        buffer, even_times(25), form="mp4", options={"movflags": "frag_keyframe+empty_moov"}
    )
    parts, many = buffer.getvalue(), struct.pack(">I", 60_000_000)
    assert events(send(service, parts))[-1]["frames"] == 25
    one_size = bytes(4) + struct.pack(">I", 1) + many  # FFmpeg's index would have 24 bytes for each
    for table, values in ((b"stsz", one_size), (b"trun", b"\0\0\0\x01" + many)):
        for video in (clip, parts):
            if table in video:
                refused(
                    send(service, claiming(video, table, values)), 422, "undecodable", "60,000,000"
                )
    index = struct.pack(">I4s", 8, b"sidx")
    head, media = parts.split(b"moof", 1)
    within = struct.pack(">I4s", 8 + 4 + len(media), b"mdat") + b"moof" + media
    hidden = claiming(head[:-4] + index + within, b"trun", b"\0\0\0\x01" + many)
    refused(send(service, hidden), 422, "undecodable", "60,000,000")
    packed = struct.pack(">I4s", 24, b"cmov") + struct.pack(">I4sI", 12, b"cmvd", 1 << 31)
    refused(send(service, clip + packed), 422, "undecodable", "its header is compressed")


def test_uncompressed_sound_is_accepted(service: Service) -> None:
    buffer = io.BytesIO()
    write_video(
        buffer, even_times(25 * 30), form="mov", sound=True, audio_codec="pcm_s16le", group=25
    )
    assert events(send(service, buffer.getvalue(), "?every=5"))[-1]["event"] == "done"


def test_413_by_the_declared_and_the_received_length(tiny_model: Path, clip: bytes) -> None:
    with running(loader(tiny_model), limits=Limits(max_video_bytes=len(clip) - 1)) as service:
        refused(send(service, clip), 413, "too_large", f"{len(clip) - 1:,} bytes")
        refused(send(service, iter([clip])), 413, "too_large", "send a smaller one")
    with running(loader(tiny_model), limits=Limits(max_video_bytes=len(clip))) as service:
        assert events(send(service, iter([clip])))[-1]["event"] == "done"


def test_422_for_frames_of_too_many_pixels(tiny_model: Path, clip: bytes) -> None:
    with running(loader(tiny_model), limits=Limits(max_pixels=96 * 128 - 1)) as service:
        refused(send(service, clip), 422, "undecodable", "too large")


def test_501_without_the_extra_video(
    service: Service, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    refused(send(service, clip), 501, "not_supported", "pip install 'mien[video]'")


# ---------------------------------------------------------------- bounds and ends


def upload_only(service: Service, body: bytes, length: int) -> socket.socket:
    stream = socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S)
    head = "POST /v1/video HTTP/1.1\r\nHost: x\r\nContent-Type: video/mp4\r\n"
    stream.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + body)
    return stream


def test_408_if_the_upload_pauses(tiny_model: Path, clip: bytes) -> None:
    with running(loader(tiny_model), limits=Limits(upload_seconds=0.3)) as service:
        with upload_only(service, clip[:100], len(clip)) as stream:
            assert stream.recv(100).startswith(b"HTTP/1.1 408 ")

        too_slow = 'mien_requests_total{method="POST",path="/v1/video",status="408"}'
        until(lambda: service.metric(too_slow) == 1)
        until(lambda: service.metric("mien_videos") == 0)


def test_uploads_must_keep_up_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.service import uploads

    async def trickle() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x"

    async def received() -> int:
        return len([each async for each in uploads._timed(trickle(), 30.0, 600.0)])

    clock = itertools.count(step=10.0)
    monkeypatch.setattr(uploads, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(ApiError, match="bytes a second") as refusal:
        asyncio.run(received())
    assert (refusal.value.status, refusal.value.code) == (408, "too_slow")


def test_503_while_another_video_is_in_progress(tiny_model: Path, clip: bytes) -> None:
    with running(loader(tiny_model)) as service:
        with upload_only(service, clip[:100], len(clip)):
            until(lambda: service.metric("mien_videos") == 1)
            reply = send(service, clip)
            refused(reply, 503, "busy", "1 videos")
            assert int(reply.headers["retry-after"]) >= 1
        until(lambda: service.metric("mien_videos") == 0)
        assert send(service, clip).status == 200


def test_the_next_video_is_admitted_at_once(service: Service, clip: bytes) -> None:
    replies = [send(service, clip, "?every=0.5") for _ in range(10)]
    assert [reply.status for reply in replies] == [200] * 10


@pytest.fixture
def time_is_over(monkeypatch: pytest.MonkeyPatch) -> Once:
    """Let a video's time be over once a condition holds, however long the upload took."""
    from mien.service import video

    usual = video._next_event

    def once(holds: Callable[[], object]) -> None:
        async def next_event(service: Any, reader: Any, deadline: float, request_id: str) -> Any:
            await asyncio.to_thread(until, holds)
            return await usual(service, reader, deadline - service.limits.video_seconds, request_id)

        monkeypatch.setattr(video, "_next_event", next_event)

    return once


def test_422_after_the_time_limit(
    tiny_model: Path, long_clip: bytes, gated: Gated, time_is_over: Once
) -> None:
    with running(loader(tiny_model, gated)) as service:
        gated.gate.clear()
        before = gated.begun
        time_is_over(lambda: gated.begun > before)
        refused(send(service, long_clip), 422, "too_long", "600 seconds at most")
        assert service.metric("mien_videos") == 1  # its thread is there still
        gated.gate.set()
        until(lambda: service.metric("mien_videos") == 0)
        assert service.metric('mien_videos_ended_total{status="too_long"}') == 1


def begun(service: Service, body: bytes) -> socket.socket:
    """A client that has received the first result of a video."""
    stream = upload_only(service, body, len(body))
    received = b""
    while b'"schema": "mien/1"' not in received:
        more = stream.recv(4096)
        assert more, received
        received += more
    return stream


def test_a_disconnect_stops_the_analysis(tiny_model: Path, long_clip: bytes, gated: Gated) -> None:
    slow_down(gated)
    with running(loader(tiny_model, gated)) as service:
        with begun(service, long_clip):
            pass
        until(lambda: service.metric("mien_videos") == 0)
        assert gated.begun < 900
        assert service.metric('mien_videos_ended_total{status="gone"}') == 1
    until(no_upload_is_read)


def slow_down(gated: Gated) -> None:
    """Make the analysis of a long video take many seconds."""
    usual = gated.detect

    def detect(image: Any) -> Any:
        time.sleep(0.03)
        return usual(image)

    gated.detect = detect  # type: ignore[method-assign]


def no_upload_is_read() -> bool:
    return all(each.name != "mien-upload" for each in threading.enumerate())


def test_the_time_limit_includes_frames_before_the_start(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, time_is_over: Once
) -> None:
    from mien.service.video import _ReaderThread

    usual, packets = _ReaderThread._check_stopped, []

    def slow(thread: _ReaderThread) -> None:
        packets.append(thread)
        time.sleep(0.01)
        usual(thread)

    monkeypatch.setattr(_ReaderThread, "_check_stopped", slow)
    buffer = io.BytesIO()
    write_video(buffer, even_times(1000), form="mpegts")
    body = buffer.getvalue()
    time_is_over(lambda: packets)
    with running(loader(tiny_model)) as service:
        refused(send(service, body, "?start=1000"), 422, "too_long", "600 seconds at most")
        until(lambda: service.metric("mien_videos") == 0)
    assert len(packets) < 1000


@pytest.mark.parametrize("kind", ["video/mp4", "form"])
def test_500_if_the_disk_is_full(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    body, headers = bytes(3_000_000), MP4
    if kind == "form":
        body, headers = form(body, field="video", kind="video/mp4") + END, FORM
    with running(loader(tiny_model)) as service:
        refused(service.ask("/v1/video", body, headers, "POST"), 500, "internal", "log says")
        until(lambda: service.metric("mien_videos") == 0)
    assert "No space left on device" in caplog.text


def test_clients_that_read_no_events_are_dropped(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.service import protocols

    buffer = io.BytesIO()
    write_video(buffer, even_times(12_000), form="mp4")
    with running(loader(tiny_model)) as service, begun(service, buffer.getvalue()):
        with monkeypatch.context() as patch:
            patch.setattr(protocols, "CLIENT_SECONDS", 0.5)
            until(no_upload_is_read)
        until(lambda: service.metric("mien_videos") == 0)
        assert service.metric('mien_videos_ended_total{status="gone"}') == 1


def test_the_shutdown_is_an_event(tiny_model: Path, long_clip: bytes, gated: Gated) -> None:
    with ThreadPoolExecutor(1) as clients:
        with running(loader(tiny_model, gated)) as service:
            slow_down(gated)
            answer = clients.submit(send, service, long_clip)
            until(lambda: gated.begun > 50)
        found = events(answer.result(PATIENCE_S))
    assert rows(found)
    assert (found[-1]["event"], found[-1]["code"]) == ("error", "stopping")


def test_internal_errors_are_events_without_details(
    tiny_model: Path, long_clip: bytes, gated: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    with running(loader(tiny_model, gated)) as service:
        usual = gated.detect

        def detect(image: Any) -> Any:
            if gated.begun > 300:
                raise ZeroDivisionError("in a secret place")
            return usual(image)

        gated.detect = detect  # type: ignore[method-assign]
        body = form(long_clip, field="video", name="of-me.mp4", kind="video/mp4") + END
        found = events(send(service, body, **FORM))
    assert (found[-1]["event"], found[-1]["code"]) == ("error", "internal")
    assert "secret" not in json.dumps(found)
    assert found[-1]["request_id"] in caplog.text
    assert "POST /v1/video failed: ZeroDivisionError" in caplog.text
    assert "of-me" not in caplog.text


def test_temporary_files_are_unnamed_and_removed(
    tiny_model: Path, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gated: Gated
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    large = clip + bytes(3_000_000)
    names: set[str] = set()
    usual = gated.detect

    def detect(image: Any) -> Any:
        names.update(each.name for each in tmp_path.iterdir())
        return usual(image)

    gated.detect = detect  # type: ignore[method-assign]
    with running(loader(tiny_model, gated)) as service:
        for body, headers in (
            (large, MP4),
            (form(large, field="video", kind="video/mp4") + END, FORM),
        ):
            assert send(service, body, **headers).status == 200
        assert send(service, b"no video" + bytes(3_000_000)).status == 422
    assert not names
    assert not list(tmp_path.iterdir())
