"""A WebSocket's connection, read in small pieces, and dropped if its client leaves it waiting.

websockets parses, and bounds a message's size; uvicorn's protocol around it bounds neither the
number of a message's fragments, which may be empty, nor how long a client may read nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

CHECK_SECONDS = 10.0
"""A client that takes nothing, or does not end what is ended, is dropped within twice this time."""

_READ_BYTES = 16_384
_MAX_FRAGMENTS = 4096  # of a message
_MAX_HEADERS = 100
_MAX_HEADER_BYTES = 8000
_KEY_BYTES = 16
_VERSION = b"13"


class StreamProtocol(WebSocketsSansIOProtocol, asyncio.BufferedProtocol):
    """uvicorn's protocol by websockets, with bounds.

    It reads as an `asyncio.BufferedProtocol`, since a plain one gets 256 KB at once: many small
    frames would hold up all other connections.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take what uvicorn gives to its protocols."""
        super().__init__(*args, **options)
        self._buffer = bytearray()
        self._check: asyncio.TimerHandle | None = None
        self._was_stuck = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        super().connection_made(transport)
        self._check = self.loop.call_later(CHECK_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(exc)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002
        """See `asyncio.BufferedProtocol`."""
        self._buffer = bytearray(_READ_BYTES)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        data, self._buffer = bytes(self._buffer[:nbytes]), bytearray()
        self.data_received(data)

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`; who reads no answers, to pings either, is not read from."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

    def handle_text(self, event: Frame) -> None:
        """See `WebSocketsSansIOProtocol`; what a text says is of no interest, valid or not."""
        super().handle_text(Frame(event.opcode, b"", event.fin))

    def handle_cont(self, event: Frame) -> None:
        """See `WebSocketsSansIOProtocol`."""
        if len(self.frames) >= _MAX_FRAGMENTS:
            self.conn.fail(1008, "too many fragments")
            self.handle_parser_exception()
            return
        is_text = self.curr_msg_data_type == "text"
        super().handle_cont(Frame(event.opcode, b"", event.fin) if is_text else event)

    async def send(self, message: ASGISendEvent) -> None:
        """See `WebSocketsSansIOProtocol`, which logs a refusal with a body as an error."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True

    def shutdown(self) -> None:
        """See `WebSocketsSansIOProtocol`; the application hears of the end and closes by itself."""

    def drop(self) -> None:
        """Close the connection, whatever has not been sent."""
        self.transport.abort()

    def _look(self) -> None:
        """Drop a client for which there was nothing but waiting since the last look."""
        is_ending = self.close_sent or self.transport.is_closing()
        is_stuck = is_ending or not self.writable.is_set() or not self.handshake_complete
        if is_stuck and self._was_stuck:
            self.drop()
            return
        self._was_stuck = is_stuck
        self._check = self.loop.call_later(CHECK_SECONDS, self._look)


def is_handshake(
    method: str, version: str, target: bytes, headers: Sequence[tuple[bytes, bytes]]
) -> bool:
    """Say whether a request opens a WebSocket (RFC 6455, 4.2.1), in bounds that websockets takes.

    Any other is answered as HTTP, which may ignore an upgrade.

    Args:
        method: the request's.
        version: of HTTP.
        target: the request's.
        headers: their names in lower case.
    """
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        fields.setdefault(name, []).append(value.strip())
    connection = b",".join(fields.get(b"connection", ())).lower().split(b",")
    sizes = (len(target), *(len(name) + len(value) for name, value in headers))
    return (
        (method, version) == ("GET", "1.1")
        and b"upgrade" in (token.strip() for token in connection)
        and [each.lower() for each in fields.get(b"upgrade", ())] == [b"websocket"]
        and fields.get(b"sec-websocket-version") == [_VERSION]
        and _is_key(fields.get(b"sec-websocket-key", []))
        and not {b"content-length", b"transfer-encoding"} & fields.keys()
        and len(headers) <= _MAX_HEADERS
        and max(sizes) <= _MAX_HEADER_BYTES
    )


def _is_key(values: list[bytes]) -> bool:
    try:
        return len(values) == 1 and len(base64.b64decode(values[0], validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False
