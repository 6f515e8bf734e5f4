"""Middleware of every request: id, metrics, access log, access control, error replies."""

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
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from mien.service.access import Access
from mien.service.errors import REQUEST_ID, ApiError, internal_error, stopping_error
from mien.service.metrics import CLIENT_GONE, Metrics

_ID_HEADER = b"x-request-id"
_VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_MAX_LOGGED_PATH = 200
_PREFLIGHT_MAX_AGE_S = 600
_START_MESSAGES = ("http.response.start", "websocket.accept", "websocket.http.response.start")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class AccessRecord:
    """Entry of the access log; contains nothing of an image.

    Attributes:
        client: address of the client.
        method: HTTP method.
        path: path without its query, percent-encoded so that it cannot imitate other fields.
        status: HTTP status; 101 for a WebSocket.
        seconds: time from the request's head to the end of its answer.
        request_id: id of the request.
    """

    client: str
    method: str
    path: str
    status: int
    seconds: float
    request_id: str

    def __str__(self) -> str:
        """Return the line of a text log."""
        request = f"{self.client} {self.method} {self.path} {self.status}"
        return f"{request} {1000 * self.seconds:.0f} ms {self.request_id}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of a JSON log."""
        fields = dict(vars(self))
        fields["ms"] = round(1000 * fields.pop("seconds"), 1)
        return fields


RequestLog = Callable[[AccessRecord], None]


class Middleware:
    """Outermost ASGI layer: gives every request an id, counts it and logs it.

    HEAD is answered as GET without the body. Cookies are dropped: nothing uses them, FastAPI would
    parse them for every request, and Python before 3.11.10 takes minutes for some (CVE-2024-7592).

    Args:
        app: ASGI application.
        metrics: counts the requests.
        access: tokens and origins.
        on_request: called with each answered request, if given.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, access: Access, on_request: RequestLog | None
    ) -> None:
        self._app: ASGIApp = Guard(app, access)
        if access.origins:
            self._app = _Cors(
                self._app,
                allow_origins=access.origins,
                allow_methods=("GET", "HEAD", "POST"),
                allow_headers=("Accept", "Authorization", "Content-Type", "X-Request-ID"),
                expose_headers=("Retry-After", "X-Request-ID"),
                max_age=_PREFLIGHT_MAX_AGE_S,
            )
        self._metrics = metrics
        self._on_request = on_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request or a WebSocket, as an ASGI application."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        status, start = CLIENT_GONE, time.perf_counter()
        method, path = scope.get("method", "GET"), scope["path"]
        request_id = _request_id(scope)

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] in _START_MESSAGES:
                status = message.get("status", 101)
                headers = [*message.get("headers", ()), (_ID_HEADER, request_id.encode())]
                message = {**message, "headers": headers}
            elif message["type"] == "http.response.body" and method == "HEAD":
                message = {**message, "body": b""}
            elif message["type"] == "websocket.close" and status == CLIENT_GONE:
                status = 403  # what the server answers to a WebSocket closed before it was accepted
            await send(message)

        inner = {
            **scope,
            REQUEST_ID: request_id,
            "headers": [header for header in scope["headers"] if header[0] != b"cookie"],
        }
        if method == "HEAD":
            inner["method"] = "GET"
        with self._metrics.requests_in_flight.track_inprogress():
            await self._app(inner, receive, observed_send)
        seconds = time.perf_counter() - start
        self._metrics.answered(method, path, status, seconds)
        if self._on_request is not None:
            client = scope["client"][0] if scope.get("client") else "-"
            logged_path = quote(path[:_MAX_LOGGED_PATH])
            self._on_request(AccessRecord(client, method, logged_path, status, seconds, request_id))


class _Cors(CORSMiddleware):
    """Starlette's middleware, whose refusals have the form of all errors."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        del response.headers["content-length"], response.headers["content-type"]
        problem = bytes(response.body).decode()  # such as "Disallowed CORS origin"
        message = f"{problem}: expected an origin of --cors-origin, and what this answer allows"
        return ApiError(400, message, headers=response.headers).response()


def _request_id(scope: Scope) -> str:
    """Return the client's id of a request if it can be logged safely, else a new one."""
    values = [value for name, value in scope["headers"] if name == _ID_HEADER]
    if len(values) == 1 and _VALID_ID.fullmatch(values[0]):
        return bytes(values[0]).decode()
    return uuid.uuid4().hex


class Guard:
    """ASGI layer that checks access, and turns every exception into an error reply.

    Args:
        app: ASGI application.
        access: tokens and origins.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request or a WebSocket, as an ASGI application."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        has_started = False

        async def observed_send(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        error = self._access_error(scope) or await self._run(scope, receive, observed_send)
        # An answer that has started cannot be replaced: its connection ends in the middle.
        if error is not None and not has_started:
            await _reply(error, scope, receive, send)
        elif error is not None and scope["type"] == "websocket":
            code = 1001 if error.status == 503 else 1011
            await send({"type": "websocket.close", "code": code, "reason": error.code})

    def _access_error(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        error = self._access.origin_error(headers) if scope["type"] == "websocket" else None
        return error or self._access.token_error(
            scope["path"], headers, scope.get("subprotocols", ())
        )

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        """Run the application; return the error to answer with if it fails."""
        try:
            await self._app(scope, receive, send)
        except ApiError as error:
            return error
        except (ClientDisconnect, WebSocketDisconnect):
            return None
        except asyncio.CancelledError:  # the server cancels requests that outlast its shutdown
            return stopping_error()
        except Exception as error:
            event = f"{scope.get('method', 'GET')} {scope['path']} failed"
            return internal_error(_LOGGER, event, error, scope[REQUEST_ID])
        return None


async def _reply(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, or refuse a WebSocket, with an error."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope["extensions"]:
        await send({"type": "websocket.close", "code": 1008, "reason": error.code})
        return
    # Starlette's responses can refuse a WebSocket, too.
    await error.response(scope[REQUEST_ID])(scope, receive, send)
