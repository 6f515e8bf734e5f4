"""Strict HTTP: ambiguous requests are refused, and no header is slow to parse."""

from __future__ import annotations

import json
import socket
import time

import pytest

from service_maker import END, FORM, Service, form, picture
from waiting import PATIENCE_S

pytest.importorskip("fastapi")

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/analyze HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
BODY = b"\r\n1\r\nx\r\n0\r\n\r\n"
NEXT = GET + b"Connection: close\r\n\r\n"
"""Smuggled behind a request, or a second one."""


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n" + BODY,
        CHUNKED + b"Content-Length: 1\r\n" + BODY,
        POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        POST + b"Content-Length: 1, 1\r\n\r\nx",
        POST + b"Content-Length: +1\r\n\r\nx",
        POST + b"Content-Length: 1_0\r\n\r\nx",
        POST + b"Content-Length: -1\r\n\r\nx",
        POST + b"Content-Length:\r\n\r\nx",
        POST + b"Content-Type: image/jpeg\r\nContent-Length: 1\r\n\r\nx",
        POST + b"Transfer-Encoding: gzip, chunked\r\n" + BODY,
        POST + b"Transfer-Encoding: identity\r\n" + BODY,
        POST + b"Transfer-Encoding: xchunked\r\n" + BODY,
        CHUNKED + b"Transfer-Encoding: chunked\r\n" + BODY,
        POST + b"Transfer-Encoding : chunked\r\n" + BODY,
        CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + BODY,
        CHUNKED + b"\r\n0x1\r\nx\r\n0\r\n\r\n",
        CHUNKED + b"\r\n1\nx\r\n0\r\n\r\n",
        CHUNKED + b"\r\n1;a\rb\r\nx\r\n0\r\n\r\n",
        CHUNKED + b"\r\n1;" + 300 * b"a" + b"\r\nx\r\n0\r\n\r\n",
        CHUNKED + b"\r\n1\r\nx\r\n0\r\nContent-Length: 1\r\n\r\n",
        CHUNKED + b"\r\n1\r\nxy\r\n0\r\n\r\n",
        GET + b"X: a\r\n b\r\n\r\n",
        GET + b"X: a\rb\r\n\r\n",
        GET + b"X: a\0b\r\n\r\n",
        GET + b"X: a\x0bb\r\n\r\n",
        GET + b"X : a\r\n\r\n",
        GET + b"no colon\r\n\r\n",
        GET + b"Host: y\r\n\r\n",
        GET.replace(b"Host: x\r\n", b"") + b"\r\n",
        GET.replace(b"\r\n", b"\n") + b"\n",
        GET.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n",
        GET.replace(b" HTTP/1.1", b"") + b"\r\n",
        GET.replace(b"GET ", b"GET  ") + b"\r\n",
        b" " + GET + b"\r\n",
    ],
)
def test_400_once_and_the_connection_is_closed(service: Service, request_bytes: bytes) -> None:
    answer = service.raw(request_bytes + NEXT)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in head
    assert json.loads(body)["code"] == "malformed"
    assert answer.count(b"HTTP/1.1") == 1 + body.count(b"HTTP/1.1")


def test_requests_may_arrive_byte_by_byte(service: Service) -> None:
    for request_bytes, status in ((GET + b"\r\n", 200), (GET + b"X: a\r\n b\r\n\r\n", 400)):
        with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as stream:
            for at in range(len(request_bytes)):
                try:
                    stream.sendall(request_bytes[at : at + 1])
                except OSError:  # refused before its end
                    break
                time.sleep(0.001)
            assert stream.recv(100).startswith(b"HTTP/1.1 %d " % status)


def test_pipelined_requests_are_all_checked(service: Service) -> None:
    answer = service.raw(3 * (GET + b"\r\n") + GET + b"X: a\r\n b\r\n\r\n" + NEXT)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.count(b"HTTP/1.1 400") == 1
    chunked = CHUNKED.replace(b"image/png", b"text/plain") + b"\r\n1;a=b\r\nx\r\n0\r\n\r\n"
    assert service.raw(chunked + NEXT).count(b"HTTP/1.1") == 2


@pytest.mark.parametrize("target", [b"http://x:80/healthz", b"HTTPS://x/healthz?a=http://y/"])
def test_absolute_targets_are_accepted(service: Service, target: bytes) -> None:
    request_bytes = NEXT.replace(b"/healthz", target)
    assert service.raw(request_bytes).startswith(b"HTTP/1.1 200 ")
    assert b"<html" in service.raw(NEXT.replace(b"/healthz", b"http://x"))


@pytest.mark.parametrize("size", [17_000, 70_000])
def test_431_headers_that_are_too_large(service: Service, size: int) -> None:
    for header in (b"X: " + size * b"x" + b"\r\n", size // 4 * b"a:\r\n"):
        answer = service.raw(GET + header + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
        assert b'"code": "headers_too_large"' in answer
    assert service.raw(GET + 15_000 * b"x" + b": y\r\nConnection: close\r\n\r\n")[9:12] == b"200"


# ---------------------------------------------------------------- time

LONG = 15_500


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (GET + b"Connection: close\r\nCookie: a=" + b'"' + LONG * b"\\" + b'"\r\n\r\n', 200),
        (GET + b"Connection: close" + LONG * b"," + b"\r\n\r\n", 200),
        (GET + b"X:" + LONG * b" " + b"\0\r\n\r\n", 400),
        (GET + b"X:" + LONG * b" \t" + b"\r\n\r\n", 431),
        (CHUNKED + BODY[:-2] + b"X:" + LONG * b" " + b"\0\r\n\r\n", 400),
        (POST[:-2] + LONG * b";" + b"\r\nConnection: close\r\n\r\n", 415),
        (POST[:-2] + 80_000 * b";" + b"\r\nConnection: close\r\n\r\n", 431),
        (CHUNKED + b"\r\n" + 40_000 * b"1\r\nx\r\n", 400),
    ],
    ids=range(8),
)
def test_no_header_blocks_others(service: Service, request_bytes: bytes, status: int) -> None:
    # What they took before was from half a second to a minute, and nobody else was served. The
    # processor's time does not depend on what else the machine does.
    start = time.process_time()
    answer = service.raw(request_bytes)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert time.process_time() - start < 2


def test_no_header_of_a_form_is_slow_to_parse(service: Service) -> None:
    for much in (4000 * b";", 4000 * b'\\"', 100_000 * b"x"):
        whole = form(picture()).replace(b"Content-Type", b"X: " + much + b"\r\nContent-Type")
        start = time.process_time()
        reply = service.analyze(whole + END, FORM)
        assert time.process_time() - start < 5
        assert reply.status == (200 if len(much) < 4096 else 400)
