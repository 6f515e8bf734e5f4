"""A connection: strict HTTP/1.1, read in small pieces, and closed if its client leaves it idle.

h11 parses, but nothing that a proxy in front might parse otherwise is let through, and nothing
slow: h11 takes bare line feeds, folded lines, lengths said twice or beside a transfer coding
(RFC 9112, sections 2.2, 5.2 and 6), and its patterns take seconds for some lines of a few
kilobytes.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mien.service.schemas import ApiError, json_bytes
from mien.service.websocket import is_handshake

MAX_HEAD_BYTES = 16_384
"""Of a request's line and headers together."""

CLIENT_SECONDS = 10.0
"""How long a connection waits for a request's head, or for a client to take its answer."""

# Read at a time; h11 takes about as long for a chunk of one byte as for one of thousands.
_READ_BYTES = 16_384
_READ_CHUNKED_BYTES = 4096

_MAX_CHUNK_LINE = 256
_FREE_CHUNKS = 16_384  # may be as small as they like
_MIN_MEAN_CHUNK = 256  # bytes of those beyond, on average

_NOT_HTTP = "this is not an HTTP request that can be read"
# All controls but the tab and the line end, a CR or LF alone, and a line that continues another.
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n|\n[ \t]")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\x20-\xff\t]*)?\r\n")
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_SINGLE_HEADERS = frozenset(
    {
        *(b"authorization", b"content-encoding", b"content-length", b"content-type", b"host"),
        *(b"origin", b"transfer-encoding"),
    }
)


class Protocol(H11Protocol, asyncio.BufferedProtocol):
    """uvicorn's protocol by h11, which waits for ever and answers errors with plain text.

    It reads as an `asyncio.BufferedProtocol`, since a plain one gets 256 KB at once: many small
    chunks would hold up all other connections.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take what uvicorn gives to its protocols."""
        super().__init__(*args, **options)
        self.conn: StrictConnection = StrictConnection()
        self.idle_since = self.loop.time()
        self._buffer = bytearray()
        self._timeout: asyncio.TimerHandle | None = None
        self._refused = False

    @property
    def answering(self) -> bool:
        """Whether there is a request whose answer is not complete."""
        return self.cycle is not None and not self.cycle.response_complete and not self._refused

    @property
    def idle(self) -> bool:
        """Whether nobody loses anything with the connection."""
        return not self.answering and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.BaseProtocol`."""
        super().connection_made(transport)
        self._update_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        super().connection_lost(exc)
        self._update_timeout()

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002
        """See `asyncio.BufferedProtocol`."""
        self._buffer = bytearray(_READ_CHUNKED_BYTES if self.conn.chunked else _READ_BYTES)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        data, self._buffer = bytes(self._buffer[:nbytes]), bytearray()
        if not self._refused:
            self.data_received(data)
        self._update_timeout()

    def on_response_complete(self) -> None:
        """See `H11Protocol`."""
        self.idle_since = self.loop.time()
        super().on_response_complete()
        self._update_timeout()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        super().pause_writing()
        self._update_timeout()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        super().resume_writing()
        self._update_timeout()

    def shutdown(self) -> None:
        """See `H11Protocol`."""
        if self._refused:
            self.drop()
        else:
            super().shutdown()

    def drop(self) -> None:
        """Close the connection, whatever has not been sent."""
        self.transport.abort()

    def _should_upgrade(self) -> bool:
        """See `H11Protocol`; what asks for anything but a WebSocket is answered as HTTP."""
        method, version = self.scope["method"], self.scope["http_version"]
        path, query = self.scope["raw_path"], self.scope["query_string"]
        return self.ws_protocol_class is not None and is_handshake(
            method, version, path + query, self.headers
        )

    def _update_timeout(self) -> None:
        """Let time run while the client has to do something, and only then."""
        waits = self in self.connections and (not self.answering or self.flow.write_paused)
        if waits and self._timeout is None:
            self._timeout = self.loop.call_later(CLIENT_SECONDS, self.drop)
        elif not waits and self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Answer with the JSON of all errors where no answer has begun; close the connection."""
        error = self.conn.error or ApiError(400, f"{_NOT_HTTP}: see /docs")
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json_bytes(error.to_dict())
            reason = HTTPStatus(error.status).phrase.encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=error.status, headers=headers, reason=reason),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        # Were it closed while the client still sends, the answer might be lost with the connection.
        self._refused = True
        self.transport.write_eof()


class StrictConnection(h11.Connection):
    """The server's side of a connection, on which only unambiguous HTTP is read.

    Attributes:
        error: what to answer, once `next_event` has raised for it.
    """

    def __init__(self) -> None:
        """Start a connection."""
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.error: ApiError | None = None
        self._chunks: _ChunkChecker | None = None

    @property
    def chunked(self) -> bool:
        """Whether a chunked body is on its way."""
        return self._chunks is not None

    def receive_data(self, data: bytes) -> None:
        """See `h11.Connection`."""
        if self._chunks is not None:
            self.error = self.error or self._chunks.check(data)
        super().receive_data(data)

    def next_event(self) -> Any:
        """See `h11.Connection`.

        Raises:
            h11.RemoteProtocolError: for what h11 does not take, and for what it should not.
        """
        if self.their_state is h11.IDLE:
            self.error = _check_head(self.trailing_data[0])
        if self.error is not None:
            raise h11.RemoteProtocolError(self.error.message)
        event = super().next_event()
        if isinstance(event, h11.EndOfMessage):
            self._chunks = None
        if not isinstance(event, h11.Request):
            return event
        if any(name == b"transfer-encoding" for name, _ in event.headers):
            self._chunks = _ChunkChecker()
            self.error = self._chunks.check(self.trailing_data[0])
        return _with_path(event)


def _check_head(received: bytes) -> ApiError | None:
    """Check a request's head as far as it has come; return why it is refused, or None."""
    end = received.find(b"\r\n\r\n")
    head = received[:end] if end >= 0 else received
    if len(head) > MAX_HEAD_BYTES:
        text = f"the headers are too large: expected {MAX_HEAD_BYTES:,} bytes at most"
        return ApiError(431, text)
    if _FORBIDDEN.search(head):
        return _malformed("a control character, a bare line end or a folded line in its headers")
    return None if end < 0 else _check_framing(*head.split(b"\r\n"))


def _check_framing(request_line: bytes, *lines: bytes) -> ApiError | None:
    """Check the headers that say where the request ends."""
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in _SINGLE_HEADERS and name in fields:
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


class _ChunkChecker:
    """Follows the frames of a chunked body: only short and plain chunk lines, and no trailers."""

    def __init__(self) -> None:
        self._line = b""
        self._left = 0  # bytes of the chunk and the line end after it
        self._count = 0
        self._bytes = 0
        self._last = False
        self._ended = False

    def check(self, data: bytes) -> ApiError | None:
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
            if len(self._line) > _MAX_CHUNK_LINE or not self._takes_line():
                return _malformed(
                    "chunks that are none, very many small ones, long extensions, or trailers"
                )
        return None

    def _takes_line(self) -> bool:
        if not self._line.endswith(b"\n"):
            return True  # there is more to come
        line, self._line = self._line, b""
        if self._last:
            self._ended = True
            return line == b"\r\n"  # trailers would be headers past all checks
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            return False
        size = int(match[1], 16)
        self._last, self._left = size == 0, size + 2 if size else 0
        self._count += 1
        self._bytes += size
        return self._count <= _FREE_CHUNKS + self._bytes // _MIN_MEAN_CHUNK


def _with_path(request: h11.Request) -> h11.Request:
    """Return a request whose target is a path; a proxy's may be an address (RFC 9112, 3.2.2)."""
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


def _malformed(what: str) -> ApiError:
    return ApiError(400, f"{_NOT_HTTP}: it has {what}")
