"""Addresses, and downloads from the web: hosts, redirects, time, bytes and content are checked.

Modules that only parse addresses import it too, so ssl, http and urllib3 are imported on use.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlencode, urljoin, urlsplit

from mien.core.errors import InputError, PrivateAddressError, abbreviate
from mien.core.file_types import HEAD_BYTES, READABLE_FORMATS, sniff_format

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection
    from urllib3.response import HTTPResponse

# ---------------------------------------------------------------- addresses
_PORTS = {"http": 80, "https": 443}
# Characters of a path or query that are not percent-encoded, "%" included.
_SAFE = "%/?:@!$&'()*+,;=~-._[]"
_STREAM = re.compile(r"(https?|rtmps?|rtsps?|rtp|srt|tcp|udp)://.+", re.I)
_SECRET = re.compile(r"token|secret|sig(nature)?$|passw|credential|api_?key|^key$|auth", re.I)


@dataclass(frozen=True)
class WebAddress:
    """A parsed http(s) address.

    Attributes:
        scheme: "http" or "https".
        host: in ASCII, without brackets.
        port: the scheme's default unless given.
        target: path and query, as in the request line.
        login: user and password, or None.
    """

    scheme: str
    host: str
    port: int
    target: str
    login: tuple[str, str] | None = None

    @property
    def netloc(self) -> str:
        """Host (an IPv6 address in brackets), and the port unless it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def redacted(self) -> str:
        """The address for messages: without login, and without secrets in the query."""
        path, mark, query = self.target.partition("?")
        if any(_SECRET.search(name) for name, _ in parse_qsl(query)):
            pairs = parse_qsl(query, keep_blank_values=True)
            hidden = [(name, "***" if _SECRET.search(name) else value) for name, value in pairs]
            query = urlencode(hidden, safe="*")
        return f"{self.scheme}://{self.netloc}{path}{mark}{query}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers Host, User-Agent and, with a login, Authorization."""
        login = {}
        if self.login is not None:
            encoded = base64.b64encode(":".join(self.login).encode()).decode()
            login["Authorization"] = f"Basic {encoded}"
        return {"Host": self.netloc, "User-Agent": "mien", **login}


def is_web_address(text: str) -> bool:
    """Return True if a text begins as an http(s) address, valid or not."""
    return text.lower().startswith(("http://", "https://"))


def is_camera(source: str | Path | int) -> bool:
    """Return True for a camera's number, whether or not such a camera exists."""
    if isinstance(source, str):
        return re.fullmatch(r"[+-]?\d{1,18}", source) is not None
    return isinstance(source, Integral) and not isinstance(source, bool)


def is_stream(source: str | Path | int) -> bool:
    """Return True for an address that can be played while it is received."""
    return isinstance(source, str) and _STREAM.fullmatch(source) is not None


def parse_web_address(url: str) -> WebAddress:
    """Parse an http(s) address.

    Raises:
        InputError: if it is invalid. The message does not repeat it, since it may hold a password.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
        host = host if host is None or ":" in host else host.encode("idna").decode("ascii")
    except ValueError:  # its message may repeat the password; UnicodeError is one too
        raise InputError(
            "invalid web address: expected https://host/path, with a number as port"
        ) from None
    if parts.scheme not in _PORTS:
        raise InputError(f"expected an http or https address, got {parts.scheme or 'no scheme'}")
    if not host or re.search(r"[^a-zA-Z0-9._:%\-]", host):
        raise InputError("web address without a host: expected https://host/path")
    query = f"?{parts.query}" if parts.query else ""
    login = None
    if parts.username is not None:
        login = (unquote(parts.username), unquote(parts.password or ""))
    target = quote((parts.path or "/") + query, safe=_SAFE)
    return WebAddress(parts.scheme, host, port or _PORTS[parts.scheme], target, login)


def redact_address(text: str) -> str:
    """Return an address without its secrets, for messages; other texts are unchanged."""
    if not is_web_address(text):
        return re.sub(r"(?<=://)[^/?#]*@", "", text)
    try:
        return parse_web_address(text).redacted
    except InputError:
        return f"{text.partition(':')[0].lower()}://…"


# ---------------------------------------------------------------- public hosts
IPAddress: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def resolve(address: WebAddress, *, allow_private: bool) -> list[IPAddress]:
    """Look up a host and return its IP addresses, all of them checked.

    Connect to one of these, not to the host name: a second look-up may give another answer.

    Raises:
        InputError: if the host is unknown.
        PrivateAddressError: if any address is not public and ``allow_private`` is false.
    """
    try:
        rows = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(f"{address.redacted}: unknown host {address.host}") from error
    resolved = list(dict.fromkeys(ipaddress.ip_address(row[4][0]) for row in rows))
    private = next((ip for ip in resolved if not is_public(ip)), None)
    if private is not None and not allow_private:
        host = address.host if address.host == str(private) else f"{address.host} ({private})"
        raise PrivateAddressError(
            f"{address.redacted}: {host} is not on the public internet: --allow-private allows it"
        )
    return resolved


def is_public(ip: IPAddress) -> bool:
    """Return True if an IP address is on the public internet.

    Private, loopback, link-local, multicast, reserved and unspecified addresses are not, nor are
    IPv6 addresses that embed such an IPv4 address (mapped, 6to4, Teredo, NAT64).
    """
    if isinstance(ip, ipaddress.IPv6Address):
        candidates = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            candidates = [ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)]
        embedded = [candidate for candidate in candidates if candidate is not None]
        if embedded:
            return all(is_public(candidate) for candidate in embedded)
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


# ---------------------------------------------------------------- requests
MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)


@contextmanager
def open_url(
    url: str, *, what: str, timeout_s: float, allow_private: bool = False
) -> Iterator[tuple[WebAddress, HTTPResponse]]:
    """Send a GET request and follow redirects; every host is checked before it is contacted.

    Connects to the IP address that was checked, and sends a login only to its own host. Proxies
    set in the environment are not used: only their addresses would be checked.

    Args:
        url: http or https, with a login (``https://user:password@host/``) if needed.
        what: "image" or "video", for the header ``Accept`` and for messages.
        timeout_s: seconds for the whole request, including reading the body.
        allow_private: allow hosts that are not on the public internet.

    Yields:
        The address that answered, after redirects, and the response with its body unread.

    Raises:
        InputError: if there is no answer, or reading the response inside fails. No message
            contains a login.
        PrivateAddressError: if a host is not allowed.
    """
    first = address = parse_web_address(url)
    headers = {"Accept": f"{what}/*,*/*;q=0.1", "Accept-Encoding": "identity"}
    timeout_message, deadline = (
        f"no {what} within {timeout_s:g} seconds",
        time.monotonic() + timeout_s,
    )
    for _ in range(MAX_REDIRECTS + 1):
        with (
            _network_errors(address, timeout_message, deadline),
            _connect(address, deadline, allow_private=allow_private) as connection,
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
        address = _redirect_target(address, location)
    raise InputError(f"{first.redacted}: redirected more than {MAX_REDIRECTS} times")


@contextmanager
def _connect(
    address: WebAddress, deadline: float, *, allow_private: bool
) -> Iterator[HTTPConnection]:
    """Connect to one of a host's checked addresses; the name only serves for its certificate."""
    import ssl

    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.exceptions import NewConnectionError

    failure: Exception = OSError("no address")
    for ip in resolve(address, allow_private=allow_private):
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError
        if address.scheme == "http":
            connection = HTTPConnection(str(ip), address.port, timeout=remaining_s)
        else:
            connection = HTTPSConnection(
                str(ip),
                address.port,
                timeout=remaining_s,
                server_hostname=address.host,
                ssl_context=ssl.create_default_context(),
            )
        try:
            connection.connect()
        except NewConnectionError as error:
            failure = error
            continue
        # A socket's timeout restarts with each byte; this timer is for the whole request.
        timer = threading.Timer(remaining_s, _shut_down, (connection.sock,))
        timer.daemon = True
        timer.start()
        try:
            yield connection
        finally:
            timer.cancel()
            connection.close()
        return
    raise failure


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):  # already closed
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def _network_errors(address: WebAddress, timeout_message: str, deadline: float) -> Iterator[None]:
    """Turn network errors into an InputError of one line."""
    import ssl
    from http.client import HTTPException

    from urllib3.exceptions import HTTPError

    try:
        yield
        if time.monotonic() >= deadline:  # a connection that was shut down looks complete
            raise TimeoutError
    except (InputError, OSError, HTTPException, HTTPError) as error:
        if time.monotonic() >= deadline or isinstance(error, TimeoutError):
            raise InputError(f"{address.redacted}: {timeout_message}") from error
        if isinstance(error, InputError):
            raise
        if isinstance(error, ssl.SSLError):
            reason = getattr(error, "verify_message", "") or error.reason or "it failed"
            raise InputError(f"{address.redacted}: no secure connection: {reason}") from error
        cause = error.__cause__ or error
        reason = getattr(cause, "strerror", None) or type(cause).__name__
        raise InputError(f"{address.redacted} cannot be read: {reason}") from None


def _redirect_target(address: WebAddress, location: str | None) -> WebAddress:
    if not location:
        raise InputError(f"{address.redacted}: the server redirects without a location")
    base = f"{address.scheme}://{address.netloc}{address.target}"
    try:
        target = parse_web_address(urljoin(base, location))
    except (InputError, ValueError) as error:
        reason = str(error) if isinstance(error, InputError) else "invalid web address"
        raise InputError(f"{address.redacted}: invalid redirect: {reason}") from None
    # Logins in redirects are ignored, and the user's own is sent to its host alone.
    is_same = (target.scheme, target.netloc) == (address.scheme, address.netloc)
    return replace(target, login=address.login if is_same else None)


def check_status(address: WebAddress, response: HTTPResponse) -> None:
    """Raise InputError unless the status is 200; the response's body is not quoted."""
    from http import HTTPStatus

    status = response.status
    if status != HTTPStatus.OK:
        phrase = f" ({HTTPStatus(status).phrase})" if status in set(HTTPStatus) else ""
        raise InputError(f"{address.redacted}: the server answered {status}{phrase}")


# ---------------------------------------------------------------- images
IMAGE_TIMEOUT_S = 30.0
MAX_IMAGE_BYTES = 20_000_000
_CHUNK_BYTES = 65_536


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
        url: http or https, with a login if needed; see `open_url`.
        allow_private: allow hosts that are not on the public internet (private, loopback, ...).
        offline: refuse to download.
        max_bytes: limit on the file's size.
        timeout_s: seconds for the whole download, redirects included.

    Returns:
        The encoded image. Only its first bytes are checked; decoding shows if it is complete.

    Raises:
        InputError: if it cannot be downloaded, or is not an image. No message contains a login.
    """
    if offline:
        raise InputError(f"{redact_address(url)}: cannot download while offline: give a file")
    with open_url(url, what="image", timeout_s=timeout_s, allow_private=allow_private) as (
        address,
        response,
    ):
        check_status(address, response)
        name, headers = address.redacted, response.headers
        content_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        is_text = content_type == "application/json"
        if is_text or content_type.startswith(("text/", "video/", "audio/")):
            raise InputError(f"{name} is {abbreviate(content_type)}: expected an image")
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise InputError(f"{name}: the server compressed the image: expected it uncompressed")
        expected = response.length_remaining
        too_large = f"{name} is too large: expected at most {max_bytes / 1e6:g} MB"
        if expected is not None and expected > max_bytes:
            raise InputError(f"{too_large}, got {expected / 1e6:.1f}")
        content = bytearray()
        for chunk in response.stream(_CHUNK_BYTES):
            content += chunk
            if len(content) > max_bytes:
                raise InputError(too_large)
        if not content:
            raise InputError(f"{name}: the server sent nothing")
        if sniff_format(content[:HEAD_BYTES]) not in READABLE_FORMATS:
            raise InputError(f"{name} is not an image: unknown first bytes")
        if expected is not None and len(content) < expected:
            raise InputError(f"{name} is incomplete: got {len(content)} of {expected} bytes")
        return bytes(content)
