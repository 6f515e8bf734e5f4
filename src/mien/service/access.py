"""Access control: bearer tokens (RFC 6750) and the origins of web pages."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from mien.core.errors import UsageError
from mien.service.errors import ApiError

SUBPROTOCOL = "mien"
"""WebSocket subprotocol for browsers, which offer a token as a second one."""

_TOKEN_PREFIX = "bearer."  # of a subprotocol that is a token
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,512}")
_HOST = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")
_PORTS = {"http": 80, "https": 443}
_DEFAULT_PORT = re.compile(r":(80|443)\Z")
_CHALLENGE = 'Bearer realm="mien"'


@dataclass(frozen=True)
class Access:
    """Who may use the service; everybody by default.

    With tokens, paths below `/v1/`, `/metrics` and `/version` require one.

    Attributes:
        digests: SHA-256 of each token.
        origins: other origins whose pages may read answers, as browsers write them.
    """

    digests: tuple[bytes, ...] = field(default=(), repr=False)
    origins: tuple[str, ...] = ()

    @classmethod
    def of(cls, tokens: Iterable[str] = (), origins: Iterable[str] = ()) -> Access:
        """Build the rules from tokens and origins as people write them.

        Raises:
            UsageError: if a token or an origin is invalid; the message does not repeat a token.
        """
        return cls(
            tuple(dict.fromkeys(_digest(_check_token(token)) for token in tokens)),
            tuple(dict.fromkeys(map(normalize_origin, origins))),
        )

    def requires_token(self, path: str) -> bool:
        """Return True if a path requires a token."""
        return bool(self.digests) and (path.startswith("/v1/") or path in ("/metrics", "/version"))

    def token_error(
        self, path: str, headers: Headers, subprotocols: Sequence[str] = ()
    ) -> ApiError | None:
        """Return the error for a request without a valid token, or None.

        Args:
            path: path of the request.
            headers: headers of the request.
            subprotocols: those that a WebSocket offers; ``bearer.TOKEN`` may be one of them.
        """
        if not self.requires_token(path):
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        tokens = [token.strip()] if scheme.lower() == "bearer" else []
        tokens += [
            offered.removeprefix(_TOKEN_PREFIX)
            for offered in subprotocols
            if offered.startswith(_TOKEN_PREFIX)
        ]
        if any(map(self._is_known, tokens)):
            return None
        problem, challenge = "a token is required", _CHALLENGE
        if tokens:
            problem, challenge = "unknown token", f'{_CHALLENGE}, error="invalid_token"'
        return ApiError(
            401,
            f"{problem}: expected the header Authorization: Bearer TOKEN, with a token from the "
            "service's operator",
            headers={"WWW-Authenticate": challenge},
        )

    def origin_error(self, headers: Headers) -> ApiError | None:
        """Return the error for a WebSocket from a page of another origin, or None.

        Browsers let any page open a WebSocket and send the page's origin along (cross-site
        WebSocket hijacking). Other programs send none.
        """
        origin = headers.get("origin")
        if origin is None or origin in self.origins:
            return None
        host = _host_of(f"//{headers.get('host', '')}")
        if host is not None and _host_of(origin) == host:
            return None
        return ApiError(
            403,
            "the page is from another host: expected a page of this service, or of an origin "
            "that --cors-origin allows",
        )

    def _is_known(self, token: str) -> bool:
        """Compare a token with every known one in constant time."""
        digest = _digest(token)
        return sum(hmac.compare_digest(digest, known) for known in self.digests) > 0


def parse_tokens(text: str) -> list[str]:
    """Return the tokens of a file: one per line, except empty lines and comments (#)."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def normalize_origin(text: str) -> str:
    """Return an origin as browsers write it: lower case, without the scheme's default port.

    Raises:
        UsageError: if it is not a single origin.
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
            f"expected an origin such as https://example.org or http://localhost:3000, got {text!r}"
        )
    suffix = "" if port in (None, _PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host.lower()}{suffix}"


def _host_of(address: str) -> str | None:
    """Return the host and port after ``//`` without a default port; None if there is no host."""
    return _DEFAULT_PORT.sub("", address.lower().partition("//")[2]) or None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _check_token(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise UsageError(
            "invalid token: expected 16 to 512 letters, digits and .-_~; "
            "openssl rand -hex 32 makes one"
        )
    return token
