"""`/v1/stream`: live frames over a WebSocket; access, limits and shutdown."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from service_maker import (
    Gated,
    Service,
    is_dropped,
    loader,
    open_at_shutdown,
    picture,
    running,
)
from waiting import PATIENCE_S, until

pytest.importorskip("fastapi")

from starlette.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from mien.service import Limits, openapi
from mien.service.access import Access

TOKEN = "the-token-of-these-tests"


def opened(service: Service, path: str = "/v1/stream", **options: Any) -> ClientConnection:
    address = f"ws://127.0.0.1:{service.port}{path}"
    stream: ClientConnection = connect(address, proxy=None, open_timeout=PATIENCE_S, **options)
    return stream


def answer(stream: ClientConnection) -> Any:
    text = stream.recv(timeout=PATIENCE_S)
    assert isinstance(text, str)
    assert len(text.splitlines()) == 1
    return json.loads(text)


def refused(service: Service, path: str = "/v1/stream", **options: Any) -> tuple[int, Any]:
    """The status and the JSON of a refused handshake."""
    with pytest.raises(InvalidStatus) as caught, opened(service, path, **options):
        pass
    response = caught.value.response
    assert response.headers["content-type"] == "application/json"
    frame_reply = json.loads(response.body or b"")
    assert frame_reply["request_id"] == response.headers["x-request-id"]
    return response.status_code, frame_reply


def closed(stream: ClientConnection) -> int | None:
    """The code with which the service closes a stream, without a further message."""
    with pytest.raises(ConnectionClosed) as caught:
        stream.recv(timeout=PATIENCE_S)
    return caught.value.rcvd.code if caught.value.rcvd else None


# ---------------------------------------------------------------- frames


def test_frames_get_the_answers_of_images(service: Service) -> None:
    with opened(service) as stream:
        last = 0.0
        for number in range(3):
            stream.send(picture(number))
            frame_reply = answer(stream)
            assert frame_reply["frame"] == number
            assert frame_reply["time_s"] >= last
            last = frame_reply["time_s"]
            alone = service.analyze(picture(number)).json
            assert {**frame_reply, "frame": None, "time_s": None} == alone
            assert openapi.Result.model_validate(frame_reply).status == "ok"


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (b"no image", "undecodable", "the file is not an image"),
        (picture()[:2000], "undecodable", "damaged"),
        (b"", "malformed", "an empty message"),
        ("text", "malformed", "a text message"),
        ([b"", b"", b""], "malformed", "an empty message"),
    ],
)
def test_invalid_messages_get_errors_and_the_stream_continues(
    service: Service, message: Any, code: str, text: str
) -> None:
    with opened(service) as stream:
        stream.send(message)
        frame_reply = answer(stream)
        assert (frame_reply["schema"], frame_reply["code"], frame_reply["frame"]) == (
            "mien-error/1",
            code,
            0,
        )
        assert text in frame_reply["error"]
        stream.send(picture())
        assert answer(stream)["frame"] == 1


def test_a_newer_frame_replaces_the_waiting_one(tiny_model: Path, gated: Gated) -> None:
    with running(loader(tiny_model, gated), limits=Limits(workers=2)) as service:
        with opened(service) as stream:
            gated.gate.clear()
            begun = gated.begun
            stream.send(picture(0))
            until(lambda: gated.begun == begun + 1)
            for number in range(1, 5):
                stream.send(picture(number))
            dropped = [answer(stream) for _ in range(3)]
            assert [each["frame"] for each in dropped] == [1, 2, 3]
            assert {each["code"] for each in dropped} == {"dropped"}
            assert gated.begun == begun + 1
            gated.gate.set()
            read = [answer(stream) for _ in range(2)]
            assert [(each["frame"], each["status"]) for each in read] == [(0, "ok"), (4, "ok")]
        assert service.metric('mien_stream_frames_total{status="dropped"}') == 3
        assert service.metric('mien_stream_frames_total{status="ok"}') == 2


def test_frames_get_busy_if_all_slots_are_taken(tiny_model: Path, gated: Gated) -> None:
    allowed = Limits(workers=1, max_waiting=0)
    with (
        running(loader(tiny_model, gated), limits=allowed) as service,
        ThreadPoolExecutor(1) as clients,
        opened(service) as stream,
    ):
        gated.gate.clear()
        served = clients.submit(service.analyze, picture())
        until(lambda: service.metric("mien_places_taken") == 1)
        stream.send(picture())
        assert answer(stream)["code"] == "busy"
        gated.gate.set()
        assert served.result().status == 200
        stream.send(picture())
        assert answer(stream)["status"] == "ok"


def test_people_are_tracked_and_smoothed_on_request(service: Service) -> None:
    with opened(service, "/v1/stream?track=1") as stream:
        found = []
        for seed in (0, 1):
            stream.send(picture(seed))
            found.append(answer(stream)["faces"][0])
    assert [face["track_id"] for face in found] == [0, 0]
    assert found[0]["smoothed"]["scores"] == pytest.approx(found[0]["scores"])
    mixed, last = found[1]["smoothed"]["scores"], found[1]["scores"]
    assert sum(mixed.values()) == pytest.approx(1, abs=1e-4)
    assert mixed != pytest.approx(last)
    assert openapi.Face.model_validate(found[1])


def test_internal_errors_are_logged_and_hidden(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(loader(tiny_model)) as service, opened(service) as stream:
        service.app.state.service.recognizer.find = None
        stream.send(picture())
        frame_reply = answer(stream)
        assert frame_reply["code"] == "internal"
        assert "NoneType" not in frame_reply["error"]
    assert "/v1/stream failed at a frame: TypeError" in caplog.text


# ---------------------------------------------------------------- who may open one


@pytest.fixture(scope="module")
def guarded(tiny_model: Path) -> Iterator[Service]:
    access = Access.of([TOKEN], ["https://page.example"])
    with running(loader(tiny_model), access=access) as started:
        yield started


def test_a_token_may_be_a_header_or_a_subprotocol(guarded: Service) -> None:
    status, frame_reply = refused(guarded)
    assert (status, frame_reply["code"]) == (401, "unauthorized")
    assert refused(guarded, subprotocols=["mien", "bearer.wrong-token-of-them"])[0] == 401
    header = {"Authorization": f"Bearer {TOKEN}"}
    with opened(guarded, additional_headers=header) as stream:
        assert stream.subprotocol is None
    for offered, chosen in (
        (["mien", f"bearer.{TOKEN}"], "mien"),
        ([f"bearer.{TOKEN}"], f"bearer.{TOKEN}"),
    ):
        with opened(guarded, subprotocols=offered) as stream:
            assert stream.subprotocol == chosen
            stream.send(picture())
            assert answer(stream)["status"] == "ok"


def test_pages_of_other_hosts_are_refused(service: Service, guarded: Service) -> None:
    own = f"http://127.0.0.1:{service.port}"
    with opened(service, origin=own):
        pass
    for origin in ("https://evil.example", "null", f"{own}0", "http://127.0.0.1", f"{own}.evil"):
        status, frame_reply = refused(service, origin=origin)
        assert (status, frame_reply["code"]) == (403, "forbidden")
    token = {"Authorization": f"Bearer {TOKEN}"}
    with opened(guarded, origin="https://page.example", additional_headers=token):
        pass
    assert refused(guarded, origin="https://other.example", additional_headers=token)[0] == 403


def test_the_number_of_streams_is_bounded(tiny_model: Path) -> None:
    with running(loader(tiny_model), limits=Limits(max_streams=2)) as service:
        with opened(service), opened(service):
            assert service.metric("mien_streams") == 2
            status, frame_reply = refused(service)
            assert (status, frame_reply["code"]) == (503, "busy")
        until(lambda: service.metric("mien_streams") == 0)
        with opened(service):
            pass


def test_streams_are_refused_until_the_model_is_loaded(tiny_model: Path) -> None:
    gate = threading.Event()

    def load() -> Any:
        assert gate.wait(PATIENCE_S)
        return loader(tiny_model)()

    with running(load, ready=False) as service:
        until(lambda: service.ask("/healthz").status == 200)
        assert refused(service)[1]["code"] == "not_ready"
        gate.set()


def test_refusals_are_not_logged(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    assert refused(service, origin="https://evil.example")[0] == 403
    time.sleep(0.1)
    assert not caplog.records


def test_a_null_origin_does_not_match_an_empty_host() -> None:
    headers = Headers({"host": "", "origin": "null"})
    refusal = Access().origin_error(headers)
    assert refusal is not None
    assert refusal.status == 403


def test_other_paths_are_no_streams(service: Service) -> None:
    assert refused(service, "/v1/nowhere")[0] == 404
    assert refused(service, "/v1/analyze")[0] == 404


KEY = b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n"
HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" + KEY
)


@pytest.mark.parametrize(
    "head",
    [
        HANDSHAKE.replace(KEY, b""),
        HANDSHAKE.replace(KEY, 2 * KEY),
        HANDSHAKE.replace(KEY, b"Sec-WebSocket-Key: short\r\n"),
        HANDSHAKE.replace(b": 13", b": 12"),
        HANDSHAKE.replace(b"websocket", b"h2c"),
        HANDSHAKE.replace(b", Upgrade", b""),
        HANDSHAKE + b"Content-Length: 0\r\n",
        HANDSHAKE + 120 * b"X: y\r\n",
        HANDSHAKE + b"X: " + 9000 * b"y" + b"\r\n",
        b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n",
    ],
    ids=range(10),
)
def test_invalid_handshakes_are_answered_as_http(service: Service, head: bytes) -> None:
    reply = service.raw(head.replace(b"keep-alive", b"close") + b"Connection: close\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 426 ")
    assert b"upgrade: websocket" in reply.lower()
    assert b'"code": "upgrade_required"' in reply


# ---------------------------------------------------------------- bounds and ends


def test_too_large_frames_close_the_stream(tiny_model: Path) -> None:
    with (
        running(loader(tiny_model), limits=Limits(max_bytes=20_000)) as service,
        opened(service) as stream,
    ):
        stream.send(picture())
        assert answer(stream)["status"] == "ok"
        stream.send(bytes(20_001))
        assert closed(stream) == 1009


def test_idle_streams_are_closed(tiny_model: Path) -> None:
    with running(loader(tiny_model)) as service, opened(service) as stream:
        stream.send(picture())
        assert answer(stream)["status"] == "ok"
        # From the next frame on; a busy machine would not even send the first one in time.
        service.app.state.service.limits = Limits(stream_seconds=0.3)
        stream.send(picture())
        assert answer(stream)["status"] == "ok"
        assert closed(stream) == 1000
        until(lambda: service.metric("mien_streams") == 0)


def test_a_disconnect_frees_the_slot_of_its_frame(tiny_model: Path, gated: Gated) -> None:
    with running(loader(tiny_model, gated), limits=Limits(workers=1)) as service:
        with opened(service) as stream:
            gated.gate.clear()
            stream.send(picture())
            until(lambda: service.metric("mien_places_taken") == 1)
        gated.gate.set()
        until(lambda: service.metric("mien_places_taken") == 0)
        until(lambda: service.metric("mien_streams") == 0)
        assert service.analyze(picture()).status == 200


def test_the_shutdown_answers_the_frame_in_progress(tiny_model: Path, gated: Gated) -> None:
    frame_reply: list[Any] = []

    def take(stream: ClientConnection) -> None:
        frame_reply.extend(answer(stream) for _ in range(2))
        frame_reply.append(closed(stream))

    with ThreadPoolExecutor(1) as clients, ExitStack() as streams:
        with running(loader(tiny_model, gated)) as service:
            stream = streams.enter_context(opened(service))
            gated.gate.clear()
            begun = gated.begun
            stream.send(picture(0))
            until(lambda: gated.begun == begun + 1)
            stream.send(picture(1))
            stream.send(picture(2))
            assert answer(stream)["code"] == "dropped"  # 1: now 2 waits
            taking = clients.submit(take, stream)
            open_at_shutdown(service, gated)
        taking.result(PATIENCE_S)
    assert [
        (frame_reply[0]["frame"], frame_reply[0]["status"]),
        (frame_reply[1]["frame"], frame_reply[1]["code"]),
    ] == [
        (0, "ok"),
        (2, "stopping"),
    ]
    assert frame_reply[2] == 1001


def test_idle_streams_do_not_delay_the_shutdown(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.service import server

    monkeypatch.setattr(server, "GRACE_SECONDS", 10 * PATIENCE_S)
    with ExitStack() as streams:
        with running(loader(tiny_model)) as service:
            stream = streams.enter_context(opened(service))
        assert closed(stream) == 1001


def raw_stream(service: Service) -> socket.socket:
    """A stream on a raw socket, after the handshake."""
    stream = socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S)
    stream.sendall(HANDSHAKE + b"\r\n")
    assert stream.recv(4096).startswith(b"HTTP/1.1 101 ")
    return stream


def frame(opcode: int, content: bytes, *, last: bool = True) -> bytes:
    assert len(content) < 126
    return bytes([opcode | (0x80 if last else 0), 0x80 | len(content)]) + bytes(4) + content


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (lambda: frame(2, b"", last=False) + 4096 * frame(0, b"", last=False), 1008),
        (lambda: frame(1, b"x", last=False) + 4096 * frame(0, b"x", last=False), 1008),
        (lambda: b"\x82\x01x", 1002),  # not masked
        (lambda: b"\xf2\x80" + bytes(4), 1002),  # bits that mean nothing
        (lambda: b"\x82\xff" + struct.pack(">Q", 1 << 40) + bytes(4), 1009),
        (lambda: frame(0, b"x"), 1002),
    ],
    ids=range(6),
)
def test_protocol_errors_close_the_stream(
    service: Service, sent: Callable[[], bytes], code: int
) -> None:
    with raw_stream(service) as stream:
        stream.sendall(sent())
        received = b"".join(iter(lambda: stream.recv(65536), b""))
    assert received[0] == 0x88
    assert struct.unpack(">H", received[2:4]) == (code,)


def test_invalid_utf8_is_answered_as_text(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    with raw_stream(service) as stream:
        stream.sendall(frame(1, b"\xff\xfe"))
        assert b'"code": "malformed"' in stream.recv(4096)
    assert not caplog.records


@pytest.mark.parametrize("sent", [frame(9, 125 * b"p"), frame(2, b"")], ids=("pings", "frames"))
def test_clients_that_read_nothing_are_dropped(
    service: Service, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    from mien.service import protocols

    monkeypatch.setattr(protocols, "CHECK_SECONDS", 0.3)
    with raw_stream(service) as stream:
        stream.settimeout(0.3)
        until(lambda: is_dropped(stream, 200 * sent))
    until(lambda: service.metric("mien_streams") == 0)


def test_many_small_frames_do_not_block_others(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.service.protocols import WebSocketProtocol

    usual, sizes = WebSocketProtocol.data_received, []

    def data_received(self: WebSocketProtocol, data: bytes) -> None:
        sizes.append(len(data))
        usual(self, data)

    monkeypatch.setattr(WebSocketProtocol, "data_received", data_received)
    with raw_stream(service) as stream:
        stream.sendall(20_000 * frame(10, os.urandom(2)))  # pongs that nobody asked for
        assert service.ask("/healthz").status == 200
        until(lambda: sum(sizes) >= 160_000)
    assert max(sizes) <= 16_384  # others have their turn after each
