"""The outermost layer: every request is counted and has an answer, and no trace is in any."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mien.service.metrics import GONE, Metrics
from mien.service.refusal import Refusal, internal_error

_LOGGER = logging.getLogger(__name__)

RequestLog = Callable[[str], None]
"""Takes a line on each request that was answered."""


class Front:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, metrics: Metrics, on_request: RequestLog | None) -> None:
        """Take what answers, what counts, and who is told a line on each request."""
        self._app = app
        self._metrics = metrics
        self._on_request = on_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = GONE, time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif scope["method"] == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        with self._metrics.request_in_flight():
            refusal = await self._failure(_as_answered(scope), receive, noting)
            # Once an answer has begun there is no other; the connection then ends in the middle.
            if refusal is not None and status == GONE:
                await refusal.response()(scope, receive, noting)
        seconds = time.perf_counter() - start
        self._metrics.answered(scope["method"], scope["path"], status, seconds)
        if self._on_request is not None:
            self._on_request(_line(scope, status, seconds))

    async def _failure(self, scope: Scope, receive: Receive, send: Send) -> Refusal | None:
        """Let the rest answer; what is to be said instead is returned where it fails."""
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            return None
        except asyncio.CancelledError:  # the server's last means to end a request
            return Refusal(503, "the service is stopping: try again in a moment", code="stopping")
        except Exception as error:
            what = f"{scope['method']} {scope['path']} failed: {type(error).__name__}: {error}"
            _LOGGER.error(what, exc_info=error)
            return internal_error()
        return None


def _as_answered(scope: Scope) -> Scope:
    """Return a request as the rest sees it: HEAD is a GET whose body is left out on the way back.

    It has no cookies: nothing here uses any, FastAPI would parse them for every request, and
    Python before 3.11.10 takes minutes for some (CVE-2024-7592).
    """
    headers = [each for each in scope["headers"] if each[0] != b"cookie"]
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    return {**scope, "method": method, "headers": headers}


def _line(scope: Scope, status: int, seconds: float) -> str:
    client = scope.get("client")
    host = client[0] if client else "-"
    return f"{host} {scope['method']} {scope['path'][:200]} {status} {1000 * seconds:.0f} ms"
