"""Asks for what lies at an address of http(s), by checked and pinned connections alone.

Every address that a host's name has is checked, and the connection goes to a checked one; so it is
with each step of a redirect. Proxies of the environment are not used: the addresses that are
checked would be theirs.
"""

from __future__ import annotations

import base64
import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin

from mien.core.errors import InputError
from mien.core.web_address import Address, WebAddress, parse_web_address, resolve

REDIRECTS = 5
"""How often a server may lead on."""

_LED_ON = (301, 302, 303, 307, 308)
# So often is looked whether what is waited for is still wanted.
_LOOK_S = 0.2


class Cancelled(Exception):
    """What was waited for is not wanted any more."""


class Deadline:
    """A moment at which waiting ends; it can be put off, and waiting be given up before it."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """End so many seconds from now."""
        self._clock = clock
        self._is_cancelled = False
        self.restart(seconds)

    def restart(self, seconds: float) -> None:
        """End so many seconds from now instead."""
        self._at = self._clock() + seconds

    def cancel(self) -> None:
        """Give up whatever is waited for, from any thread."""
        self._is_cancelled = True

    def left(self) -> float:
        """Return the seconds that are left, more than 0.

        Raises:
            TimeoutError: if there are none.
            Cancelled: if waiting was given up.
        """
        if self._is_cancelled:
            raise Cancelled
        left = self._at - self._clock()
        if left <= 0:
            raise TimeoutError
        return left


@dataclass(frozen=True)
class Asking:
    """How to ask.

    Attributes:
        accept: the kinds of content that are wanted, as the header has them.
        late: what to say if it does not come in time: "no image within 30 seconds".
        allow_private: whether hosts may be asked that are not on the open internet.
        redirects: how often a server may lead on.
    """

    accept: str
    late: str
    allow_private: bool = False
    redirects: int = REDIRECTS


class Reply:
    """What a server answers.

    Attributes:
        address: who answered, after all redirects.
        head: status and headers; the body is read from it until the deadline.
    """

    def __init__(
        self, address: WebAddress, head: http.client.HTTPResponse, close: Callable[[], None]
    ) -> None:
        """Take what `asked` got; ``close`` ends the connection."""
        self.address = address
        self.head = head
        self.close = close


def asked(
    address: WebAddress,
    asking: Asking,
    deadline: Deadline,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Ask for what lies at an address, and follow where the server leads on to.

    Args:
        address: whose; a login is sent to its host alone.
        asking: how.
        deadline: until when, the reply's body included.
        headers: more of them.

    Returns:
        The reply, whatever its status is; whoever gets it closes it.

    Raises:
        InputError: if there is none, or a host may not be asked. No message holds a login.
        Cancelled: if the deadline was cancelled.
    """
    first = address
    for _ in range(asking.redirects + 1):
        with in_a_line(address, asking.late):
            reply = _ask(address, asking, deadline, headers or {})
        if reply.head.status not in _LED_ON:
            return reply
        reply.close()
        address = _next(address, reply.head.getheader("Location"))
    raise InputError(f"{first.shown}: led on more than {asking.redirects} times")


@contextmanager
def in_a_line(address: WebAddress, late: str) -> Iterator[None]:
    """Turn what may fail on a network into one line.

    Raises:
        InputError: in place of it; ``late`` is what it says where the time is up.
    """
    try:
        yield
    except TimeoutError as error:
        raise InputError(f"{address.shown}: {late}") from error
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or "it failed"
        raise InputError(f"{address.shown}: no secure connection: {reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(f"{address.shown} cannot be read: {reason}") from None


def status_text(status: int) -> str:
    """Return a reply's status in words; the server's own are not repeated."""
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)


# ---------------------------------------------------------------- one request
def _ask(
    address: WebAddress, asking: Asking, deadline: Deadline, headers: Mapping[str, str]
) -> Reply:
    stream = _connect(address, resolve(address, allow_private=asking.allow_private), deadline)
    connection = http.client.HTTPConnection(address.host, address.port)
    connection.sock = _TimedSocket(stream, deadline)

    def close() -> None:
        connection.close()
        stream.close()

    try:
        every = _headers(address, asking.accept)
        connection.request("GET", address.target, headers={**every, **headers})
        return Reply(address, connection.getresponse(), close)
    except BaseException:
        close()
        raise


def _connect(address: WebAddress, hosts: list[Address], deadline: Deadline) -> socket.socket:
    """Connect to one of the checked addresses; the name is only said for the certificate."""
    last: OSError = OSError("no address")
    for host in hosts:
        try:
            stream = socket.create_connection((str(host), address.port), deadline.left())
        except TimeoutError:
            raise
        except OSError as error:
            last = error
            continue
        if address.scheme == "http":
            return stream
        try:
            stream.settimeout(deadline.left())
            context = ssl.create_default_context()
            return context.wrap_socket(stream, server_hostname=address.host)
        except BaseException:
            stream.close()
            raise
    raise last


def _headers(address: WebAddress, accept: str) -> dict[str, str]:
    headers = {
        "Host": address.host_and_port,
        "User-Agent": "mien",
        "Accept": accept,
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


# ---------------------------------------------------------------- time
class _TimedReader(io.RawIOBase):
    """Reads from a socket until a deadline, however slowly the bytes drip in."""

    def __init__(self, stream: socket.socket, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            # Not in one go: the deadline may be cancelled meanwhile.
            self._stream.settimeout(min(self._deadline.left(), _LOOK_S))
            try:
                return self._stream.recv_into(buffer)
            except TimeoutError:
                continue


class _TimedSocket:
    """As much of a socket as `http.client` uses, held to a deadline."""

    def __init__(self, stream: socket.socket, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def sendall(self, content: bytes) -> None:
        self._stream.settimeout(self._deadline.left())
        self._stream.sendall(content)

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._stream, self._deadline))

    def close(self) -> None:
        """Leave the socket open: the reply is still read; who opened it closes it."""
