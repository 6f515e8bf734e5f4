"""Videos of http(s) that break off or never end, and people who end the waiting."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from mien.video import opening
from mien.video.live import LiveStream, connected, stream_frames
from mien.video.reading import read_video
from web_maker import Answer, Server, ranged, reply
from web_video_maker import playlist_of, refusal_of, url_of

pytest.importorskip("av")


# ---------------------------------------------------------------- what breaks off, or never ends
def _refused_by(server: Server, answers: dict[str, Answer], answer: Answer) -> str:
    answers["/odd.ts"] = answer
    began = time.monotonic()
    message = refusal_of(url_of(server, "/odd.ts"))
    assert time.monotonic() - began < 5
    return message


def test_what_breaks_off_is_cut_and_says_so(
    server: Server, answers: dict[str, Answer], segments: dict[str, bytes]
) -> None:
    content = segments["/s0.ts"]
    cut = reply(content[: len(content) // 2], length=len(content))
    assert f"of {len(content)} bytes" in _refused_by(server, answers, cut)
    assert "404 (Not Found)" in refusal_of(url_of(server, "/none.ts"))
    packed = reply(content, "Content-Encoding: gzip")
    assert "packs the video" in _refused_by(server, answers, packed)


def test_a_segment_that_is_missing_is_left_out_and_said(
    server: Server, answers: dict[str, Answer]
) -> None:
    answers["/list.m3u8"] = playlist_of("s0.ts", "none.ts", "s1.ts")
    assert "read 56 frames" in (message := refusal_of(url_of(server, "/list.m3u8")))
    assert "404 (Not Found)" in message


@pytest.mark.parametrize("start", [0, 20_000])
def test_what_drips_ends_with_the_time(
    server: Server,
    answers: dict[str, Answer],
    segments: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    start: int,
) -> None:
    monkeypatch.setattr(opening, "OPEN_TIMEOUT_S", 0.5)
    monkeypatch.setattr(opening, "READ_TIMEOUT_S", 0.5)
    content = b"".join(segments[f"/s{number}.ts"] for number in range(4))

    def drip(_: bytes, stream: socket.socket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + content[:start])
        for byte in content[start:]:
            stream.sendall(bytes([byte]))
            time.sleep(0.02)

    message = _refused_by(server, answers, drip)
    assert "no video came within 0.5 s" in message or "nothing came for 0.5 s" in message


def test_a_file_that_changes_meanwhile_is_refused(
    server: Server, answers: dict[str, Answer], film: bytes
) -> None:
    def changing(request: bytes, stream: socket.socket) -> None:
        content = film + bytes(len(server.requests))
        ranged(content, most=len(film) // 3)(request, stream)

    answers["/film.mp4"] = changing
    assert "changed while it was read" in refusal_of(url_of(server, "/film.mp4"))


@pytest.mark.parametrize(
    "read",
    [
        lambda url: list(read_video(url)),
        lambda url: list(stream_frames(LiveStream(url))),
        connected,
    ],
    ids=["file", "stream", "opening"],
)
def test_ctrl_c_ends_the_waiting_at_once(
    server: Server,
    answers: dict[str, Answer],
    segments: dict[str, bytes],
    read: Callable[[str], Any],
) -> None:
    content = b"" if read is connected else segments["/s0.ts"] + segments["/s1.ts"]
    ended = threading.Event()

    def silent(_: bytes, stream: socket.socket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + content)
        ended.wait(5)

    answers["/silent.ts"] = silent
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        read(url_of(server, "/silent.ts"))
    assert time.monotonic() - began < 3
    ended.set()
    timer.join()
