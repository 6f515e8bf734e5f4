"""The ASGI application: routes, middleware and error handlers around one recognizer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.websockets import WebSocket

from mien import __version__
from mien.service import Limits, openapi
from mien.service.access import Access
from mien.service.errors import REQUEST_ID, ApiError, json_bytes
from mien.service.metrics import CONTENT_TYPE, Metrics
from mien.service.middleware import Middleware, RequestLog
from mien.service.page_files import page_files, page_routes
from mien.service.service import Load, Service
from mien.service.stream import PATH as STREAM
from mien.service.stream import serve_stream
from mien.service.uploads import IMAGE, VIDEO
from mien.service.video import PATH as VIDEO_PATH
from mien.service.video import answer_video

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

ANALYZE = "/v1/analyze"
PATHS: tuple[str, ...] = (
    "/",
    ANALYZE,
    STREAM,
    VIDEO_PATH,
    "/healthz",
    "/readyz",
    "/version",
    "/metrics",
    "/docs",
    "/openapi.json",
)
"""Paths of the API and of the page itself; the page's files are in `mien.service.page_files`."""

_Answer = Callable[[], Awaitable[Response]]
_LOGGER = logging.getLogger(__name__)
_DESCRIPTION = (
    "Find every face in an image and its emotion. Scores are calibrated probabilities. "
    "Images are processed in memory and discarded."
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
    """Build the service as an ASGI application; several applications share no state.

    Args:
        load: loads the recognizer, in a thread, when the application starts.
        limits: limits on sizes, times and concurrency.
        access: tokens and origins; everybody may use the service by default.
        on_ready: called with the recognizer once it is loaded and warmed up.
        on_failure: called if it cannot be loaded. By default the error is logged, and `/readyz`
            stays at 503.
        on_request: called with each answered request; `str` formats it as a line.

    Example:
        >>> app = create_app(mien.load)  # for any ASGI server
    """
    metrics = Metrics(PATHS)
    service = Service(load, limits or Limits(), metrics)
    access = access or Access()

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
        docs_url=None,  # FastAPI's own pages load scripts from other servers
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    _add_analyze(app, service)
    _add_stream(app, service)
    _add_video(app, service)
    _add_status(app, service)
    _add_docs(app)
    app.router.routes += page_routes(page_files())
    _describe_tokens(app, access)
    app.add_middleware(Middleware, metrics=metrics, access=access, on_request=on_request)
    app.add_exception_handler(HTTPException, _routing_error)
    return app


# ---------------------------------------------------------------- routes
def _add_analyze(app: FastAPI, service: Service) -> None:
    @app.post(
        ANALYZE,
        operation_id="analyze",
        summary="Find every face in an image and its emotion",
        response_class=Response,
        responses=openapi.ANALYZE_REPLIES,
        openapi_extra={"requestBody": openapi.request_body(IMAGE)},
    )
    async def analyze(request: Request) -> Response:
        """Send one image, get the object that `mien predict --format json` writes."""
        return _json((await service.analyze_request(request)).to_dict())


def _add_stream(app: FastAPI, service: Service) -> None:
    async def stream(socket: WebSocket) -> None:
        await serve_stream(service, socket)

    async def unknown_stream(_: WebSocket) -> None:
        raise ApiError(404, f"there is no such path: expected {STREAM}")

    app.router.add_websocket_route(STREAM, stream)
    app.router.add_websocket_route("/{path:path}", unknown_stream)

    @app.get(
        STREAM,
        operation_id="stream",
        summary="Analyze live frames over a WebSocket",
        response_class=Response,
        status_code=101,
        responses=openapi.STREAM_REPLIES,
        openapi_extra={"parameters": openapi.STREAM_PARAMETERS},
    )
    async def no_handshake() -> Response:
        """Open a WebSocket, and send an image as each binary message."""
        raise ApiError(
            426,
            "this path is a WebSocket: expected a handshake (GET, HTTP/1.1, Upgrade: websocket, "
            "Sec-WebSocket-Version: 13, Sec-WebSocket-Key)",
            headers={"Upgrade": "websocket", "Connection": "Upgrade"},
        )


def _add_video(app: FastAPI, service: Service) -> None:
    @app.post(
        VIDEO_PATH,
        operation_id="video",
        summary="Track the faces of a video and their emotions",
        response_class=Response,
        responses=openapi.VIDEO_REPLIES,
        openapi_extra={
            "requestBody": openapi.request_body(VIDEO),
            "parameters": openapi.VIDEO_PARAMETERS,
        },
    )
    async def video(request: Request) -> Response:
        """Send a video, get the results of its frames and a summary while it is analyzed."""
        return await answer_video(service, request)


def _add_status(app: FastAPI, service: Service) -> None:
    def get(name: str, summary: str, responses: openapi.Replies) -> Callable[[_Answer], _Answer]:
        return app.get(
            f"/{name}",
            operation_id=name,
            summary=summary,
            response_class=Response,
            responses=responses,
        )

    @get("healthz", "Whether the process is alive", openapi.HEALTH_REPLIES)
    async def healthz() -> Response:
        """Answer as long as the process is alive."""
        return _json({"status": "ok"})

    @get("readyz", "Whether images can be sent", openapi.READY_REPLIES)
    async def readyz() -> Response:
        """Answer with 200 once the model is loaded and warmed up."""
        service.ready()
        return _json({"status": "ready"})

    @get("version", "Versions and model", openapi.VERSION_REPLIES)
    async def version() -> Response:
        """Return the versions of mien and the model, its emotions and the detector."""
        recognizer = service.recognizer
        return _json(
            {
                "mien": __version__,
                "model": recognizer and recognizer.model.to_dict(),
                "labels": recognizer and recognizer.labels,
                "reading": recognizer and (recognizer.model.labels or None),
                "detector": recognizer and recognizer.detector.name,
            }
        )

    @get("metrics", "Metrics for Prometheus", openapi.METRICS_REPLIES)
    async def metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def _add_docs(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    async def docs() -> HTMLResponse:
        """Return the API description as a page."""
        return HTMLResponse(openapi.docs_html(app.openapi()), headers=openapi.DOCS_HEADERS)


def _describe_tokens(app: FastAPI, access: Access) -> None:
    """State in the API description which paths require a token."""
    closed = [path for path in PATHS if access.requires_token(path)]
    if not closed:
        return
    description = app.openapi()
    bearer = {"type": "http", "scheme": "bearer"}
    description["components"]["securitySchemes"] = {"bearer": bearer}
    for path in closed:
        for operation in description["paths"][path].values():
            operation["security"] = [{"bearer": []}]


def _json(content: object) -> Response:
    return Response(json_bytes(content), media_type="application/json")


# ---------------------------------------------------------------- errors
async def _routing_error(request: Request, error: Exception) -> Response:
    """Answer an unknown path or a wrong method in the form of all errors."""
    assert isinstance(error, HTTPException)
    headers: dict[str, Any] = dict(error.headers or {})
    message = "the request cannot be answered: see /docs for the API"
    if error.status_code == 404:
        message = f"there is no such path: expected one of {', '.join(PATHS)}"
    if error.status_code == 405:
        allowed = set(headers.get("Allow", "").split(", "))
        allowed |= {"HEAD"} if "GET" in allowed else set()
        headers["Allow"] = ", ".join(sorted(allowed))
        message = f"method not allowed for this path: expected {headers['Allow']}"
    return ApiError(error.status_code, message, headers=headers).response(request.scope[REQUEST_ID])


def _log_failure(error: Exception) -> None:
    _LOGGER.error("the model cannot be loaded: %s", error, exc_info=error)
