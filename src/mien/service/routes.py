"""The paths, what they answer, and what OpenAPI says of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from mien import __version__
from mien.service import schemas
from mien.service.forms import FIELD, FORM_TYPE, IMAGE_TYPES, VIDEO_FIELD, VIDEO_TYPES
from mien.service.metrics import CONTENT_TYPE
from mien.service.schemas import ApiError
from mien.service.service import Service
from mien.service.stream import PATH as STREAM
from mien.service.stream import serve_stream
from mien.service.video import NDJSON, SSE, answer_video
from mien.service.video import PATH as VIDEO

ANALYZE = "/v1/analyze"
PATHS: tuple[str, ...] = (
    "/",
    ANALYZE,
    STREAM,
    VIDEO,
    "/healthz",
    "/readyz",
    "/version",
    "/metrics",
    "/docs",
    "/openapi.json",
)

_ERRORS = {
    400: "malformed: not the form it says it is, without a file, or empty",
    401: "there are tokens, and none of them came with the request",
    403: "the page that asks is of another host",
    408: "the file did not arrive in time",
    413: "more bytes than the service takes",
    415: "not of a type that is expected",
    422: "cannot be decoded: damaged, of another kind, of too many pixels, or takes too long",
    426: "no handshake of a WebSocket",
    500: "something failed inside; the service's log says what",
    501: "what reads videos is not installed",
    503: "busy, not ready yet, or stopping: try again after Retry-After seconds",
}
_ANALYZE_ERRORS = (400, 401, 408, 413, 415, 422, 500, 503)
_TRACK = {
    "name": "track",
    "in": "query",
    "description": "1: number people (track_id) and smooth their scores over time (smoothed)",
    "schema": {"type": "string"},
}
_FILE = {"type": "string", "format": "binary", "minLength": 1}
_WINDOW = [
    {"name": name, "in": "query", "description": text, "schema": {"type": "number", "minimum": 0}}
    for name, text in (
        ("start", "seconds from the video's start, from which on"),
        ("end", "seconds, up to which; to its end unless given"),
        ("every", "seconds between two frames that are looked at; each frame unless given"),
    )
]
_EVENTS: dict[str, Any] = {
    "description": (
        "a line each: progress, a Result for each frame that is looked at, and at the end done, "
        "or an Error with the event 'error'; as server-sent events where Accept asks for them"
    ),
    "content": {
        NDJSON: {
            "schema": {
                "anyOf": [
                    {"$ref": "#/components/schemas/Result"},
                    schemas.Progress.model_json_schema(),
                    schemas.Done.model_json_schema(),
                    {"$ref": "#/components/schemas/Error"},
                ]
            }
        },
        SSE: {"schema": {"type": "string"}},
    },
}


def make_router(service: Service) -> APIRouter:
    """Return all paths but the documentation's."""
    router = APIRouter()
    router.add_api_route(
        ANALYZE,
        _analyze(service),
        methods=["POST"],
        summary="Find every face in an image and read its emotion",
        response_class=Response,
        responses={200: _reply(schemas.Result, "what was found"), **_errors(*_ANALYZE_ERRORS)},
        openapi_extra={"requestBody": _body(FIELD, IMAGE_TYPES, "an image")},
        operation_id="analyze",
    )
    _add_stream(router, service)
    _add_video(router, service)
    _add_states(router, service)
    return router


def _analyze(service: Service) -> Any:
    async def analyze(request: Request) -> Response:
        """Give one image, get the object that `mien predict --format json` writes."""
        result = await service.analyze_request(request)
        return _json(result.to_dict())

    return analyze


def _add_stream(router: APIRouter, service: Service) -> None:
    async def stream(socket: WebSocket) -> None:
        await serve_stream(service, socket)

    async def nowhere(_: WebSocket) -> None:
        raise ApiError(404, f"there is no such path: expected {STREAM}")

    async def no_handshake() -> Response:
        """Open a WebSocket here, and send an image as each binary message."""
        raise ApiError(
            426,
            "this path is a WebSocket's: expected a handshake (GET, HTTP/1.1, Upgrade: websocket, "
            "Sec-WebSocket-Version: 13, Sec-WebSocket-Key)",
            headers={"Upgrade": "websocket", "Connection": "Upgrade"},
        )

    router.add_websocket_route(STREAM, stream)
    router.add_websocket_route("/{path:path}", nowhere)
    router.add_api_route(
        STREAM,
        no_handshake,
        methods=["GET"],
        summary="Read live frames over a WebSocket",
        response_class=Response,
        status_code=101,
        responses={
            101: {"description": "each binary message, an image, is answered by a text message"},
            **_errors(401, 403, 426, 503),
        },
        openapi_extra={"parameters": [_TRACK]},
        operation_id="stream",
    )


def _add_video(router: APIRouter, service: Service) -> None:
    async def video(request: Request) -> Response:
        """Give a video, get its frames' results and what is to be said of it, as they come."""
        return await answer_video(service, request)

    router.add_api_route(
        VIDEO,
        video,
        methods=["POST"],
        summary="Track the faces of a video and read their emotions",
        response_class=Response,
        responses={200: _EVENTS, **_errors(*_ANALYZE_ERRORS, 501)},
        openapi_extra={
            "requestBody": _body(VIDEO_FIELD, VIDEO_TYPES, "a video"),
            "parameters": _WINDOW,
        },
        operation_id="video",
    )


def _add_states(router: APIRouter, service: Service) -> None:
    async def healthz() -> Response:
        """Answer as long as the process lives."""
        return _json({"status": "ok"})

    async def readyz() -> Response:
        """Answer with 200 once the model is loaded and warm."""
        service.ready()
        return _json({"status": "ready"})

    async def version() -> Response:
        """Say which mien, model and detector answer."""
        there = service.recognizer
        return _json(
            {
                "mien": __version__,
                "model": None if there is None else there.model.to_dict(),
                "labels": None if there is None else list(there.labels),
                "detector": None if there is None else there.detector.name,
            }
        )

    async def metrics() -> Response:
        """Give Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    state = _reply(schemas.State, "yes")
    text: dict[str, Any] = {"description": "metrics", "content": {"text/plain": {}}}
    served = _reply(schemas.Version, "what is served")
    for path, answer, summary, reply, errors in (
        ("/healthz", healthz, "Whether the process lives", state, ()),
        ("/readyz", readyz, "Whether images can be sent", state, (503,)),
        ("/version", version, "What is served", served, (401,)),
        ("/metrics", metrics, "Metrics for Prometheus", text, (401,)),
    ):
        router.add_api_route(
            path,
            answer,
            methods=["GET"],
            summary=summary,
            response_class=Response,
            responses={200: reply, **_errors(*errors)},
            operation_id=path[1:],
        )


def _body(field: str, types: Iterable[str], what: str) -> dict[str, Any]:
    """Describe an upload: a form with one file, or the bytes themselves."""
    form = {
        "type": "object",
        "required": [field],
        "additionalProperties": False,
        "properties": {field: _FILE},
    }
    return {
        "required": True,
        "description": f"A form with one file in the field {field!r}, or the bytes of {what}.",
        "content": {
            FORM_TYPE: {"schema": form},
            **{kind: {"schema": _FILE} for kind in types},
        },
    }


def _json(content: object) -> Response:
    return Response(schemas.json_bytes(content), media_type="application/json")


def _reply(model: type[Any], description: str) -> dict[str, Any]:
    return {"model": model, "description": description}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _reply(schemas.Error, _ERRORS[status]) for status in statuses}
