from __future__ import annotations

import pytest

from mien.core.errors import InputError
from mien.core.web_address import BarredAddress, parse_web_address
from mien.video.playlists import checked_playlist

HERE = parse_web_address("https://me:pass@films.example/a/live.m3u8?token=x")


def _checked(*lines: str) -> list[str]:
    return checked_playlist("\n".join(lines).encode(), HERE).decode().split("\n")


def test_entries_become_addresses_in_full() -> None:
    assert _checked(
        "#EXTM3U",
        "# a remark",
        "",
        '#EXT-X-MAP:URI="init.mp4",BYTERANGE="9@0"',
        "#EXTINF:1.0,one",
        "s0.ts?x=1",
        "//other.example/s1.ts",
        "http://films.example/s2.ts",
    ) == [
        "#EXTM3U",
        "# a remark",
        "",
        '#EXT-X-MAP:URI="https://me:pass@films.example/a/init.mp4",BYTERANGE="9@0"',
        "#EXTINF:1.0,one",
        "https://me:pass@films.example/a/s0.ts?x=1",
        "https://other.example/s1.ts",
        "http://films.example/s2.ts",
    ]


@pytest.mark.parametrize(
    ("line", "protocol"),
    [
        ("file:///etc/passwd", "file"),
        ("FILE:/etc/passwd", "file"),
        ("concat:http://a.example/1.ts|http://a.example/2.ts", "concat"),
        ("data:video/mp2t;base64,AAAA", "data"),
        ("rtsp://camera.example/1", "rtsp"),
        ("crypto+http://a.example/1.ts", r"crypto\+http"),
        ('#EXT-X-KEY:METHOD=SAMPLE-AES,URI="file:///etc/passwd"', "file"),
        ('#EXT-X-MEDIA:TYPE=AUDIO,URI="subfile,,start,0,end,9,:a.ts"', None),
    ],
)
def test_other_protocols_are_barred(line: str, protocol: str | None) -> None:
    if protocol is None:  # without "name:" it is a name, which is looked for at the server
        assert "https://me:pass@films.example/" in _checked("#EXTM3U", line)[1]
        return
    with pytest.raises(BarredAddress, match=rf"names {protocol}: expected http") as caught:
        _checked("#EXTM3U", line)
    message = str(caught.value)
    assert "pass@" not in message
    assert "passwd" not in message


def test_what_cannot_be_decrypted_is_said() -> None:
    with pytest.raises(InputError, match=r"AES-128.*--allow-private"):
        _checked("#EXTM3U", '#EXT-X-KEY:METHOD=AES-128,URI="k"', "s0.ts")
    assert _checked("#EXTM3U", "#EXT-X-KEY:METHOD=NONE")[1] == "#EXT-X-KEY:METHOD=NONE"


@pytest.mark.parametrize("content", [b"#EXTM3U\n\xff.ts", b"#EXTM3U\nhttp://[1\n"])
def test_damaged_ones_are_refused_in_a_line(content: bytes) -> None:
    with pytest.raises(InputError) as caught:
        checked_playlist(content, HERE)
    assert "\n" not in str(caught.value)
