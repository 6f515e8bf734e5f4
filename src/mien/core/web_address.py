"""Addresses on the web: which may be fetched from, and how they are shown."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from mien.core.errors import InputError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS = {"http": 80, "https": 443}
# Everything that a path or query may hold as it is; the rest becomes %XX, "%" itself excepted.
_SAFE = "%/?:@!$&'()*+,;=~-._[]"
_SECRET = re.compile(r"token|secret|sig(nature)?$|passw|credential|api_?key|^key$|auth", re.I)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class BarredAddress(InputError):
    """An address that may not be asked, whatever lies there."""


@dataclass(frozen=True)
class WebAddress:
    """A checked http(s) address, in parts.

    Attributes:
        scheme: "http" or "https".
        host: in ASCII, without brackets.
        port: the scheme's own unless the address has one.
        target: path and query, as the request line has them.
        login: user and password, or None. `shown` leaves them out.
    """

    scheme: str
    host: str
    port: int
    target: str
    login: tuple[str, str] | None = None

    @property
    def origin(self) -> tuple[str, str, int]:
        """Return what must be the same for a login to be sent again."""
        return (self.scheme, self.host, self.port)

    @property
    def host_and_port(self) -> str:
        """Return the host, in brackets if need be, and the port where it is not the scheme's."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def full(self) -> str:
        """Return the address with its login: for asking, never for showing."""
        login = "" if self.login is None else ":".join(quote(each, "") for each in self.login) + "@"
        return f"{self.scheme}://{login}{self.host_and_port}{self.target}"

    @property
    def shown(self) -> str:
        """Return the address as it may be printed: no login, no value of what looks secret."""
        path, mark, query = self.target.partition("?")
        if mark and any(_SECRET.search(name) for name, _ in parse_qsl(query)):
            pairs = parse_qsl(query, keep_blank_values=True)
            query = urlencode(
                [(name, "***" if _SECRET.search(name) else value) for name, value in pairs],
                safe="*",
            )
        return f"{self.scheme}://{self.host_and_port}{path}{mark}{query}"


def is_web_address(word: str) -> bool:
    """Say whether a word is an http(s) address, well made or not."""
    return word.lower().startswith(("http://", "https://"))


def parse_web_address(url: str) -> WebAddress:
    """Take an http(s) address apart.

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


def resolve(address: WebAddress, *, allow_private: bool) -> list[Address]:
    """Look a host up and return its addresses, each of them checked.

    A connection must be made to one of these, never to the host's name: a second look-up might
    give another answer.

    Raises:
        InputError: if there is no such host.
        BarredAddress: if any of its addresses is not a public one and ``allow_private`` is false.
    """
    try:
        rows = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(f"{address.shown}: no host {address.host} is known") from error
    found = list(dict.fromkeys(ipaddress.ip_address(row[4][0]) for row in rows))
    barred = [each for each in found if not is_public(each)]
    if barred and not allow_private:
        raise BarredAddress(
            f"{address.shown}: {_named(address.host, barred[0])} is not on the open internet: "
            "--allow-private allows it"
        )
    return found


def _named(host: str, address: Address) -> str:
    return host if host == str(address) else f"{host} ({address})"


def is_public(address: Address) -> bool:
    """Say whether an address is one of the open internet's.

    Private, loopback, link-local, multicast, reserved and unspecified ones are not, nor are IPv6
    addresses that lead to such an IPv4 one (mapped, 6to4, Teredo, NAT64).
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded(address)
        if inner:
            return all(is_public(each) for each in inner)
        if address.is_site_local:
            return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified
    )


def _embedded(address: ipaddress.IPv6Address) -> list[Address]:
    """Return the IPv4 addresses that an IPv6 one leads to."""
    if address in _NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    return [each for each in inner if each is not None]
