"""Downloads of images and videos from any http(s) address.

Bounded are the hosts that are asked, redirects, time, bytes and kinds of content. Import it late:
it brings ssl, http and urllib3.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from http.client import HTTPException
from typing import TypeAlias
from urllib.parse import urljoin

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.response import HTTPResponse

from mien.core.errors import BarredAddress, InputError, shown
from mien.core.file_types import HEAD_BYTES, READABLE, image_kind
from mien.core.web_address import WebAddress, parse_web_address, shown_address

# ---------------------------------------------------------------- public hosts
Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def resolve(address: WebAddress, *, allow_private: bool) -> list[Address]:
    """Look a host up and return its IP addresses, each of them checked.

    Connect to one of these, never to the host's name: a second look-up may give another answer.

    Raises:
        InputError: if there is no such host.
        BarredAddress: if any of its addresses is not public and ``allow_private`` is false.
    """
    try:
        rows = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(f"{address.shown}: no host {address.host} is known") from error
    found = list(dict.fromkeys(ipaddress.ip_address(row[4][0]) for row in rows))
    barred = next((each for each in found if not is_public(each)), None)
    if barred is not None and not allow_private:
        host = address.host if address.host == str(barred) else f"{address.host} ({barred})"
        raise BarredAddress(
            f"{address.shown}: {host} is not on the open internet: --allow-private allows it"
        )
    return found


def is_public(address: Address) -> bool:
    """Return whether an IP address is one of the open internet.

    Private, loopback, link-local, multicast, reserved and unspecified ones are not, nor are IPv6
    addresses that lead to such an IPv4 one (mapped, 6to4, Teredo, NAT64).
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            inner = [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
        embedded = [each for each in inner if each is not None]
        if embedded:
            return all(is_public(each) for each in embedded)
        if address.is_site_local:
            return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified
    )


# ---------------------------------------------------------------- requests to checked hosts
MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)


@contextmanager
def requested(
    url: str, *, what: str, timeout_s: float, allow_private: bool = False
) -> Iterator[tuple[WebAddress, HTTPResponse]]:
    """Send a GET request, following redirects; every host is checked before it is asked.

    The connection goes to the address that was checked, and a login to its own host alone. Proxies
    of the environment are not used: it is their addresses that would be checked.

    Args:
        url: http or https, with a login (``https://user:password@host/``) if need be.
        what: "image" or "video", for the header ``Accept`` and for messages.
        timeout_s: seconds for everything, reading the body included.
        allow_private: allow hosts that are not on the open internet.

    Yields:
        Who answered, after all redirects, and the response, its body not yet read.

    Raises:
        InputError: if there is no answer, or reading the response fails inside. No message holds a
            login.
        BarredAddress: if a host may not be asked.
    """
    first = address = parse_web_address(url)
    headers = {"Accept": f"{what}/*,*/*;q=0.1", "Accept-Encoding": "identity"}
    late, ends = f"no {what} within {timeout_s:g} seconds", time.monotonic() + timeout_s
    for _ in range(MAX_REDIRECTS + 1):
        with (
            _one_line_errors(address, late, ends),
            _connected(address, ends, allow_private=allow_private) as connection,
        ):
            connection.request(
                "GET",
                address.target,
                headers={**headers, **address.headers, "Connection": "close"},
                preload_content=False,
                decode_content=False,
                enforce_content_length=False,
            )
            with connection.getresponse() as response:
                if response.status not in _REDIRECTS:
                    yield address, response
                    return
                location = response.headers.get("Location")
        address = _redirected(address, location)
    raise InputError(f"{first.shown}: led on more than {MAX_REDIRECTS} times")


@contextmanager
def _connected(
    address: WebAddress, ends: float, *, allow_private: bool
) -> Iterator[HTTPConnection]:
    """Connect to one of a host's checked addresses; its name is only used for its certificate."""
    failure: Exception = OSError("no address")
    for host in resolve(address, allow_private=allow_private):
        left = ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if address.scheme == "http":
            connection = HTTPConnection(str(host), address.port, timeout=left)
        else:
            connection = HTTPSConnection(
                str(host),
                address.port,
                timeout=left,
                server_hostname=address.host,
                ssl_context=ssl.create_default_context(),
            )
        try:
            connection.connect()
        except NewConnectionError as error:
            failure = error
            continue
        # A socket's timeout restarts with each byte; this one is for the whole request.
        timer = threading.Timer(left, _shut_down, (connection.sock,))
        timer.daemon = True
        timer.start()
        try:
            yield connection
        finally:
            timer.cancel()
            connection.close()
        return
    raise failure


def _shut_down(stream: socket.socket) -> None:
    with suppress(OSError):  # it is closed
        stream.shutdown(socket.SHUT_RDWR)


@contextmanager
def _one_line_errors(address: WebAddress, late: str, ends: float) -> Iterator[None]:
    """Turn network errors into one line; ``late`` is the message once the time is up."""
    try:
        yield
        if time.monotonic() >= ends:  # what was cut off then looks as if it had ended
            raise TimeoutError
    except (InputError, OSError, HTTPException, HTTPError) as error:
        if time.monotonic() >= ends or isinstance(error, TimeoutError):
            raise InputError(f"{address.shown}: {late}") from error
        if isinstance(error, InputError):
            raise
        if isinstance(error, ssl.SSLError):
            reason = getattr(error, "verify_message", "") or error.reason or "it failed"
            raise InputError(f"{address.shown}: no secure connection: {reason}") from error
        cause = error.__cause__ or error
        reason = getattr(cause, "strerror", None) or type(cause).__name__
        raise InputError(f"{address.shown} cannot be read: {reason}") from None


def _redirected(address: WebAddress, location: str | None) -> WebAddress:
    if not location:
        raise InputError(f"{address.shown}: the server leads on, but does not say where to")
    base = f"{address.scheme}://{address.netloc}{address.target}"
    try:
        found = parse_web_address(urljoin(base, location))
    except (InputError, ValueError) as error:
        reason = str(error) if isinstance(error, InputError) else "no address"
        raise InputError(f"{address.shown}: the server leads on to what is {reason}") from None
    # Logins in redirects are ignored; the user's own is only sent to its host.
    is_same = (found.scheme, found.netloc) == (address.scheme, address.netloc)
    return replace(found, login=address.login if is_same else None)


def check_status(address: WebAddress, response: HTTPResponse) -> None:
    """Raise InputError unless the server answered 200; its body is not repeated."""
    status = response.status
    if status != HTTPStatus.OK:
        phrase = f" ({HTTPStatus(status).phrase})" if status in set(HTTPStatus) else ""
        raise InputError(f"{address.shown}: the server answered {status}{phrase}")


# ---------------------------------------------------------------- images
IMAGE_TIMEOUT_S = 30.0
MAX_IMAGE_BYTES = 20_000_000
_PIECE_BYTES = 65_536


def fetch_image(
    url: str,
    *,
    allow_private: bool = False,
    offline: bool = False,
    max_bytes: int = MAX_IMAGE_BYTES,
    timeout_s: float = IMAGE_TIMEOUT_S,
) -> bytes:
    """Download an image.

    Args:
        url: http or https, with a login if need be; see `requested`.
        allow_private: allow hosts that are not on the open internet (private, loopback, ...).
        offline: refuse.
        max_bytes: a longer image is refused, as soon as that is known.
        timeout_s: seconds that all of it may take, redirects included.

    Returns:
        The file's bytes, which begin as an image does; whether it is whole, decoding tells.

    Raises:
        InputError: if it cannot be downloaded, or is not an image. No message holds a login.
    """
    if offline:
        raise InputError(f"{shown_address(url)} is on the web and this is offline: give a file")
    with requested(url, what="image", timeout_s=timeout_s, allow_private=allow_private) as (
        address,
        response,
    ):
        check_status(address, response)
        name, headers = address.shown, response.headers
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind.startswith(("text/", "video/", "audio/")) or kind == "application/json":
            raise InputError(f"{name} is {shown(kind)}: expected an image")
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise InputError(f"{name}: the server packs the image: expected it as it is")
        expected = response.length_remaining
        too_large = f"{name} is too large: expected at most {max_bytes / 1e6:g} MB"
        if expected is not None and expected > max_bytes:
            raise InputError(f"{too_large}, got {expected / 1e6:.1f}")
        content = bytearray()
        for piece in response.stream(_PIECE_BYTES):
            content += piece
            if len(content) > max_bytes:
                raise InputError(too_large)
        if not content:
            raise InputError(f"{name}: the server sent nothing")
        if image_kind(content[:HEAD_BYTES]) not in READABLE:
            raise InputError(f"{name} is not an image: its first bytes are of none")
        if expected is not None and len(content) < expected:
            raise InputError(f"{name} broke off after {len(content)} of {expected} bytes")
        return bytes(content)
