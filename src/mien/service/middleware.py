"""What every request goes through: its id, its count, its line in the log, and who may ask."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from mien.service.access import Access
from mien.service.metrics import CLIENT_GONE, Metrics
from mien.service.schemas import ApiError

REQUEST_ID = "request_id"
"""The scope's key, and the log's field, of a request's id."""

INTERNAL = "internal error: the image may be fine; the service's log says what failed"
STOPPING = "the service is stopping: try again in a moment"

_HEADER = b"x-request-id"
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_SHOWN_PATH = 200
_PREFLIGHT_SECONDS = 600
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answered:
    """A request that has its answer: a line of the log. Nothing of an image is in it.

    Attributes:
        client: the address that asked.
        method: the request's.
        path: the request's, without its query, %-encoded: it cannot look like other fields.
        status: of the answer; 101 for a WebSocket.
        seconds: from the request's head to the end of its answer.
        request_id: the request's.
    """

    client: str
    method: str
    path: str
    status: int
    seconds: float
    request_id: str

    def __str__(self) -> str:
        """Return the line."""
        what = f"{self.client} {self.method} {self.path} {self.status}"
        return f"{what} {1000 * self.seconds:.0f} ms {self.request_id}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of a structured log."""
        return {
            "client": self.client,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "ms": round(1000 * self.seconds, 1),
            REQUEST_ID: self.request_id,
        }


RequestLog = Callable[[Answered], None]
"""Takes each request that was answered."""


class Middleware:
    """The outermost layer: each request gets an id, and is counted and logged.

    HEAD is answered as GET without the body. Cookies are dropped: nothing uses any, FastAPI would
    parse them for every request, and Python before 3.11.10 takes minutes for some (CVE-2024-7592).
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, access: Access, on_request: RequestLog | None
    ) -> None:
        """Take the application, its metrics, who may ask, and what takes each request."""
        guarded: ASGIApp = Guard(app, access)
        if access.origins:
            guarded = CORSMiddleware(
                guarded,
                allow_origins=access.origins,
                allow_methods=("GET", "HEAD", "POST"),
                allow_headers=("Accept", "Authorization", "Content-Type", "X-Request-ID"),
                expose_headers=("Retry-After", "X-Request-ID"),
                max_age=_PREFLIGHT_SECONDS,
            )
        self._app = guarded
        self._metrics = metrics
        self._on_request = on_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        status, start = CLIENT_GONE, time.perf_counter()
        method, path = scope.get("method", "GET"), scope["path"]
        request_id = _id_of(scope)

        async def counted_send(message: Message) -> None:
            nonlocal status
            kind = message["type"]
            if kind in _STARTS:
                status = message.get("status", 101)
                headers = [*message.get("headers", ()), (_HEADER, request_id.encode())]
                message = {**message, "headers": headers}
            elif kind == "http.response.body" and method == "HEAD":
                message = {**message, "body": b""}
            elif kind == "websocket.close" and status == CLIENT_GONE:
                status = 403  # what the server makes of it
            await send(message)

        inner = {
            **scope,
            REQUEST_ID: request_id,
            "headers": [each for each in scope["headers"] if each[0] != b"cookie"],
        }
        if method == "HEAD":
            inner["method"] = "GET"
        with self._metrics.request_in_flight():
            await self._app(inner, receive, counted_send)
        seconds = time.perf_counter() - start
        self._metrics.answered(method, path, status, seconds)
        if self._on_request is not None:
            client = scope["client"][0] if scope.get("client") else "-"
            shown = quote(path[:_SHOWN_PATH])
            self._on_request(Answered(client, method, shown, status, seconds, request_id))


_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


def _id_of(scope: Scope) -> str:
    """Return the id that the client gave, if it is one that a log can hold, else a new one."""
    given = [value for name, value in scope["headers"] if name == _HEADER]
    if len(given) == 1 and _SANE_ID.fullmatch(given[0]):
        return bytes(given[0]).decode()
    return uuid.uuid4().hex


class Guard:
    """Lets only those in who may ask, and has an answer for whatever fails, without a traceback."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Take the application, and who may ask."""
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def noted_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        error = self._refusal(scope)
        if error is None:
            error = await self._failure(scope, receive, noted_send)
        # Once an answer has begun there is no other; the connection then ends in the middle.
        if error is not None and not has_begun:
            await answer_error(error, scope, receive, send)
        elif error is not None and scope["type"] == "websocket":
            code = 1001 if error.status == 503 else 1011
            await send({"type": "websocket.close", "code": code, "reason": error.code})

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if scope["type"] == "websocket":
            refusal = self._access.foreign(headers)
            if refusal is not None:
                return refusal
        return self._access.refusal(scope["path"], headers, scope.get("subprotocols", ()))

    async def _failure(self, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        """Run the application; return what to answer instead if it fails."""
        try:
            await self._app(scope, receive, send)
        except ApiError as error:  # of a WebSocket; those of requests are answered further in
            return error
        except (ClientDisconnect, WebSocketDisconnect):
            return None
        except asyncio.CancelledError:  # the server's last means to end a request
            return ApiError(503, STOPPING, code="stopping")
        except Exception as error:
            request_id = scope[REQUEST_ID]
            what = f"{scope.get('method', 'GET')} {scope['path']} failed"
            _LOGGER.error(
                f"{what}: {type(error).__name__}: {error} (request {request_id})",
                exc_info=error,
                extra={REQUEST_ID: request_id},
            )
            return ApiError(500, INTERNAL)
        return None


async def answer_error(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, or refuse a WebSocket, with an error."""
    response = error.response(scope[REQUEST_ID])
    if scope["type"] == "websocket" and "websocket.http.response" not in scope["extensions"]:
        await send({"type": "websocket.close", "code": 1008, "reason": error.code})
        return
    # Starlette's responses know how to answer a WebSocket with what HTTP has.
    await response(scope, receive, send)
