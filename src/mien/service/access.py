"""Who may ask: bearer tokens (RFC 6750), and the pages of other origins."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from mien.core.errors import UsageError
from mien.service.schemas import ApiError

SUBPROTOCOL = "mien"
"""What a WebSocket speaks, for browsers that also offer a token as a subprotocol."""

MIN_TOKEN_LENGTH = 16
"""Shorter ones could be guessed."""

_BEARER = "bearer."
_TOKEN = re.compile(rf"[A-Za-z0-9._~-]{{{MIN_TOKEN_LENGTH},512}}")
_HOST = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")
_PORTS = {"http": 80, "https": 443}
_IMPLIED_PORT = re.compile(r":(80|443)\Z")
_CLOSED = ("/metrics", "/version")
_CLOSED_BELOW = "/v1/"
_REALM = 'Bearer realm="mien"'


@dataclass(frozen=True)
class Access:
    """Who may ask; everybody who reaches the port unless told otherwise.

    With tokens, what is below `/v1/`, `/metrics` and `/version` answers those alone who have one.

    Attributes:
        digests: SHA-256 of each token.
        origins: pages that may read answers, as browsers write them.
    """

    digests: tuple[bytes, ...] = field(default=(), repr=False)
    origins: tuple[str, ...] = ()

    @classmethod
    def of(cls, tokens: Iterable[str] = (), origins: Iterable[str] = ()) -> Access:
        """Take tokens and origins as people write them.

        Raises:
            UsageError: if one is not as it should be; it does not repeat a token.
        """
        return cls(
            tuple(dict.fromkeys(_digest(_checked_token(token)) for token in tokens)),
            tuple(dict.fromkeys(map(normal_origin, origins))),
        )

    def closes(self, path: str) -> bool:
        """Say whether a path answers those alone who have a token."""
        return bool(self.digests) and (path.startswith(_CLOSED_BELOW) or path in _CLOSED)

    def refusal(
        self, path: str, headers: Headers, subprotocols: Sequence[str] = ()
    ) -> ApiError | None:
        """Return why a request is refused for its token, or None.

        Args:
            path: the request's.
            headers: the request's.
            subprotocols: what a WebSocket offers: ``bearer.<token>`` may be one of them.
        """
        if not self.closes(path):
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = [token.strip()] if scheme.lower() == "bearer" else []
        given += [each[len(_BEARER) :] for each in subprotocols if each.startswith(_BEARER)]
        if sum(map(self._knows, given)):
            return None
        text, challenge = "this needs a token", _REALM
        if given:
            text, challenge = "this token is not known", f'{_REALM}, error="invalid_token"'
        return ApiError(
            401,
            f"{text}: expected the header Authorization: Bearer TOKEN, with a token of "
            "whoever runs the service",
            headers={"WWW-Authenticate": challenge},
        )

    def foreign(self, headers: Headers) -> ApiError | None:
        """Return why a WebSocket is refused for the page it comes from, or None.

        Browsers let any page open one, and say which (cross-site WebSocket hijacking). Programs
        that are no browsers say none.
        """
        origin = headers.get("origin")
        if origin is None or origin in self.origins:
            return None
        own = _host_of(f"//{headers.get('host', '')}")
        if own is not None and _host_of(origin) == own:
            return None
        return ApiError(
            403,
            "the page that asks is of another host: expected a page of this service, or of an "
            "origin that --cors-origin allows",
        )

    def _knows(self, token: str) -> bool:
        """Say whether a token is one of ours, in a time that does not tell how close it is."""
        digest = _digest(token)
        return sum(hmac.compare_digest(digest, each) for each in self.digests) > 0


def tokens_in(text: str) -> list[str]:
    """Return the tokens of a file: one a line; empty lines, and those with a #, say nothing."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def normal_origin(text: str) -> str:
    """Return an origin as browsers write it: lower case, without the port that the scheme implies.

    Raises:
        UsageError: if it is not one, or stands for many.
    """
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    host = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc
    is_bare = parts.path in ("", "/") and not parts.query and not parts.fragment
    if parts.scheme not in _PORTS or not _HOST.fullmatch(host) or not is_bare:
        raise UsageError(
            f"expected an origin as https://example.org or http://localhost:3000, got {text!r}"
        )
    suffix = "" if port in (None, _PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host.lower()}{suffix}"


def _host_of(address: str) -> str | None:
    """Return the host and port after ``//``, None where there is none; 80 and 443 go unsaid."""
    return _IMPLIED_PORT.sub("", address.lower().partition("//")[2]) or None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _checked_token(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise UsageError(
            f"a token is not as expected: {MIN_TOKEN_LENGTH} to 512 letters, digits and .-_~, "
            "as openssl rand -hex 32 makes one"
        )
    return token
