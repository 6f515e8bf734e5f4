"""Errors: their status, their JSON form, and no internals of the server."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from detector_maker import Broken
from mien.core import images
from service_maker import (
    END,
    FORM,
    PNG,
    Gated,
    Reply,
    Service,
    form,
    loader,
    open_at_shutdown,
    picture,
    running,
)
from waiting import PATIENCE_S, until

pytest.importorskip("fastapi")

ROOT = Path(__file__).resolve().parents[2]
WHOLE = form(picture()) + END


def refused(reply: Reply, status: int, code: str, message: str) -> None:
    """Check the status and the form of an error, and that it reveals no internals."""
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json) == ["schema", "code", "error", "request_id"]
    assert reply.json["request_id"] == reply.headers["x-request-id"]
    assert (reply.json["schema"], reply.json["code"]) == ("mien-error/1", code)
    assert message in reply.json["error"]
    assert len(reply.json["error"].splitlines()) == 1
    for hidden in (str(ROOT), "Traceback", "site-packages", ".py", ".cpp", "0x7f"):
        assert hidden not in reply.text


def limits(**changed: Any) -> Any:
    from mien.service import Limits

    return Limits(**{"workers": 1, **changed})


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        (b"", PNG, "the image is empty"),
        (form(b"") + END, FORM, "the image is empty"),
        (b"", FORM, "breaks off"),
        (form(picture()), FORM, "breaks off"),
        (WHOLE[:200], FORM, "breaks off"),
        (END, FORM, "send one image"),
        (form(picture(), field="photo") + END, FORM, "unexpected field 'photo'"),
        (form(b"1", field="url", name=None, kind="") + WHOLE, FORM, "unexpected field 'url'"),
        (2 * form(b"1", name=None, kind="") + WHOLE, FORM, "Too many fields"),
        (form(2000 * b"x", name=None, kind="") + WHOLE, FORM, "maximum size"),
        (form(b"photo.jpg", name=None, kind="") + END, FORM, "text and no file: send one image"),
        (form(picture()) + WHOLE, FORM, "Too many files"),
        (picture(), FORM, "cannot be read"),
        (WHOLE, {"Content-Type": "multipart/form-data"}, "Missing boundary"),
        (WHOLE, {"Content-Type": f"multipart/form-data; boundary={'x' * 500}"}, "cannot be read"),
    ],
)
def test_400_malformed(
    service: Service, body: bytes, headers: dict[str, str], message: str
) -> None:
    refused(service.analyze(body, headers), 400, "malformed", message)


def test_400_for_invalid_http(service: Service) -> None:
    head, _, body = service.raw(b"nonsense\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["code"] == "malformed"


def test_a_body_in_invalid_chunks_closes_the_connection(service: Service) -> None:
    start = b"POST /v1/analyze HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    answer = service.raw(start + b"Transfer-Encoding: chunked\r\n\r\nnot a length\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert service.analyze(picture()).status == 200


def test_404_and_405_list_the_alternatives(service: Service) -> None:
    refused(service.ask("/nowhere"), 404, "not_found", "/v1/analyze")
    refused(service.ask("/v1/analyze/"), 404, "not_found", "/v1/analyze")
    reply = service.ask("/v1/analyze")
    refused(reply, 405, "method_not_allowed", "expected POST")
    assert reply.headers["allow"] == "POST"


def test_408_too_slow(tiny_model: Path) -> None:
    with running(loader(tiny_model), limits=limits(upload_seconds=0.2)) as service:
        start = b"POST /v1/analyze HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        head, _, body = service.raw(start + b"Content-Length: 100\r\n\r\nfew").partition(
            b"\r\n\r\n"
        )
        assert service.metric("mien_places_taken") == 0
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["code"] == "too_slow"


# ---------------------------------------------------------------- too large


def test_413_by_the_declared_length(service: Service) -> None:
    start = (
        b"POST /v1/analyze HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nConnection: close\r\n"
    )
    for length in (20_000_001, 10**19):
        answer = service.raw(start + f"Content-Length: {length}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("headers", [PNG, FORM])
def test_413_while_the_body_arrives(tiny_model: Path, headers: dict[str, str]) -> None:
    image = picture()
    whole, room = (image, 0) if headers is PNG else (form(image) + END, 20_000)
    with running(loader(tiny_model), limits=limits(max_bytes=len(image))) as service:
        assert service.analyze(whole, headers).status == 200
        assert service.analyze(iter([whole]), headers).status == 200
        too_long = image + b"x" if headers is PNG else form(image + b"x") + END
        for body in (too_long, iter([too_long]), too_long + room * b"x"):
            reply = service.analyze(body, headers)
            refused(reply, 413, "too_large", f"at most {len(image):,} bytes")


@pytest.mark.parametrize("headers", [PNG, FORM])
def test_no_more_than_the_limit_is_read(headers: dict[str, str]) -> None:
    import asyncio

    from starlette.requests import Request

    from mien.service.errors import ApiError
    from mien.service.uploads import IMAGE, check_headers, read_image

    pieces = iter([form(b"")[:-2]] if headers is FORM else [])
    endless: Iterator[bytes] = itertools.chain(pieces, itertools.repeat(1000 * b"x"))
    taken = 0

    async def receive() -> Any:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": next(endless), "more_body": True}

    kind = headers["Content-Type"].encode()
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind)]}
    request = Request(scope, receive)
    check_headers(request, IMAGE, 5000)
    with pytest.raises(ApiError, match="too large"):
        asyncio.run(read_image(request, max_bytes=5000, timeout_s=10))
    assert taken <= (7 if headers is PNG else 23)  # a form may have 16 KB beside the image


# ---------------------------------------------------------------- types and contents


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "no content type"),
        ({"Content-Type": "application/json"}, "'application/json'"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "multipart/form-data"),
        ({"Content-Type": "application/octet-stream"}, "image/jpeg"),
        ({"Content-Type": "image/svg+xml"}, "'image/svg+xml'"),
        ({"Content-Type": "text/html\u00e4"}, "unknown content type"),
        ({**PNG, "Content-Encoding": "gzip"}, "coded as 'gzip'"),
    ],
)
def test_415_not_an_image_type(service: Service, headers: dict[str, str], message: str) -> None:
    # A body of bytes gets no type of its own from the client.
    reply = service.ask("/v1/analyze", picture(), headers, "POST")
    refused(reply, 415, "unsupported_type", message)


def test_415_for_a_file_of_another_type_in_a_form(service: Service) -> None:
    body = form(b"%PDF", name="a.pdf", kind="application/pdf") + END
    refused(service.analyze(body, FORM), 415, "unsupported_type", "'application/pdf'")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no image", "the file is not an image"), (picture()[:3000], "the file is damaged")],
)
def test_422_undecodable(service: Service, content: bytes, message: str) -> None:
    refused(service.analyze(content), 422, "undecodable", message)
    reply = service.analyze(form(content, name="/etc/secret.png") + END, FORM)
    refused(reply, 422, "undecodable", message)


def test_422_too_many_pixels_for_any_image(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 2000)
    refused(service.analyze(picture()), 422, "undecodable", "60x50 is too large")


def test_422_too_many_pixels_for_the_service(tiny_model: Path, gated: Gated) -> None:
    with running(loader(tiny_model, gated), limits=limits(max_pixels=60 * 50)) as service:
        assert service.analyze(picture()).status == 200
        begun = gated.begun
        reply = service.analyze(picture(size=(60, 51)))
        refused(reply, 422, "undecodable", "0.0 megapixels: expected at most 0.003")
        refused(service.analyze(b"none"), 422, "undecodable", "is not an image")
        assert gated.begun == begun


# ---------------------------------------------------------------- failures


class Astray:
    """A detector with a bug."""

    name = "astray"
    crop_scale = None
    broken = False

    def detect(self, _: Any) -> list[Any]:
        if self.broken:
            raise ZeroDivisionError(f"in {ROOT}")
        return []


def test_500_hides_the_error_and_logs_it(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detector = Astray()
    with running(loader(tiny_model, detector)) as service:
        detector.broken = True
        refused(service.analyze(picture()), 500, "internal", "the service's log says what failed")
        detector.broken = False
        assert service.analyze(picture()).status == 200
        assert service.metric('mien_requests_total{method="POST",path="/v1/analyze",status="500"}')
    (record,) = [each for each in caplog.records if each.name.startswith("mien.")]
    assert "POST /v1/analyze failed: ZeroDivisionError" in record.getMessage()
    assert record.exc_info is not None


def test_500_if_opencv_fails(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    gated = Gated()
    with running(loader(tiny_model, gated)) as service:
        gated.detect = Broken().detect  # type: ignore[assignment, method-assign]
        reply = service.analyze(form(picture(), name="of-me.png") + END, FORM)
        refused(reply, 500, "internal", "internal error")
    assert "a filter failed" in caplog.text
    assert "of-me" not in caplog.text


# ---------------------------------------------------------------- busy, and clients that go away


def test_503_busy(tiny_model: Path, gated: Gated) -> None:
    allowed = limits(workers=1, max_waiting=1)
    with (
        running(loader(tiny_model, gated), limits=allowed) as service,
        ThreadPoolExecutor(2) as clients,
    ):
        gated.gate.clear()
        served = [clients.submit(service.analyze, picture()) for _ in range(2)]
        until(lambda: service.metric("mien_places_taken") == 2)
        reply = service.analyze(picture())
        refused(reply, 503, "busy", "busy: 2 images")
        assert int(reply.headers["retry-after"]) >= 1
        assert service.ask("/readyz").status == 200
        gated.gate.set()
        assert [each.result().status for each in served] == [200, 200]
        assert service.analyze(picture()).status == 200


def send_only(service: Service, length: int, body: bytes) -> socket.socket:
    stream = socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S)
    head = b"POST /v1/analyze HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    stream.sendall(head + f"Content-Length: {length}\r\n\r\n".encode() + body)
    return stream


def test_a_disconnect_during_the_upload_frees_the_slot(tiny_model: Path) -> None:
    with running(loader(tiny_model), limits=limits(max_waiting=0)) as service:
        with send_only(service, 1000, b"few"):
            until(lambda: service.metric("mien_places_taken") == 1)
        until(lambda: service.metric("mien_places_taken") == 0)
        gone = 'mien_requests_total{method="POST",path="/v1/analyze",status="499"}'
        until(lambda: service.metric(gone) == 1)
        assert service.metric("mien_requests_in_flight") == 1  # this one
        assert service.analyze(picture()).status == 200


def test_a_disconnect_while_waiting_drops_the_image(tiny_model: Path, gated: Gated) -> None:
    image = picture()
    with running(loader(tiny_model, gated), limits=limits(max_waiting=1)) as service:
        gated.gate.clear()
        begun = gated.begun
        with send_only(service, len(image), image):
            until(lambda: gated.begun == begun + 1)
            with send_only(service, len(image), image):
                until(lambda: service.metric("mien_places_taken") == 2)
            until(lambda: service.metric("mien_places_taken") == 1)
        # Its thread still works: the first client's place is not free before it is done.
        assert service.analyze(image, {"Content-Type": "text/plain"}).status == 415
        assert service.metric("mien_places_taken") == 1
        gated.gate.set()
        until(lambda: service.metric("mien_places_taken") == 0)
        assert gated.begun == begun + 1


def test_the_shutdown_waits_for_requests_in_flight(tiny_model: Path, gated: Gated) -> None:
    with ThreadPoolExecutor(1) as clients:
        with running(loader(tiny_model, gated)) as service:
            gated.gate.clear()
            begun = gated.begun
            served = clients.submit(service.analyze, picture())
            until(lambda: gated.begun == begun + 1)
            open_at_shutdown(service, gated)
        assert served.result().status == 200


def test_requests_that_outlast_the_shutdown_get_503(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mien.service import server

    monkeypatch.setattr(server, "GRACE_SECONDS", 0.1)
    with running(loader(tiny_model)) as service:
        stream = send_only(service, 1000, b"few")
        until(lambda: service.metric("mien_places_taken") == 1)
    with stream:
        head, _, body = stream.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(body)["code"] == "stopping"
    assert "Traceback" not in caplog.text
