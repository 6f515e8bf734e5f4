"""Addresses on the web: their parts, and how they are shown without their secrets."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from mien.core.errors import InputError

_PORTS = {"http": 80, "https": 443}
# Characters of a path or query that are not percent-encoded, "%" included.
_SAFE = "%/?:@!$&'()*+,;=~-._[]"
_SECRET = re.compile(r"token|secret|sig(nature)?$|passw|credential|api_?key|^key$|auth", re.I)


@dataclass(frozen=True)
class WebAddress:
    """An http(s) address in parts.

    Attributes:
        scheme: "http" or "https".
        host: in ASCII, without brackets.
        port: the scheme's own unless the address has one.
        target: path and query, as the request line has them.
        login: user and password, or None.
    """

    scheme: str
    host: str
    port: int
    target: str
    login: tuple[str, str] | None = None

    @property
    def netloc(self) -> str:
        """The host, in brackets if need be, and the port where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """The address as it may be printed: no login, no value of what looks secret."""
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


def is_web_address(word: str) -> bool:
    """Return whether a word is an http(s) address, well formed or not."""
    return word.lower().startswith(("http://", "https://"))


def parse_web_address(url: str) -> WebAddress:
    """Parse an http(s) address.

    Raises:
        InputError: if it is not one. The message does not repeat it, since it may hold a password.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
        host = host if host is None or ":" in host else host.encode("idna").decode("ascii")
    except ValueError:  # its message may repeat the password; UnicodeError is one too
        raise InputError(
            "not an address that can be read: expected https://host/path, with a port as a number"
        ) from None
    if parts.scheme not in _PORTS:
        raise InputError(f"expected an address of http or https, got {parts.scheme or 'none'}")
    if not host or re.search(r"[^a-zA-Z0-9._:%\-]", host):
        raise InputError("an address without a host: expected https://host/path")
    query = f"?{parts.query}" if parts.query else ""
    login = None
    if parts.username is not None:
        login = (unquote(parts.username), unquote(parts.password or ""))
    target = quote((parts.path or "/") + query, safe=_SAFE)
    return WebAddress(parts.scheme, host, port or _PORTS[parts.scheme], target, login)


def shown_address(word: str) -> str:
    """Return a word as it may be printed: an address without its secrets, anything else as is."""
    if not is_web_address(word):
        return re.sub(r"(?<=://)[^/?#]*@", "", word)
    try:
        return parse_web_address(word).shown
    except InputError:
        return f"{word.partition(':')[0].lower()}://…"
