"""HTTP/1.1 by h11, with mien's own words to what is no HTTP at all."""

from __future__ import annotations

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mien.interfaces.http.refusal import Refusal


class Protocol(H11Protocol):
    """uvicorn's protocol, which answers such a request with plain text."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Answer with the JSON of all errors where no answer has begun, and end the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            refusal = Refusal(400, "this is not an HTTP request that can be read: see /docs")
            body = refusal.body()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
