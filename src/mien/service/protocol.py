"""A connection: strict HTTP, little read at a time, and an end to what a client leaves undone."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mien.service.refusal import Refusal
from mien.service.strict import StrictConnection

CLIENT_SECONDS = 10.0
"""For so long a connection waits for a request's head, or for a client to take its answer."""

# Read at a time; h11 takes about as long for a chunk of one byte as for one of thousands.
_READ_BYTES = 16_384
_READ_CHUNKED_BYTES = 4096


class Protocol(H11Protocol, asyncio.BufferedProtocol):
    """uvicorn's protocol by h11, which waits for ever and answers with plain text.

    It reads as a `asyncio.BufferedProtocol`, since a plain one is given 256 KB at once: many small
    chunks would hold up all other connections.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take what uvicorn gives to its protocols."""
        super().__init__(*args, **options)
        self.conn: StrictConnection = StrictConnection()
        self.idle_since = self.loop.time()
        self._buffer = bytearray()
        self._end: asyncio.TimerHandle | None = None
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
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        super().connection_lost(exc)
        self._watch()

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002
        """See `asyncio.BufferedProtocol`."""
        self._buffer = bytearray(_READ_CHUNKED_BYTES if self.conn.chunked else _READ_BYTES)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        data, self._buffer = bytes(self._buffer[:nbytes]), bytearray()
        if not self._refused:
            self.data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """See `H11Protocol`."""
        self.idle_since = self.loop.time()
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        super().resume_writing()
        self._watch()

    def shutdown(self) -> None:
        """See `H11Protocol`."""
        if self._refused:
            self.drop()
        else:
            super().shutdown()

    def drop(self) -> None:
        """End the connection, whatever has not been sent."""
        self.transport.abort()

    def _watch(self) -> None:
        """Let the time run while the client is to do something, and only then."""
        waits = self in self.connections and (not self.answering or self.flow.write_paused)
        if waits and self._end is None:
            self._end = self.loop.call_later(CLIENT_SECONDS, self.drop)
        elif not waits and self._end is not None:
            self._end.cancel()
            self._end = None

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Answer with the JSON of all errors where no answer has begun, and end the connection."""
        refusal = self.conn.refusal or Refusal(
            400, "this is not an HTTP request that can be read: see /docs"
        )
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = refusal.body()
            reason = HTTPStatus(refusal.status).phrase.encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=refusal.status, headers=headers, reason=reason),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        # Were it closed while the client still sends, the system would take the answer back.
        self._refused = True
        self.transport.write_eof()
