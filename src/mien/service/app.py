"""The application: routes, middleware and errors, put together for one recognizer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mien import __version__
from mien.service.metrics import CLIENT_GONE, Metrics
from mien.service.page import PAGE_HEADERS, page_html
from mien.service.page_files import page_files, page_routes
from mien.service.routes import PATHS, make_router
from mien.service.schemas import ApiError
from mien.service.service import Limits, Load, Service

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

RequestLog = Callable[[str], None]
"""Takes a line for each request that was answered."""

_LOGGER = logging.getLogger(__name__)
_DESCRIPTION = (
    "Find every face in an image and read its emotion. Scores are calibrated probabilities. "
    "Images are read in memory and forgotten. There is no authentication."
)


def create_app(
    load: Load,
    limits: Limits | None = None,
    *,
    on_ready: Callable[[Recognizer], None] | None = None,
    on_failure: Callable[[Exception], None] | None = None,
    on_request: RequestLog | None = None,
) -> FastAPI:
    """Return the service as an ASGI application. Nothing is shared between two of them.

    Args:
        load: makes the recognizer, in a thread, once the application starts.
        limits: sizes, times and concurrency; the defaults unless given.
        on_ready: called when the recognizer is loaded and warm.
        on_failure: called when it cannot be; unless given, that is logged, and `/readyz` stays 503.
        on_request: called with a line for each request that was answered.

    Example:
        >>> app = create_app(mien.load)  # for any ASGI server
    """
    metrics = Metrics(PATHS)
    service = Service(load, limits or Limits(), metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start(on_ready or (lambda _: None), on_failure or _log_failure)
        yield
        await service.stop()

    app = FastAPI(
        title="mien",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load their scripts from other servers
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.include_router(make_router(service))
    app.add_api_route("/docs", _docs(app), include_in_schema=False, response_class=HTMLResponse)
    app.router.routes += page_routes(page_files())
    app.add_middleware(Middleware, metrics=metrics, on_request=on_request)
    app.add_exception_handler(ApiError, _error_response)
    app.add_exception_handler(HTTPException, _routing_error)
    return app


def _docs(app: FastAPI) -> Callable[[], Awaitable[HTMLResponse]]:
    async def docs() -> HTMLResponse:
        """Show the description to people."""
        return HTMLResponse(page_html(app.openapi()), headers=PAGE_HEADERS)

    return docs


async def _error_response(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _routing_error(_: Request, error: Exception) -> Response:
    """Answer an unknown path or another method in the shape of all errors."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    text = "the request cannot be answered: see /docs for what can"
    if error.status_code == 404:
        text = f"there is no such path: expected one of {', '.join(PATHS)}"
    if error.status_code == 405:
        allowed = set(headers.get("Allow", "").split(", "))
        allowed |= {"HEAD"} if "GET" in allowed else set()
        headers["Allow"] = ", ".join(sorted(allowed))
        text = f"this method is not for this path: expected {headers['Allow']}"
    return ApiError(error.status_code, text, headers=headers).response()


def _log_failure(error: Exception) -> None:
    _LOGGER.error("the model cannot be served: %s", error, exc_info=error)


class Middleware:
    """The outermost layer: every request is counted and answered, and no answer has a traceback.

    HEAD is answered as GET without the body. Cookies are dropped: nothing uses any, FastAPI would
    parse them for every request, and Python before 3.11.10 takes minutes for some (CVE-2024-7592).
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, on_request: RequestLog | None) -> None:
        """Take the application, its metrics, and what takes a line for each request."""
        self._app = app
        self._metrics = metrics
        self._on_request = on_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = CLIENT_GONE, time.perf_counter()
        method, path = scope["method"], scope["path"]

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        headers = [each for each in scope["headers"] if each[0] != b"cookie"]
        inner = {**scope, "method": "GET" if method == "HEAD" else method, "headers": headers}
        with self._metrics.request_in_flight():
            error = await self._failure(inner, receive, counted_send)
            # Once an answer has begun there is no other; the connection then ends in the middle.
            if error is not None and status == CLIENT_GONE:
                await error.response()(scope, receive, counted_send)
        seconds = time.perf_counter() - start
        self._metrics.answered(method, path, status, seconds)
        if self._on_request is not None:
            client = scope["client"][0] if scope.get("client") else "-"
            self._on_request(f"{client} {method} {path[:200]} {status} {1000 * seconds:.0f} ms")

    async def _failure(self, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        """Run the application; return what to answer instead if it fails."""
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            return None
        except asyncio.CancelledError:  # the server's last means to end a request
            return ApiError(503, "the service is stopping: try again in a moment", code="stopping")
        except Exception as error:
            what = f"{scope['method']} {scope['path']} failed: {type(error).__name__}: {error}"
            _LOGGER.error(what, exc_info=error)
            return ApiError(
                500, "internal error: the image may be fine; the service's log says what failed"
            )
        return None
