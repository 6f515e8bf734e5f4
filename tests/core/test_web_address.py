from __future__ import annotations

from contextlib import suppress

import pytest

from mien.core.errors import InputError
from mien.core.web_address import is_web_address, parse_web_address, shown_address


def test_an_address_comes_apart() -> None:
    found = parse_web_address("https://me:p%40ss@Example.org:8443/a b/ü.jpg?x=1&y=é#part")
    assert (found.scheme, found.host, found.port) == ("https", "example.org", 8443)
    assert found.target == "/a%20b/%C3%BC.jpg?x=1&y=%C3%A9"
    assert found.login == ("me", "p@ss")
    assert parse_web_address("http://example.org").target == "/"
    assert parse_web_address("http://example.org").port == 80
    assert parse_web_address("https://bücher.example/").host == "xn--bcher-kva.example"
    assert parse_web_address("http://[::1]:8000/a").netloc == "[::1]:8000"


def test_already_quoted_addresses_stay_as_they_are() -> None:
    assert parse_web_address("http://h/a%20b?c=%2F").target == "/a%20b?c=%2F"


def test_no_header_can_be_smuggled_in() -> None:
    found = parse_web_address("http://h/a\r\nX-Evil: 1/\x00\x1b")
    assert not set(found.target) & set("\r\n\x00\x1b ")


@pytest.mark.parametrize(
    "url",
    ["ftp://h/a", "file:///etc/passwd", "gopher://h", "http://", "http:///a", "a.jpg",
     "http://h:port/a", "http://h:99999/", "http://[::1/a", "http://h<b>/"],
)  # fmt: skip
def test_anything_else_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        parse_web_address(url)


@pytest.mark.parametrize(
    "url",
    ["http://me:hunter2@h:port/a", "http://me:hunter2@[::1/a", "https://me:hunter2@h/a",
     "rtsp://me:hunter2@camera/1", "http://h/a?token=hunter2&x=1", "https://h/?X-Amz-Signature=hunter2",
     "http://h/?api_key=hunter2", "HTTP://me:hunter2@h/"],
)  # fmt: skip
def test_secrets_are_never_shown(url: str) -> None:
    assert "hunter2" not in shown_address(url)
    with suppress(InputError):
        assert "hunter2" not in parse_web_address(url).shown


@pytest.mark.parametrize("url", ["http://me:hunter2@h:port/a", "http://me:hunter2@[::1/a"])
def test_what_cannot_be_read_is_not_repeated(url: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_web_address(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_rest_is_shown_as_it_is() -> None:
    for word in ("photos/a.jpg", "-", "a@b.jpg", "https://h/a.jpg?size=3&name=a+b"):
        assert shown_address(word) == word
    assert shown_address("http://h/?token=a&size=3") == "http://h/?token=***&size=3"
    assert is_web_address("HTTPS://h/a")
    assert not is_web_address("https.jpg")
