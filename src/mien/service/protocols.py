"""Connections: strict HTTP/1.1 and bounded WebSockets, on top of uvicorn's protocols.

h11 parses HTTP, but accepts what a proxy in front might interpret differently: bare line feeds,
folded lines, and lengths given twice or along with a transfer coding (RFC 9112, sections 2.2, 5.2
and 6). Its patterns also take seconds for some lines of a few kilobytes. uvicorn's protocol around
it waits forever and answers errors with plain text.

websockets bounds the size of a message; uvicorn's protocol around it bounds neither the number of a
message's fragments, which may be empty, nor how long a client may leave answers unread.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from mien.service.errors import ApiError, json_bytes

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

MAX_HEAD_BYTES = 16_384
"""Size of a request's line and headers together."""

CLIENT_SECONDS = 10.0
"""Time for a request's head to arrive, and for a client to read its answer."""

CHECK_SECONDS = 10.0
"""A WebSocket client that reads nothing, or does not finish closing, is dropped within twice this
time."""

_READ_BYTES = 16_384
_READ_CHUNKED_BYTES = 4096  # h11 takes as long for a chunk of one byte as for one of thousands

_MAX_CHUNK_LINE = 256
_FREE_CHUNKS = 16_384  # of any size
_MIN_MEAN_CHUNK = 256  # mean bytes of all further chunks

_NOT_HTTP = "not a valid HTTP request"
# Control characters except tab and line end, a lone CR or LF, and a line that continues another.
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n|\n[ \t]")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\x20-\xff\t]*)?\r\n")
_ABSOLUTE_TARGET = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_SINGLE_HEADERS = frozenset(
    {
        *(b"authorization", b"content-encoding", b"content-length", b"content-type", b"host"),
        *(b"origin", b"transfer-encoding"),
    }
)

_MAX_FRAGMENTS = 4096  # per message
_MAX_HANDSHAKE_HEADERS = 100
_MAX_HANDSHAKE_LINE = 8000
_KEY_BYTES = 16


class _BufferedReads(asyncio.BufferedProtocol, asyncio.Protocol):
    """Reads small pieces and passes them to `data_received`, which uvicorn's protocols implement.

    A plain `asyncio.Protocol` gets 256 KB at once; many small chunks or frames in them would block
    all other connections.
    """

    _buffer = bytearray()

    def read_bytes(self) -> int:
        """Return the size of the next read."""
        return _READ_BYTES

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002
        """Allocate the next read."""
        self._buffer = bytearray(self.read_bytes())
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read."""
        data, self._buffer = bytes(self._buffer[:nbytes]), bytearray()
        self.data_received(data)


# ---------------------------------------------------------------- HTTP
class HttpProtocol(H11Protocol, _BufferedReads):
    """HTTP connection with strict parsing, timeouts and JSON errors."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn: StrictConnection = StrictConnection()
        self.idle_since = self.loop.time()
        self._timeout: asyncio.TimerHandle | None = None
        self._is_refused = False

    @property
    def is_answering(self) -> bool:
        """Whether there is a request whose answer is not complete."""
        return self.cycle is not None and not self.cycle.response_complete and not self._is_refused

    @property
    def is_idle(self) -> bool:
        """Whether the connection can be dropped without losing an answer."""
        return not self.is_answering and not self.transport.is_closing()

    def drop(self) -> None:
        """Close the connection; unsent data is lost."""
        self.transport.abort()

    def read_bytes(self) -> int:
        """Return the size of the next read."""
        return _READ_CHUNKED_BYTES if self.conn.is_chunked else _READ_BYTES

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for a request."""
        super().connection_made(transport)
        self._update_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        super().connection_lost(exc)
        self._update_timeout()

    def data_received(self, data: bytes) -> None:
        """Parse received data, unless the connection was refused."""
        if not self._is_refused:
            super().data_received(data)
        self._update_timeout()

    def on_response_complete(self) -> None:
        """Start waiting for the next request."""
        self.idle_since = self.loop.time()
        super().on_response_complete()
        self._update_timeout()

    def pause_writing(self) -> None:
        """Start waiting for the client to read."""
        super().pause_writing()
        self._update_timeout()

    def resume_writing(self) -> None:
        """Stop waiting for the client to read."""
        super().resume_writing()
        self._update_timeout()

    def shutdown(self) -> None:
        """Close the connection after the answer in progress."""
        if self._is_refused:
            self.drop()
        else:
            super().shutdown()

    def _should_upgrade(self) -> bool:
        method, version = self.scope["method"], self.scope["http_version"]
        target = self.scope["raw_path"] + self.scope["query_string"]
        return self.ws_protocol_class is not None and is_handshake(
            method, version, target, self.headers
        )

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Answer with a JSON error unless an answer has started; then close the connection."""
        error = self.conn.error or ApiError(400, f"{_NOT_HTTP}: see /docs for the API")
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
        # Closing it while the client is still sending could lose the answer.
        self._is_refused = True
        self.transport.write_eof()

    def _update_timeout(self) -> None:
        """Run the timer exactly while the client has to send or to read something."""
        waits = self in self.connections and (not self.is_answering or self.flow.write_paused)
        if waits and self._timeout is None:
            self._timeout = self.loop.call_later(CLIENT_SECONDS, self.drop)
        elif not waits and self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None


class StrictConnection(h11.Connection):
    """Server's side of a connection that accepts unambiguous HTTP only.

    Attributes:
        error: the reply, once `next_event` has raised for it.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.error: ApiError | None = None
        self._chunks: _ChunkChecker | None = None

    @property
    def is_chunked(self) -> bool:
        """Whether a chunked body is being received."""
        return self._chunks is not None

    def receive_data(self, data: bytes) -> None:
        """Check and buffer received data, as `h11.Connection`."""
        if self._chunks is not None:
            self.error = self.error or self._chunks.check(data)
        super().receive_data(data)

    def next_event(self) -> Any:
        """Return the next event, as `h11.Connection`.

        Raises:
            h11.RemoteProtocolError: if the request is invalid or ambiguous.
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
        return _with_path_target(event)


def _check_head(received: bytes) -> ApiError | None:
    """Return the error for a request's head as far as it has arrived, or None."""
    end = received.find(b"\r\n\r\n")
    head = received[:end] if end >= 0 else received
    if len(head) > MAX_HEAD_BYTES:
        return ApiError(
            431, f"the headers are too large: expected {MAX_HEAD_BYTES:,} bytes at most"
        )
    if _FORBIDDEN.search(head):
        return _malformed("its headers have a control character, a bare line end or a folded line")
    return None if end < 0 else _check_framing(*head.split(b"\r\n"))


def _check_framing(request_line: bytes, *lines: bytes) -> ApiError | None:
    """Return the error for headers that leave the end of the request ambiguous, or None."""
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in _SINGLE_HEADERS and name in fields:
            return _malformed(f"it has the header {name.decode()} more than once")
        fields[name] = value.strip(b" \t")
    _, _, version = request_line.rpartition(b" ")
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        return _malformed("its version is neither HTTP/1.1 nor HTTP/1.0")
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if length is not None and not re.fullmatch(rb"[0-9]{1,20}", length):
        return _malformed("its content length is not a number")
    if coding is None:
        return None
    if coding.lower() != b"chunked" or version == b"HTTP/1.0":
        return _malformed("it has a transfer coding other than chunked, or one in HTTP/1.0")
    if length is not None:
        return _malformed("it has both a content length and a transfer coding")
    return None


class _ChunkChecker:
    """Incremental check of a chunked body: short and plain chunk lines, no trailers."""

    def __init__(self) -> None:
        self._line = b""
        self._left = 0  # bytes of the chunk and of the line end behind it
        self._chunks = 0
        self._bytes = 0
        self._is_last = False
        self._ended = False

    def check(self, data: bytes) -> ApiError | None:
        """Check the next bytes; return the error, or None."""
        position = 0
        while position < len(data) and not self._ended:
            if self._left:
                skipped = min(self._left, len(data) - position)
                self._left -= skipped
                position += skipped
                continue
            end = data.find(b"\n", position) + 1 or len(data)
            self._line += data[position:end]
            position = end
            if len(self._line) > _MAX_CHUNK_LINE or not self._is_line_valid():
                return _malformed(
                    "its chunks are invalid, very small and many, or have long extensions or "
                    "trailers"
                )
        return None

    def _is_line_valid(self) -> bool:
        if not self._line.endswith(b"\n"):
            return True  # incomplete
        line, self._line = self._line, b""
        if self._is_last:
            self._ended = True
            return line == b"\r\n"  # trailers would be headers that nothing has checked
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            return False
        size = int(match[1], 16)
        self._is_last, self._left = size == 0, size + 2 if size else 0
        self._chunks += 1
        self._bytes += size
        return self._chunks <= _FREE_CHUNKS + self._bytes // _MIN_MEAN_CHUNK


def _with_path_target(request: h11.Request) -> h11.Request:
    """Reduce an absolute target, as for a proxy, to its path (RFC 9112, section 3.2.2)."""
    match = _ABSOLUTE_TARGET.match(request.target)
    if match is None:
        return request
    path = request.target[match.end() :]
    return h11.Request(
        method=request.method,
        target=path if path.startswith(b"/") else b"/" + path,
        headers=request.headers.raw_items(),
        http_version=request.http_version,
    )


def _malformed(problem: str) -> ApiError:
    return ApiError(400, f"{_NOT_HTTP}: {problem}")


# ---------------------------------------------------------------- WebSocket
class WebSocketProtocol(WebSocketsSansIOProtocol, _BufferedReads):
    """WebSocket connection with bounded fragments, which drops clients that read nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._check: asyncio.TimerHandle | None = None
        self._was_stuck = False

    def drop(self) -> None:
        """Close the connection; unsent data is lost."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the periodic check."""
        super().connection_made(transport)
        self._check = self.loop.call_later(CHECK_SECONDS, self._drop_if_stuck)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the periodic check."""
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Stop reading from a client that reads no answers, including those to its pings."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read from the client again."""
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

    def handle_text(self, event: Frame) -> None:
        """Discard text, which need not be valid UTF-8: the application refuses it."""
        super().handle_text(Frame(event.opcode, b"", event.fin))

    def handle_cont(self, event: Frame) -> None:
        """Bound the number of fragments per message."""
        if len(self.frames) >= _MAX_FRAGMENTS:
            self.conn.fail(1008, "too many fragments")
            self.handle_parser_exception()
            return
        is_text = self.curr_msg_data_type == "text"
        super().handle_cont(Frame(event.opcode, b"", event.fin) if is_text else event)

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message of the application."""
        await super().send(message)
        # Without this uvicorn logs a refusal with a body as an incomplete handshake.
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True

    def shutdown(self) -> None:
        """Do nothing: `Service.stopping` tells the application, which closes its streams."""

    def _drop_if_stuck(self) -> None:
        """Drop a client that has kept the server waiting since the last check."""
        is_ending = self.close_sent or self.transport.is_closing()
        is_stuck = is_ending or not self.writable.is_set() or not self.handshake_complete
        if is_stuck and self._was_stuck:
            self.drop()
            return
        self._was_stuck = is_stuck
        self._check = self.loop.call_later(CHECK_SECONDS, self._drop_if_stuck)


def is_handshake(
    method: str, version: str, target: bytes, headers: Sequence[tuple[bytes, bytes]]
) -> bool:
    """Return True for a WebSocket handshake (RFC 6455, section 4.2.1) that websockets accepts.

    Any other request is answered as HTTP, which may ignore an upgrade.

    Args:
        method: HTTP method.
        version: HTTP version, such as "1.1".
        target: path and query.
        headers: names in lower case, and values.
    """
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        fields.setdefault(name, []).append(value.strip())
    connection = b",".join(fields.get(b"connection", ())).lower().split(b",")
    sizes = (len(target), *(len(name) + len(value) for name, value in headers))
    return (
        (method, version) == ("GET", "1.1")
        and b"upgrade" in (token.strip() for token in connection)
        and [value.lower() for value in fields.get(b"upgrade", ())] == [b"websocket"]
        and fields.get(b"sec-websocket-version") == [b"13"]
        and _is_key(fields.get(b"sec-websocket-key", []))
        and not {b"content-length", b"transfer-encoding"} & fields.keys()
        and len(headers) <= _MAX_HANDSHAKE_HEADERS
        and max(sizes) <= _MAX_HANDSHAKE_LINE
    )


def _is_key(values: Sequence[bytes]) -> bool:
    try:
        return len(values) == 1 and len(base64.b64decode(values[0], validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False
