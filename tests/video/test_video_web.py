"""Videos at http(s) addresses without allow_private, from a server on loopback."""

from __future__ import annotations

import io
import ssl
import time
from pathlib import Path

import pytest

from mien.core.errors import InputError, PrivateAddressError
from mien.video import reader
from mien.video.live import connect
from mien.video.reader import check_web_video, open_video, probe, read_video
from video_maker import even_times, number_in, write_video
from waiting import PATIENCE_S
from web_maker import Answer, Server, certificate, reply, serving

av = pytest.importorskip("av")


def _numbers_of(url: str) -> list[int]:
    return [number_in(frame.pixels) for frame in read_video(url)]


def _refusal_of(url: str) -> str:
    with pytest.raises(InputError) as caught:
        _numbers_of(url)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_video_of_a_public_host_is_read(server: Server, answers: dict[str, Answer]) -> None:
    answers["/led"] = reply(b"", "Location: /film.mp4", status="302 Found")
    for path in ("/film.mp4", "/led"):
        url = server.url(path, host="localhost")
        assert connect(url) is None
        assert probe(url).frames == 50
        assert probe(url).has_sound
        assert _numbers_of(url) == [number % 40 for number in range(50)]
    assert all(b"Host: localhost" in request for request in server.requests)


def test_proxies_from_the_environment_are_ignored(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert len(_numbers_of(server.url("/film.mp4", host="localhost"))) == 50


def test_a_server_without_ranges_is_supported(server: Server, answers: dict[str, Answer]) -> None:
    content = io.BytesIO()
    write_video(content, even_times(30), form="matroska")
    answers["/film.mkv"] = reply(content.getvalue())
    assert len(_numbers_of(server.url("/film.mkv"))) == 30


def test_credentials_are_sent_but_never_shown(server: Server) -> None:
    assert len(_numbers_of(server.url("/film.mp4", login="me:hunter2@"))) == 50
    assert all(b"Authorization: Basic" in request for request in server.requests)
    assert "hunter2" not in _refusal_of(server.url("/none.mp4", login="me:hunter2@"))


def test_ffmpeg_checks_the_certificate_too(
    answers: dict[str, Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, public_web: None
) -> None:
    path = certificate(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with serving(answers, context) as server:
        url = server.url("/film.mp4", host="localhost")
        assert "no secure connection" in _refusal_of(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        assert len(_numbers_of(url)) == 50
        checked, options = check_web_video(url)
        with pytest.raises(OSError, match=r"Input/output|certificate"):  # of another host
            av.open(checked.replace("localhost", "127.0.0.1"), options=options)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"#EXTM3U\n#EXTINF:1,\nhttp://10.0.0.7/s.ts\n", "refers to other files"),
        (b"ffconcat version 1.0\nfile 'http://10.0.0.7/a.mp4'\n", "refers to other files"),
        (
            b"v=0\no=- 0 0 IN IP4 10.0.0.7\ns=x\nc=IN IP4 10.0.0.7\nt=0 0\n"
            b"m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
            "refers to other files",
        ),
        (b"<html>", "not a video"),
        (b"", ""),
    ],
)
def test_other_content_is_refused_in_one_line(
    server: Server, answers: dict[str, Answer], content: bytes, reason: str
) -> None:
    answers["/odd"] = reply(content)
    assert reason in _refusal_of(server.url("/odd"))
    assert "404 (Not Found)" in _refusal_of(server.url("/none.ts"))


def test_private_hosts_are_not_requested(server: Server, answers: dict[str, Answer]) -> None:
    answers["/away.mp4"] = reply(b"", "Location: http://10.0.0.7/a.mp4", status="302 Found")
    for url in ("http://10.0.0.7/a.mp4", server.url("/away.mp4")):
        with pytest.raises(PrivateAddressError, match=r"10\.0\.0\.7 is not on the public internet"):
            list(read_video(url))


def test_a_redirect_after_the_check_is_not_followed(
    server: Server, answers: dict[str, Answer], film: bytes
) -> None:
    with serving(answers) as other:

        def turning(request: bytes, stream: object) -> None:
            first = len(server.requests) == 1
            turned = reply(b"", f"Location: {other.url('/film.mp4')}", status="302 Found")
            (reply(film) if first else turned)(request, stream)  # type: ignore[arg-type]

        answers["/turns.mp4"] = turning
        assert "cannot be opened" in _refusal_of(server.url("/turns.mp4"))
        assert not other.requests


@pytest.mark.parametrize("start", [0, 20_000])
def test_slow_transfers_time_out(
    server: Server,
    answers: dict[str, Answer],
    stream_bytes: bytes,
    monkeypatch: pytest.MonkeyPatch,
    start: int,
) -> None:
    monkeypatch.setattr(reader, "OPEN_TIMEOUT_S", 0.5)
    monkeypatch.setattr(reader, "READ_TIMEOUT_S", 0.5)

    def drip(_: bytes, stream: object) -> None:
        send = stream.sendall  # type: ignore[attr-defined]
        send(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + stream_bytes[:start])
        for byte in stream_bytes[start:][: 100 * PATIENCE_S]:
            send(bytes([byte]))
            time.sleep(0.02)

    answers["/odd.ts"] = drip
    began = time.monotonic()
    message = _refusal_of(server.url("/odd.ts"))
    assert time.monotonic() - began < PATIENCE_S  # less than it would take
    assert "no video" in message or "no data for 0.5 s" in message


def test_wrapping_protocols_are_treated_as_files(server: Server) -> None:
    for word in ("cache:{}", "concat:{}", "crypto+{}", "subfile,,start,0,end,9,,:{}"):
        with (
            pytest.raises(InputError, match="no such file"),
            open_video(word.format(server.url("/film.mp4"))),
        ):
            pass
    assert not server.requests
