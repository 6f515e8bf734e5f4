"""Videos of http(s) whose hosts nobody vouches for, by way of a server on loopback."""

from __future__ import annotations

import io
import socket
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.core.errors import InputError
from mien.video import playlists
from mien.video.frames import BrokenVideo
from mien.video.live import LiveStream, connected, stream_frames
from mien.video.opening import opened
from mien.video.reading import probe, read_video
from mien.video.times import Window
from video_maker import even_times, write_video
from web_maker import Answer, Server, ranged, reply
from web_video_maker import numbers_of, playlist_of, refusal_of, url_of

pytest.importorskip("av")


# ---------------------------------------------------------------- what is read
def test_a_film_of_a_public_host_is_read(server: Server) -> None:
    url = url_of(server, "/film.mp4")
    assert connected(url) is None
    assert probe(url).frames == 50
    assert probe(url).has_sound
    assert numbers_of(url) == [number % 40 for number in range(50)]


def test_a_film_comes_whole_from_a_server_that_gives_parts(
    server: Server, answers: dict[str, Answer], film: bytes
) -> None:
    answers["/film.mp4"] = ranged(film, most=5000)
    assert len(numbers_of(url_of(server, "/film.mp4"))) == 50
    assert len(server.requests) > len(film) // 5000


def test_a_film_goes_on_where_the_server_ended_it(
    server: Server, answers: dict[str, Answer], film: bytes
) -> None:
    def ending(request: bytes, stream: socket.socket) -> None:
        held: Any = _Holding()
        ranged(film)(request, held)
        head, _, body = held.content.partition(b"\r\n\r\n")
        stream.sendall(head + b"\r\n\r\n" + body[:9000])

    answers["/film.mp4"] = ending
    assert len(numbers_of(url_of(server, "/film.mp4"))) == 50
    assert len(server.requests) > len(film) // 9000


def test_without_ranges_a_film_is_read_as_it_comes(
    server: Server, answers: dict[str, Answer]
) -> None:
    content = io.BytesIO()
    write_video(content, even_times(30), form="matroska")
    answers["/film.mkv"] = reply(content.getvalue())
    assert connected(url_of(server, "/film.mkv")) is None
    assert len(numbers_of(url_of(server, "/film.mkv"))) == 30


class _Holding:
    """Keeps what would be sent."""

    content = b""

    def sendall(self, content: bytes) -> None:
        self.content += content


class _Counting:
    """Sends slowly enough to notice that nobody wants it, and counts what was taken."""

    def __init__(self, stream: socket.socket, taken: list[int]) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        self._stream, self._taken = stream, taken

    def sendall(self, content: bytes) -> None:
        for place in range(0, len(content), 16_384):
            self._stream.sendall(content[place : place + 16_384])
            self._taken.append(16_384)


def test_a_start_does_not_download_what_lies_before_it(
    server: Server, answers: dict[str, Answer]
) -> None:
    content, taken = io.BytesIO(), list[int]()
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    write_video(
        content, even_times(100), form="mp4", draw=lambda number: np.roll(noise, 7 * number)
    )
    answer: Any = ranged(content.getvalue())
    answers["/film.mp4"] = lambda request, stream: answer(request, _Counting(stream, taken))
    times = [frame.time_s for frame in read_video(url_of(server, "/film.mp4"), Window(3.8))]
    assert times == pytest.approx([3.8 + 0.04 * number for number in range(5)])
    # The header lies at the end; the buffers of three connections were filled.
    assert len(content.getvalue()) > 6_000_000
    assert sum(taken) < len(content.getvalue()) / 2


def test_a_playlist_of_a_public_host_is_read(server: Server) -> None:
    url = url_of(server, "/live.m3u8")
    assert connected(url) is None
    assert len(numbers_of(url)) == 100
    assert all(b"Host: films.example" in request for request in server.requests)


def test_a_playlist_is_known_by_its_content_and_its_entries_by_where_it_lies(
    server: Server, answers: dict[str, Answer]
) -> None:
    answers["/deep/list"] = playlist_of("../s0.ts", "/s1.ts")
    answers["/led"] = reply(b"", "Location: /deep/list", status="302 Found")
    answers["/main"] = reply(b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\nled\n")
    assert len(numbers_of(url_of(server, "/main"))) == 56


def test_segments_may_be_parts_of_one_file(
    server: Server, answers: dict[str, Answer], segments: dict[str, bytes]
) -> None:
    first, second = segments["/s0.ts"], segments["/s1.ts"]
    answers["/all.ts"] = ranged(b"before" * 50 + first + second)
    answers["/parts.m3u8"] = playlist_of(
        f"#EXT-X-BYTERANGE:{len(first)}@300\nall.ts",
        f"#EXT-X-BYTERANGE:{len(second)}@{300 + len(first)}\nall.ts",
    )
    assert len(numbers_of(url_of(server, "/parts.m3u8"))) == 56
    answers["/all.ts"] = reply(b"before" * 50 + first + second)  # a server that knows no parts
    assert len(numbers_of(url_of(server, "/parts.m3u8"))) == 56


def test_a_playlist_that_grows_is_a_stream(server: Server, answers: dict[str, Answer]) -> None:
    asked = []

    def growing(request: bytes, stream: socket.socket) -> None:
        asked.append(request)
        count = min(1 + len(asked), 4)
        entries = "".join(f"#EXTINF:0.9,\ns{number}.ts\n" for number in range(count))
        reply(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{entries}".encode())(request, stream)

    answers["/grows.m3u8"] = growing
    stream = connected(url_of(server, "/grows.m3u8"))
    assert isinstance(stream, LiveStream)
    with closing(stream_frames(stream, Window(0.0, 3.0))) as frames:
        assert len(list(frames)) == 75
    assert len(asked) >= 2


def test_a_login_is_sent_to_its_host_and_shown_nowhere(
    server: Server, answers: dict[str, Answer]
) -> None:
    url = server.url("/live.m3u8", host="films.example", login="me:hunter2@")
    assert len(numbers_of(url)) == 100
    assert all(b"Authorization: Basic" in request for request in server.requests)
    answers["/s2.ts"] = reply(b"", status="500 Oops")
    assert "hunter2" not in refusal_of(url)


# ---------------------------------------------------------------- what is refused
@pytest.mark.parametrize("target", ["http://inside.example/a.mp4", "http://10.0.0.7/a.mp4"])
def test_a_redirect_to_a_private_host_is_refused(
    server: Server, answers: dict[str, Answer], target: str
) -> None:
    answers["/away.mp4"] = reply(b"", f"Location: {target}", status="302 Found")
    assert "10.0.0.7" in refusal_of(url_of(server, "/away.mp4"))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("http://inside.example/s.ts", r"inside.example (10.0.0.7) is not on the open internet"),
        ("led.ts", "10.0.0.7 is not on the open internet"),
        ('#EXT-X-KEY:METHOD=SAMPLE-AES,URI="http://10.0.0.7/k"\ns0.ts', "10.0.0.7 is not on"),
        ('#EXT-X-MAP:URI="http://10.0.0.7/i.mp4"\ns0.ts', "10.0.0.7 is not on"),
        ("file:///etc/passwd.ts", "names file: expected http or https alone"),
        ("rtsp://10.0.0.7/s.ts", "names rtsp: expected http or https alone"),
    ],
)
def test_a_playlist_that_leads_to_what_is_private_is_refused(
    server: Server, answers: dict[str, Answer], entry: str, said: str
) -> None:
    answers["/led.ts"] = reply(b"", "Location: http://10.0.0.7/s.ts", status="302 Found")
    answers["/list.m3u8"] = playlist_of(entry)
    answers["/main.m3u8"] = reply(b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\nlist.m3u8\n")
    assert said in refusal_of(url_of(server, "/list.m3u8"))
    assert said in refusal_of(url_of(server, "/main.m3u8"))


def test_a_later_segment_on_a_private_host_ends_the_video_there(
    server: Server, answers: dict[str, Answer]
) -> None:
    answers["/list.m3u8"] = playlist_of("s0.ts", "http://inside.example/s.ts", "s1.ts")
    frames = read_video(url_of(server, "/list.m3u8"))
    seen = list(islice(frames, 20))
    with pytest.raises(BrokenVideo, match=r"10\.0\.0\.7\) is not on the open internet"):
        seen.extend(frames)
    assert len(seen) >= 20


def test_a_stream_that_leads_to_a_private_host_is_not_tried_again(
    server: Server, answers: dict[str, Answer]
) -> None:
    entries = b"#EXTINF:0.9,\ns0.ts\n#EXTINF:0.9,\ns1.ts\n#EXTINF:0.9,\nhttp://10.0.0.7/s.ts\n"
    answers["/live"] = reply(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n" + entries)
    slept: list[float] = []
    with pytest.raises(BrokenVideo, match="not on the open internet"):
        list(stream_frames(LiveStream(url_of(server, "/live")), sleep=slept.append))
    assert not slept


def test_names_are_looked_up_for_every_connection(
    server: Server, answers: dict[str, Answer], public_web: dict[str, str]
) -> None:
    def answer(request: bytes, stream: socket.socket) -> None:
        public_web["films.example"] = "10.0.0.7"
        answers["/s0.ts"](request, stream)

    answers["/moves.ts"] = answer
    answers["/list.m3u8"] = playlist_of("moves.ts", "s1.ts")
    assert "films.example (10.0.0.7)" in refusal_of(url_of(server, "/list.m3u8"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"ffconcat version 1.0\nfile 'http://10.0.0.7/a.mp4'\n", "may lead on to other files"),
        (
            b"v=0\no=- 0 0 IN IP4 10.0.0.7\ns=x\nc=IN IP4 10.0.0.7\nt=0 0\n"
            b"m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
            "may lead on to other files",
        ),
        (b'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="k"\n#EXTINF:1,\ns0.ts\n', "AES-128"),
        (b"#EXTM3U\n\xff\xfe.ts\n", "expected UTF-8"),
        (b"<html>", "not a video"),
        (b"", ""),
    ],
)
def test_what_is_no_video_is_refused_in_a_line(
    server: Server, answers: dict[str, Answer], content: bytes, said: str
) -> None:
    answers["/odd"] = reply(content)
    assert said in refusal_of(url_of(server, "/odd"))


def test_playlists_are_bounded(
    server: Server, answers: dict[str, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mien.video.web_files.MAX_BYTES", 1000)
    assert playlists.MAX_BYTES > 1000
    answers["/long.m3u8"] = playlist_of(*["s0.ts"] * 100)
    assert "at most 0.001 MB" in refusal_of(url_of(server, "/long.m3u8"))


def test_words_that_wrap_an_address_are_files(tmp_path: Path, server: Server) -> None:
    for word in ("cache:{}", "concat:{}", "crypto+{}", "subfile,,start,0,end,9,,:{}"):
        with (
            pytest.raises(InputError, match="no such file"),
            opened(word.format(url_of(server, "/film.mp4"))),
        ):
            pass
    assert not server.requests
