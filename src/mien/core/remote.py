"""Images from the web: one http(s) address in, the bytes of one image out, nothing trusted.

What a server could do is bounded: how long it may take, how much it may send, where it may lead on
to, and what it may send at all. Proxies of the environment are not used: the addresses that are
checked would be theirs.
"""

from __future__ import annotations

import base64
import http.client
import io
import socket
import ssl
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin

from mien.core.errors import InputError
from mien.core.web_address import Address, WebAddress, parse_web_address, resolve

MAX_BYTES = 20_000_000
"""Larger files are refused."""

_REDIRECTS = (301, 302, 303, 307, 308)
_READ_BYTES = 65_536
_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"\x00\x00\x00\x0cjP  ": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\x00\x00\x01\x00": "ICO",
    b"BM": "BMP",
    **{b"P%d" % number: "PPM" for number in range(1, 7)},
}


@dataclass(frozen=True)
class Limits:
    """What a server may do.

    Attributes:
        max_bytes: a longer image is refused, as soon as that is known.
        timeout_s: seconds that all of it may take, redirects included.
        redirects: how often it may lead on.
    """

    max_bytes: int = MAX_BYTES
    timeout_s: float = 30.0
    redirects: int = 5


def fetch_image(
    url: str, *, allow_private: bool = False, offline: bool = False, limits: Limits | None = None
) -> bytes:
    """Download an image.

    Args:
        url: http or https, with a login (``https://user:password@host/``) if need be; it is sent to
            that host alone.
        allow_private: allow hosts that are not on the open internet (private, loopback, ...).
        offline: refuse.
        limits: how long and how large; `Limits`' own unless given.

    Returns:
        The file's bytes, which begin as an image does; whether it is whole, decoding tells.

    Raises:
        InputError: if it cannot be had, or is not an image. No message holds a login.
    """
    bounds = limits or Limits()
    address = parse_web_address(url)
    if offline:
        raise InputError(f"{address.shown} is on the web and this is offline: give a file")
    deadline = time.monotonic() + bounds.timeout_s
    for _ in range(bounds.redirects + 1):
        try:
            found = _request(address, allow_private, deadline, bounds.max_bytes)
        except TimeoutError as error:
            raise InputError(
                f"{address.shown}: no image within {bounds.timeout_s:g} seconds"
            ) from error
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or "it failed"
            raise InputError(f"{address.shown}: no secure connection: {reason}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise InputError(f"{address.shown} cannot be read: {reason}") from None
        if isinstance(found, bytes):
            return found
        address = found
    raise InputError(f"{address.shown}: led on more than {bounds.redirects} times")


def image_kind(content: bytes) -> str | None:
    """Return what image format a file's first bytes are of, or None if of none that is read."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] == b"ftyp":
        return "AVIF" if content[8:12] in (b"avif", b"avis", b"mif1") else None
    return next((kind for start, kind in _STARTS.items() if content.startswith(start)), None)


# ---------------------------------------------------------------- one request
def _request(
    address: WebAddress, allow_private: bool, deadline: float, max_bytes: int
) -> bytes | WebAddress:
    """Return the image, or where the server leads on to."""
    stream = _connect(address, resolve(address, allow_private=allow_private), deadline)
    connection = http.client.HTTPConnection(address.host, address.port)
    connection.sock = _TimedSocket(stream, deadline)
    try:
        connection.request("GET", address.target, headers=_headers(address))
        reply = connection.getresponse()
        if reply.status in _REDIRECTS:
            return _next(address, reply.getheader("Location"))
        _check_head(address, reply, max_bytes)
        return _body(address, reply, max_bytes)
    finally:
        connection.close()
        stream.close()


def _connect(address: WebAddress, hosts: list[Address], deadline: float) -> socket.socket:
    """Connect to one of the checked addresses; the name is only said for the certificate."""
    last: OSError = OSError("no address")
    for host in hosts:
        try:
            stream = socket.create_connection((str(host), address.port), _left(deadline))
        except TimeoutError:
            raise
        except OSError as error:
            last = error
            continue
        if address.scheme == "http":
            return stream
        try:
            stream.settimeout(_left(deadline))
            context = ssl.create_default_context()
            return context.wrap_socket(stream, server_hostname=address.host)
        except BaseException:
            stream.close()
            raise
    raise last


def _headers(address: WebAddress) -> dict[str, str]:
    headers = {
        "Host": address.host_and_port,
        "User-Agent": "mien",
        "Accept": "image/*,*/*;q=0.1",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    if address.login is not None:
        login = base64.b64encode(":".join(address.login).encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    return headers


def _next(address: WebAddress, location: str | None) -> WebAddress:
    if not location:
        raise InputError(f"{address.shown}: the server leads on, but does not say where to")
    base = f"{address.scheme}://{address.host_and_port}{address.target}"
    try:
        found = parse_web_address(urljoin(base, location))
    except (InputError, ValueError) as error:
        reason = str(error) if isinstance(error, InputError) else "no address"
        raise InputError(f"{address.shown}: the server leads on to what is {reason}") from None
    # A login that the server invents is not used; the user's own stays with its host.
    login = address.login if found.origin == address.origin else None
    return WebAddress(found.scheme, found.host, found.port, found.target, login)


def _check_head(address: WebAddress, reply: http.client.HTTPResponse, max_bytes: int) -> None:
    """Refuse what its headers tell to be no image of a size that is taken."""
    if reply.status != HTTPStatus.OK:
        raise InputError(f"{address.shown}: the server answered {_status_text(reply.status)}")
    kind = (reply.getheader("Content-Type") or "").partition(";")[0].strip().lower()
    if kind.startswith(("text/", "video/", "audio/")) or kind == "application/json":
        raise InputError(f"{address.shown} is {_plain(kind)}: expected an image")
    coding = (reply.getheader("Content-Encoding") or "identity").lower()
    if coding != "identity":
        raise InputError(f"{address.shown}: the server packs the image: expected it as it is")
    if reply.length is not None and reply.length > max_bytes:
        raise InputError(_too_large(address, max_bytes, f", got {reply.length / 1e6:.1f}"))


def _body(address: WebAddress, reply: http.client.HTTPResponse, max_bytes: int) -> bytes:
    expected = reply.length
    content = bytearray()
    while piece := reply.read1(_READ_BYTES):
        content += piece
        if len(content) > max_bytes:
            raise InputError(_too_large(address, max_bytes))
        if len(content) >= 16 and image_kind(bytes(content[:16])) is None:
            break
    if not content:
        raise InputError(f"{address.shown}: the server sent nothing")
    if image_kind(bytes(content[:16])) is None:
        raise InputError(f"{address.shown} is not an image: its first bytes are of none")
    if expected is not None and len(content) < expected:
        raise InputError(f"{address.shown} broke off after {len(content)} of {expected} bytes")
    return bytes(content)


def _status_text(status: int) -> str:
    try:
        return f"{status} ({HTTPStatus(status).phrase})"  # the server's own words are not repeated
    except ValueError:
        return str(status)


def _plain(text: str) -> str:
    return "".join(each if each.isalnum() or each in "/+-." else "?" for each in text[:60])


def _too_large(address: WebAddress, max_bytes: int, got: str = "") -> str:
    return f"{address.shown} is too large: expected at most {max_bytes / 1e6:g} MB{got}"


# ---------------------------------------------------------------- time
def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _TimedReader(io.RawIOBase):
    """Reads from a socket until a deadline, however slowly the bytes drip in."""

    def __init__(self, stream: socket.socket, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._stream.settimeout(_left(self._deadline))
        return self._stream.recv_into(buffer)


class _TimedSocket:
    """As much of a socket as `http.client` uses, held to a deadline."""

    def __init__(self, stream: socket.socket, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def sendall(self, content: bytes) -> None:
        self._stream.settimeout(_left(self._deadline))
        self._stream.sendall(content)

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._stream, self._deadline))

    def close(self) -> None:
        """Leave the socket open: the reply is still read; who opened it closes it."""
