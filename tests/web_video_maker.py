"""Videos as a test's own server gives them (`public_web` makes it a public one)."""

from __future__ import annotations

import pytest

from mien.core.errors import InputError
from mien.video.reading import read_video
from video_maker import number_in
from web_maker import Answer, Server, reply


def url_of(server: Server, path: str) -> str:
    return server.url(path, host="films.example")


def numbers_of(url: str) -> list[int]:
    return [number_in(frame.pixels) for frame in read_video(url)]


def playlist_of(*entries: str) -> Answer:
    lines = ["#EXTM3U", "#EXT-X-VERSION:4", "#EXT-X-TARGETDURATION:2"]
    for entry in entries:
        lines += ["#EXTINF:1.0,", *entry.split("\n")]
    return reply("\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode())


def refusal_of(url: str) -> str:
    with pytest.raises(InputError) as caught:
        numbers_of(url)
    message = str(caught.value)
    assert "\n" not in message
    return message
