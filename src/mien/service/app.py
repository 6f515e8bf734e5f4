"""The application: routes, middleware and errors, put together for one recognizer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from mien import __version__
from mien.service.access import Access
from mien.service.limits import Limits
from mien.service.metrics import Metrics
from mien.service.middleware import REQUEST_ID, Middleware, RequestLog
from mien.service.page import PAGE_HEADERS, page_html
from mien.service.page_files import page_files, page_routes
from mien.service.routes import PATHS, make_router
from mien.service.schemas import ApiError
from mien.service.service import Load, Service

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

_LOGGER = logging.getLogger(__name__)
_DESCRIPTION = (
    "Find every face in an image and read its emotion. Scores are calibrated probabilities. "
    "Images are read in memory and forgotten."
)


def create_app(
    load: Load,
    limits: Limits | None = None,
    *,
    access: Access | None = None,
    on_ready: Callable[[Recognizer], None] | None = None,
    on_failure: Callable[[Exception], None] | None = None,
    on_request: RequestLog | None = None,
) -> FastAPI:
    """Return the service as an ASGI application. Nothing is shared between two of them.

    Args:
        load: makes the recognizer, in a thread, once the application starts.
        limits: sizes, times and concurrency; the defaults unless given.
        access: who may ask; everybody unless given.
        on_ready: called when the recognizer is loaded and warm.
        on_failure: called when it cannot be; unless given, that is logged, and `/readyz` stays 503.
        on_request: called with each request that was answered; `str` makes a line of it.

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
    access = access or Access()
    _describe_tokens(app, access)
    app.add_middleware(Middleware, metrics=metrics, access=access, on_request=on_request)
    app.add_exception_handler(ApiError, _error_response)
    app.add_exception_handler(HTTPException, _routing_error)
    return app


def _describe_tokens(app: FastAPI, access: Access) -> None:
    """Have the description say which paths want a token, if any do."""
    closed = [path for path in PATHS if access.closes(path)]
    if not closed:
        return
    described = app.openapi()
    bearer = {"type": "http", "scheme": "bearer"}
    described["components"]["securitySchemes"] = {"bearer": bearer}
    for path in closed:
        for operation in described["paths"][path].values():
            operation["security"] = [{"bearer": []}]


def _docs(app: FastAPI) -> Callable[[], Awaitable[HTMLResponse]]:
    async def docs() -> HTMLResponse:
        """Show the description to people."""
        return HTMLResponse(page_html(app.openapi()), headers=PAGE_HEADERS)

    return docs


async def _error_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response(request.scope.get(REQUEST_ID))


async def _routing_error(request: Request, error: Exception) -> Response:
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
    return ApiError(error.status_code, text, headers=headers).response(
        request.scope.get(REQUEST_ID)
    )


def _log_failure(error: Exception) -> None:
    _LOGGER.error("the model cannot be served: %s", error, exc_info=error)
