from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.errors import InputError
from mien.core.web_address import (
    is_public,
    is_web_address,
    parse_web_address,
    resolve,
    shown_address,
)


def _looks_up(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def getaddrinfo(_: str, port: int, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_an_address_comes_apart() -> None:
    found = parse_web_address("https://me:p%40ss@Example.org:8443/a b/ü.jpg?x=1&y=é#part")
    assert (found.scheme, found.host, found.port) == ("https", "example.org", 8443)
    assert found.target == "/a%20b/%C3%BC.jpg?x=1&y=%C3%A9"
    assert found.login == ("me", "p@ss")
    assert parse_web_address("http://example.org").target == "/"
    assert parse_web_address("http://example.org").port == 80
    assert parse_web_address("https://bücher.example/").host == "xn--bcher-kva.example"
    assert parse_web_address("http://[::1]:8000/a").host_and_port == "[::1]:8000"


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


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
     "0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1",
     "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::",
     "64:ff9b::a00:1", "2001:db8::1"],
)  # fmt: skip
def test_addresses_off_the_open_internet(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_addresses_on_the_open_internet(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    for prefix in (0xFFFF << 32, 0x64FF9B << 96):
        assert is_public(ipaddress.IPv6Address(prefix | int(address))) == is_public(address)


def test_every_address_of_a_host_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    address = parse_web_address("http://example.org/")
    _looks_up(monkeypatch, "8.8.8.8", "10.0.0.1")
    with pytest.raises(InputError, match=r"10\.0\.0\.1.*--allow-private"):
        resolve(address, allow_private=False)
    assert len(resolve(address, allow_private=True)) == 2
    _looks_up(monkeypatch, "8.8.8.8", "8.8.8.8")
    assert resolve(address, allow_private=False) == [ipaddress.ip_address("8.8.8.8")]


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost"])
def test_loopback_in_disguise(host: str) -> None:
    with pytest.raises(InputError):
        resolve(parse_web_address(f"http://{host}/"), allow_private=False)
