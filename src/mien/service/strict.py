"""HTTP/1.1 by h11, but nothing that a proxy before it might read otherwise, and nothing slow.

h11 takes bare line feeds, folded lines, lengths said twice or beside a transfer coding (RFC 9112,
sections 2.2, 5.2 and 6), and its patterns take seconds for some lines of a few kilobytes.
"""

from __future__ import annotations

import re
from typing import Any

import h11

from mien.service.refusal import Refusal

MAX_HEAD_BYTES = 16_384
"""A request's line and headers have at most so many bytes."""

_MAX_CHUNK_LINE = 256
_ANY_CHUNKS = 16_384  # may be as small as they like
_LEAST_CHUNK = 256  # bytes of one beyond those, on average
_HTTP = "this is not an HTTP request that can be read"
# All controls but the tab and the line end, a CR or LF alone, and a line that goes on with another.
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n|\n[ \t]")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\x20-\xff\t]*)?\r\n")
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_SAID_ONCE = frozenset(
    {b"content-encoding", b"content-length", b"content-type", b"host", b"transfer-encoding"}
)


class StrictConnection(h11.Connection):
    """A server's side of a connection.

    Attributes:
        refusal: what the client is to be told, once `next_event` has raised for it.
    """

    def __init__(self) -> None:
        """Start a connection on which nothing has been said."""
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.refusal: Refusal | None = None
        self._chunks: _Chunks | None = None

    @property
    def chunked(self) -> bool:
        """Whether a chunked body is on its way."""
        return self._chunks is not None

    def receive_data(self, data: bytes) -> None:
        """See `h11.Connection`."""
        if self._chunks is not None:
            self.refusal = self.refusal or self._chunks.refusal(data)
        super().receive_data(data)

    def next_event(self) -> Any:
        """See `h11.Connection`.

        Raises:
            h11.RemoteProtocolError: for what h11 does not take, and for what it should not.
        """
        if self.their_state is h11.IDLE:
            self.refusal = head_refusal(self.trailing_data[0])
        if self.refusal is not None:
            raise h11.RemoteProtocolError(self.refusal.message)
        event = super().next_event()
        if isinstance(event, h11.EndOfMessage):
            self._chunks = None
        if not isinstance(event, h11.Request):
            return event
        if any(name == b"transfer-encoding" for name, _ in event.headers):
            self._chunks = _Chunks()
            self.refusal = self._chunks.refusal(self.trailing_data[0])
        return _with_path(event)


def head_refusal(received: bytes) -> Refusal | None:
    """Check a request's head as far as it has come; what follows it is not looked at.

    Returns:
        Why it is refused, or None.
    """
    end = received.find(b"\r\n\r\n")
    head = received[:end] if end >= 0 else received
    if len(head) > MAX_HEAD_BYTES:
        return Refusal(431, f"the headers are too large: expected {MAX_HEAD_BYTES:,} bytes at most")
    if _FORBIDDEN.search(head):
        return _malformed("a control character, a bare line end or a folded line in its headers")
    return None if end < 0 else _fields_refusal(*head.split(b"\r\n"))


def _fields_refusal(request_line: bytes, *lines: bytes) -> Refusal | None:
    """Check what says where the request ends."""
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in _SAID_ONCE and name in fields:
            return _malformed(f"the header {name.decode()} more than once")
        fields[name] = value.strip(b" \t")
    _, _, version = request_line.rpartition(b" ")
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        return _malformed("a version other than HTTP/1.1 and HTTP/1.0")
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if length is not None and not re.fullmatch(rb"[0-9]{1,20}", length):
        return _malformed("a content length that is no number")
    if coding is None:
        return None
    if coding.lower() != b"chunked" or version == b"HTTP/1.0":
        return _malformed("a transfer coding other than chunked, or one in HTTP/1.0")
    return None if length is None else _malformed("both a content length and a transfer coding")


class _Chunks:
    """Follows the frames of a chunked body, so that no line but short and plain ones reach h11."""

    def __init__(self) -> None:
        self._line = b""
        self._left = 0  # bytes of the chunk and the line end after it
        self._count = 0
        self._bytes = 0
        self._last = False
        self._ended = False

    def refusal(self, data: bytes) -> Refusal | None:
        """Take the next bytes; return why they are refused, or None."""
        at = 0
        while at < len(data) and not self._ended:
            if self._left:
                skipped = min(self._left, len(data) - at)
                self._left -= skipped
                at += skipped
                continue
            end = data.find(b"\n", at) + 1 or len(data)
            self._line += data[at:end]
            at = end
            if len(self._line) > _MAX_CHUNK_LINE or not self._line_is_right():
                return _malformed(
                    "chunks that are none, very many small ones, long extensions, or trailers"
                )
        return None

    def _line_is_right(self) -> bool:
        if not self._line.endswith(b"\n"):
            return True  # there is more to come
        line, self._line = self._line, b""
        if self._last:
            self._ended = True
            return line == b"\r\n"  # trailers are a headers' way around all checks
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            return False
        size = int(match[1], 16)
        self._last, self._left = size == 0, size + 2 if size else 0
        self._count += 1
        self._bytes += size
        return self._count <= _ANY_CHUNKS + self._bytes // _LEAST_CHUNK


def _with_path(request: h11.Request) -> h11.Request:
    """Return a request whose target is a path, as a proxy's may be an address (RFC 9112, 3.2.2)."""
    match = _ABSOLUTE.match(request.target)
    if match is None:
        return request
    path = request.target[match.end() :]
    return h11.Request(
        method=request.method,
        target=path if path.startswith(b"/") else b"/" + path,
        headers=request.headers.raw_items(),
        http_version=request.http_version,
    )


def _malformed(what: str) -> Refusal:
    return Refusal(400, f"{_HTTP}: it has {what}")
