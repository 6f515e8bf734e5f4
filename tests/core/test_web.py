"""Web addresses, and downloads from a server on loopback."""

from __future__ import annotations

import base64
import io
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mien.core import web
from mien.core.errors import InputError
from mien.core.web import (
    fetch_image,
    is_public,
    is_web_address,
    parse_web_address,
    redact_address,
    resolve,
)
from waiting import PATIENCE_S
from web_maker import Answer, Server, certificate, reply, serving


def _png(side: int = 60) -> bytes:
    noise = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


PNG = _png()


@pytest.fixture
def answers() -> dict[str, Answer]:
    return {"/face.png": reply(PNG, "Content-Type: image/png")}


@pytest.fixture
def server(answers: dict[str, Answer]) -> Iterator[Server]:
    with serving(answers) as running:
        yield running


def _refusal(url: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        fetch_image(url, **{"allow_private": True, **options})
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- which hosts
@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
     "0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1",
     "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::",
     "64:ff9b::a00:1", "2001:db8::1"],
)  # fmt: skip
def test_private_addresses(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_embedded_ipv4_address_decides(address: ipaddress.IPv4Address) -> None:
    for prefix in (0xFFFF << 32, 0x64FF9B << 96):
        assert is_public(ipaddress.IPv6Address(prefix | int(address))) == is_public(address)


def test_every_address_of_a_host_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(0, 0, 0, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1", "8.8.8.8")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)
    address = parse_web_address("http://example.org/")
    with pytest.raises(InputError, match=r"10\.0\.0\.1.*--allow-private"):
        resolve(address, allow_private=False)
    assert list(map(str, resolve(address, allow_private=True))) == ["8.8.8.8", "10.0.0.1"]


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost"])
def test_disguised_loopback_is_rejected(host: str) -> None:
    with pytest.raises(InputError):
        resolve(parse_web_address(f"http://{host}/"), allow_private=False)


def test_forbidden_hosts_are_not_contacted(server: Server) -> None:
    assert "--allow-private" in _refusal(server.url(), allow_private=False)
    assert "offline" in _refusal(server.url(), offline=True)
    assert not server.requests


def test_connects_to_the_checked_address(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = []

    def rebinding(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        hosts.append(host)
        again = hosts.count("faces.example") > 1
        address = "127.0.0.99" if again else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert fetch_image(server.url(host="faces.example"), allow_private=True) == PNG
    # Connecting looks the number up, not the name.
    assert hosts[0] == "faces.example"
    assert "faces.example" not in hosts[1:]
    assert f"Host: faces.example:{server.port}\r\n".encode() in server.requests[0]


# ---------------------------------------------------------------- redirects
def test_logins_stay_with_their_host_and_out_of_messages(
    server: Server, answers: dict[str, Answer]
) -> None:
    with serving(answers) as other:
        answers["/away"] = reply(b"", f"Location: {other.url()}", status="302 Found")
        answers["/here"] = reply(b"", "Location: /face.png", status="307 Temporary Redirect")
        login = base64.b64encode(b"me:hunter2")
        for path in ("/face.png", "/here", "/away"):
            url = server.url(path, login="me:hunter2@")
            assert fetch_image(url, allow_private=True) == PNG
        assert all(login in request for request in server.requests)
        assert len(other.requests) == 1
        assert b"Authorization" not in other.requests[0]
    assert "hunter2" not in _refusal(server.url("/none", login="me:hunter2@"))


def test_each_step_of_a_redirect_is_checked(
    server: Server, answers: dict[str, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers["/away"] = reply(b"", "Location: http://10.0.0.7/face.png", status="301 Moved")
    # This server alone counts as public.
    monkeypatch.setattr(web, "is_public", lambda address: str(address) == "127.0.0.1")
    assert fetch_image(server.url()) == PNG
    assert "10.0.0.7" in _refusal(server.url("/away"), allow_private=False)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://h/a", "http://h:x/", "http://["])
def test_redirects_lead_to_http_alone(
    server: Server, answers: dict[str, Answer], target: str
) -> None:
    answers["/away"] = reply(b"", f"Location: {target}", status="302 Found")
    assert "invalid redirect" in _refusal(server.url("/away"))


def test_redirects_end(server: Server, answers: dict[str, Answer]) -> None:
    answers["/loop"] = reply(b"", "Location: /loop", status="302 Found")
    assert "more than 5 times" in _refusal(server.url("/loop"))
    assert len(server.requests) == 6
    answers["/nowhere"] = reply(b"", status="302 Found")
    assert "without a location" in _refusal(server.url("/nowhere"))


# ---------------------------------------------------------------- how much, and how long
def test_sizes_are_bounded(server: Server, answers: dict[str, Answer]) -> None:
    sent = []

    def endless(_: bytes, stream: socket.socket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + PNG)
        while True:
            sent.append(stream.send(bytes(10_000)))

    answers["/big"] = reply(PNG, length=30_000_000)
    answers["/endless"] = endless
    assert "at most 20 MB, got 30.0" in _refusal(server.url("/big"))
    assert "at most 0.1 MB" in _refusal(server.url("/endless"), max_bytes=100_000)
    assert sum(sent) < 20_000_000
    assert fetch_image(server.url(), allow_private=True, max_bytes=len(PNG)) == PNG


@pytest.mark.parametrize("part", ["head", "body", "endless body", "nothing"])
def test_timeout_covers_slow_and_silent_servers(
    server: Server, answers: dict[str, Answer], part: str
) -> None:
    head = b"HTTP/1.1 200 OK\r\n"
    start = {
        "head": head + b"X-Slow: ",
        "body": head + b"Content-Length: 9999\r\n\r\n" + PNG[:20],
        "endless body": head + b"\r\n" + PNG[:20],
        "nothing": b"",
    }[part]

    over = threading.Event()

    def drip(_: bytes, stream: socket.socket) -> None:
        stream.sendall(start)
        for _drop in range(50 * PATIENCE_S):
            if over.wait(0.02):
                break
            stream.sendall(b"a" if start else b"")

    answers["/drip"] = drip
    assert "no image within 0.3 seconds" in _refusal(server.url("/drip"), timeout_s=0.3)
    over.set()


# ---------------------------------------------------------------- what comes
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (reply(b"<html>", "Content-Type: text/html; charset=utf-8"), "is text/html"),
        (reply(PNG, "Content-Type: video/mp4"), "is video/mp4"),
        (reply(b"<html>" * 9, "Content-Type: image/png"), "first bytes"),
        (reply(b""), "sent nothing"),
        (reply(PNG, "Content-Encoding: gzip"), "compressed"),
        (reply(PNG, status="404 Surprise\x1b[31m"), "answered 404 (Not Found)"),
        (reply(PNG, status="799 Odd"), "answered 799"),
        (reply(PNG[:-9], length=len(PNG)), "is incomplete"),
        (lambda _, stream: stream.sendall(b"SSH-2.0-OpenSSH\r\n"), "cannot be read"),
        (lambda *_: None, "cannot be read"),
        (
            lambda _, stream: stream.sendall(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + PNG
            ),
            "cannot be read",
        ),
    ],
)
def test_other_content_is_a_one_line_error(
    server: Server, answers: dict[str, Answer], answer: Answer, expected: str
) -> None:
    answers["/odd"] = answer
    message = _refusal(server.url("/odd"))
    assert expected in message
    assert "\x1b" not in message


def test_connection_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    assert "refused" in _refusal(f"http://127.0.0.1:{port}/a.png")


def test_chunked_transfer(server: Server, answers: dict[str, Answer]) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (PNG[:5], PNG[5:]))
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answers["/chunks"] = lambda _, stream: stream.sendall(head + chunks + b"0\r\n\r\n")
    assert fetch_image(server.url("/chunks"), allow_private=True) == PNG


def test_certificates_are_checked(
    tmp_path: Path, answers: dict[str, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = certificate(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with serving(answers, context) as server:
        assert "no secure connection" in _refusal(server.url(host="localhost"))
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        assert fetch_image(server.url(host="localhost"), allow_private=True) == PNG
        # The same certificate under another name.
        assert "no secure connection" in _refusal(server.url(host="127.0.0.1"))
        assert len(server.requests) == 1
    with serving(answers) as plain:
        assert "no secure connection" in _refusal(plain.url().replace("http:", "https:"))


# ---------------------------------------------------------------- addresses
def test_parses_an_address() -> None:
    found = parse_web_address("https://me:p%40ss@Example.org:8443/a b/ü.jpg?x=1&y=é#part")
    assert (found.scheme, found.host, found.port) == ("https", "example.org", 8443)
    assert found.target == "/a%20b/%C3%BC.jpg?x=1&y=%C3%A9"
    assert found.login == ("me", "p@ss")
    assert parse_web_address("http://example.org").target == "/"
    assert parse_web_address("http://example.org").port == 80
    assert parse_web_address("https://bücher.example/").host == "xn--bcher-kva.example"
    assert parse_web_address("http://[::1]:8000/a").netloc == "[::1]:8000"


def test_percent_encoding_is_kept() -> None:
    assert parse_web_address("http://h/a%20b?c=%2F").target == "/a%20b?c=%2F"


def test_header_injection_is_escaped() -> None:
    found = parse_web_address("http://h/a\r\nX-Evil: 1/\x00\x1b")
    assert not set(found.target) & set("\r\n\x00\x1b ")


@pytest.mark.parametrize(
    "url",
    ["ftp://h/a", "file:///etc/passwd", "gopher://h", "http://", "http:///a", "a.jpg",
     "http://h:port/a", "http://h:99999/", "http://[::1/a", "http://h<b>/"],
)  # fmt: skip
def test_invalid_addresses_are_rejected(url: str) -> None:
    with pytest.raises(InputError):
        parse_web_address(url)


@pytest.mark.parametrize(
    "url",
    ["http://me:hunter2@h:port/a", "http://me:hunter2@[::1/a", "https://me:hunter2@h/a",
     "rtsp://me:hunter2@camera/1", "http://h/a?token=hunter2&x=1", "https://h/?X-Amz-Signature=hunter2",
     "http://h/?api_key=hunter2", "HTTP://me:hunter2@h/"],
)  # fmt: skip
def test_secrets_are_never_shown(url: str) -> None:
    assert "hunter2" not in redact_address(url)
    with suppress(InputError):
        assert "hunter2" not in parse_web_address(url).redacted


@pytest.mark.parametrize("url", ["http://me:hunter2@h:port/a", "http://me:hunter2@[::1/a"])
def test_invalid_addresses_are_not_quoted(url: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_web_address(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_other_texts_are_unchanged() -> None:
    for word in ("photos/a.jpg", "-", "a@b.jpg", "https://h/a.jpg?size=3&name=a+b"):
        assert redact_address(word) == word
    assert redact_address("http://h/?token=a&size=3") == "http://h/?token=***&size=3"
    assert is_web_address("HTTPS://h/a")
    assert not is_web_address("https.jpg")
