"""API description: models of the replies, details of the operations, and the page at ``/docs``.

Replies are written by `to_dict` of `mien.core.results.Result` and others; the models only describe
them. Clients generated from the description use their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mien.core.results import QUALITY_FLAGS, SCHEMA
from mien.service.errors import ERROR_SCHEMA
from mien.service.uploads import FORM_TYPE, Media
from mien.service.video import EVENT_SCHEMA, NDJSON, SSE


# ---------------------------------------------------------------- replies
class _Reply(BaseModel):
    """Object with exactly the fields that are declared."""

    model_config = ConfigDict(extra="forbid")


class Box(_Reply):
    """A rectangle in pixels of the upright image."""

    x: int = Field(ge=0, description="left")
    y: int = Field(ge=0, description="top")
    w: int = Field(ge=1, description="width")
    h: int = Field(ge=1, description="height")


class Quality(_Reply):
    """Image quality of a face."""

    size_px: int = Field(ge=1, description="smaller side of the box in pixels")
    blur: float = Field(ge=0, le=1, description="0 is sharp, 1 fully blurred")
    flags: list[str] = Field(description=f"any of {', '.join(QUALITY_FLAGS)}")


class Smoothed(_Reply):
    """A person's scores, smoothed over time."""

    emotion: str = Field(description="the most likely emotion, a key of scores")
    confidence: float = Field(ge=0, le=1, description="its score")
    scores: dict[str, float] = Field(description="probability of each emotion")


class Face(_Reply):
    """One face and its emotion."""

    face_id: int = Field(ge=0, description="from 0, left to right")
    track_id: int | None = Field(description="number of the person; null for an image")
    box: Box
    face_confidence: float = Field(ge=0, le=1, description="the detector's confidence")
    emotion: str = Field(description="the most likely emotion, a key of scores")
    confidence: float = Field(ge=0, le=1, description="its score")
    uncertain: bool = Field(description="below the model's threshold for this emotion")
    scores: dict[str, float] = Field(description="calibrated probability of each emotion")
    quality: Quality
    smoothed: Smoothed | None = Field(
        default=None, description="scores over time; only where people are tracked"
    )


class Model(_Reply):
    """The model that gave a result."""

    name: str
    version: str
    sha256: str = Field(description="of the ONNX file")


class Result(_Reply):
    """The faces in an image: the object that `mien predict --format json` writes."""

    schema_: Literal["mien/1"] = Field(alias="schema", description=f"always {SCHEMA}")
    source: str | None = Field(description="the form's file name; null for a raw body")
    frame: int | None = Field(description="null for an image")
    time_s: float | None = Field(description="null for an image")
    status: Literal["ok", "no_face", "unreadable", "error"] = Field(
        description="unreadable and error, with an error message, only occur in videos"
    )
    width: int | None = Field(ge=1, description="pixels of the upright image")
    height: int | None = Field(ge=1, description="pixels of the upright image")
    faces: list[Face] = Field(description="left to right; empty if there are none")
    model: Model
    labels: str = Field(description="labels that the scores follow: people, fer2013, or own")
    error: str | None = Field(default=None, description="why a frame could not be analyzed")


class Progress(_Reply):
    """Progress of a video."""

    schema_: Literal["mien-event/1"] = Field(alias="schema", description=f"always {EVENT_SCHEMA}")
    event: Literal["progress"]
    time_s: float = Field(description="time of the last frame that was read")
    duration_s: float | None = Field(description="of the video, if its header gives one")
    share: float | None = Field(ge=0, le=1, description="share of the video that has been read")
    frames: int = Field(ge=0, description="frames with a result")


class Done(_Reply):
    """The end of a video, all of which has been read."""

    schema_: Literal["mien-event/1"] = Field(alias="schema", description=f"always {EVENT_SCHEMA}")
    event: Literal["done"]
    frames: int = Field(ge=0, description="frames with a result")
    faces: int = Field(ge=0, description="faces in all frames")
    people: list[dict[str, object]] = Field(
        description="track_id, frames, start_s, end_s and episodes of each person"
    )
    error: str | None = Field(description="where the video broke off, and why")


class Error(_Reply):
    """Why there is no result."""

    schema_: Literal["mien-error/1"] = Field(alias="schema", description=f"always {ERROR_SCHEMA}")
    code: str = Field(description="name of the error for programs")
    error: str = Field(description="one line: what happened, what was expected, how to fix it")
    request_id: str | None = Field(
        default=None, description="as X-Request-ID; missing if the request could not be parsed"
    )


class State(_Reply):
    """State of the service."""

    status: Literal["ok", "ready"]


class Version(_Reply):
    """Versions and model; null while the model is being loaded."""

    mien: str = Field(description="version of the package")
    model: Model | None
    labels: list[str] | None = Field(description="emotions of the model")
    reading: str | None = Field(
        description="labels that the scores follow: people, fer2013, or own"
    )
    detector: str | None = Field(description="face detector")


# ---------------------------------------------------------------- operations
_ERRORS = {
    400: "malformed: an invalid form, no file in it, or an empty file",
    401: "a token is required, and the request has none that is known",
    403: "the WebSocket is opened by a page of another host",
    408: "the file did not arrive in time",
    413: "the file is larger than the service accepts",
    415: "unexpected content type",
    422: "cannot be decoded: damaged, of another kind, too many pixels, or takes too long",
    426: "not a WebSocket handshake",
    500: "internal error; the service's log says what failed",
    501: "the packages that read videos are not installed",
    503: "busy, not ready yet, or stopping: try again after Retry-After seconds",
}
_UPLOAD_ERRORS = (400, 401, 408, 413, 415, 422, 500, 503)
_FILE = {"type": "string", "format": "binary", "minLength": 1}


Replies = dict[int | str, dict[str, Any]]
"""Status and description of each reply of an operation, for FastAPI."""


def _errors(*statuses: int) -> Replies:
    return {status: {"model": Error, "description": _ERRORS[status]} for status in statuses}


def request_body(media: Media) -> dict[str, Any]:
    """Describe an upload: a form with one file, or the file as the body."""
    form = {
        "type": "object",
        "required": [media.name],
        "additionalProperties": False,
        "properties": {media.name: _FILE},
    }
    return {
        "required": True,
        "description": f"A form with one file in the field {media.name!r}, or the file as the "
        "body.",
        "content": {
            FORM_TYPE: {"schema": form},
            **{content_type: {"schema": _FILE} for content_type in media.types},
        },
    }


def _query(name: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": dict(schema)}


_SECONDS = {"type": "number", "minimum": 0}

ANALYZE_REPLIES: Replies = {
    200: {"model": Result, "description": "the faces found"},
    **_errors(*_UPLOAD_ERRORS),
}

STREAM_PARAMETERS = [
    _query(
        "track",
        "1: number people (track_id) and smooth their scores over time (smoothed)",
        {"type": "string"},
    )
]
STREAM_REPLIES: Replies = {
    101: {"description": "each binary message, an image, is answered by a text message"},
    **_errors(401, 403, 426, 503),
}

VIDEO_PARAMETERS = [
    _query("start", "first moment to read, in seconds", _SECONDS),
    _query("end", "moment to stop at, in seconds (default: the video's end)", _SECONDS),
    _query("every", "seconds between two analyzed frames (default: every frame)", _SECONDS),
]
VIDEO_REPLIES: Replies = {
    200: {
        "description": (
            "one line each: progress, a Result for each analyzed frame, and at the end done, or an "
            "Error with the event 'error'; as server-sent events if Accept asks for them"
        ),
        "content": {
            NDJSON: {
                "schema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/Result"},
                        Progress.model_json_schema(),
                        Done.model_json_schema(),
                        {"$ref": "#/components/schemas/Error"},
                    ]
                }
            },
            SSE: {"schema": {"type": "string"}},
        },
    },
    **_errors(*_UPLOAD_ERRORS, 501),
}

_STATE = {"model": State, "description": "yes"}
HEALTH_REPLIES: Replies = {200: _STATE}
READY_REPLIES: Replies = {200: _STATE, **_errors(503)}
VERSION_REPLIES: Replies = {
    200: {"model": Version, "description": "versions and model"},
    **_errors(401),
}
METRICS_REPLIES: Replies = {
    200: {"description": "metrics", "content": {"text/plain": {}}},
    **_errors(401),
}


# ---------------------------------------------------------------- the page at /docs
DOCS_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Headers of the page; browsers load no scripts and nothing from other servers for it."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em; }
pre { padding: 0.75rem; overflow-x: auto; border: 1px solid #8888; border-radius: 4px; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { text-align: left; vertical-align: top; padding: 0.2rem 1rem 0.2rem 0;
  border-bottom: 1px solid #8884; }
section { margin-top: 2.5rem; }
"""
_EXAMPLES = """\
curl -F image=@photo.jpg http://HOST:PORT/v1/analyze
curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" http://HOST:PORT/v1/analyze
curl -N -F video=@clip.mp4 'http://HOST:PORT/v1/video?every=0.5'"""
_FORM = """\
<form method="post" action="v1/analyze" enctype="multipart/form-data">
<p><label>Try it: <input type="file" name="image" accept="image/*" required></label>
<button>Analyze</button></p>
</form>"""


def docs_html(description: Mapping[str, Any]) -> str:
    """Render an OpenAPI description as a page without scripts."""
    info = description["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    body = [
        f"<h1>{title}</h1>",
        f"<p>{escape(info['description'])} For programs: "
        '<a href="openapi.json">openapi.json</a>. For people: <a href="./">the studio</a>.</p>',
        f"<pre>{escape(_EXAMPLES)}</pre>",
        _FORM,
    ]
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            body += _operation_html(method.upper(), path, operation)
    for name, schema in description["components"]["schemas"].items():
        body += _schema_html(name, schema)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _operation_html(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<section><h2><code>{escape(method)} {escape(path)}</code></h2>"
    yield f"<p>{escape(operation.get('summary', ''))}.</p>"
    if "requestBody" in operation:
        body = operation["requestBody"]
        types = ", ".join(_code(content_type) for content_type in body["content"])
        yield f"<p>Body: {escape(body['description'])} Types: {types}.</p>"
    if "parameters" in operation:
        rows = [
            (_code(parameter["name"]), escape(parameter["description"]))
            for parameter in operation["parameters"]
        ]
        yield _table_html(("query parameter", "meaning"), rows)
    replies = [
        (_code(status), escape(answer["description"]), _content_html(answer.get("content", {})))
        for status, answer in operation["responses"].items()
    ]
    yield _table_html(("status", "when", "body"), replies) + "</section>"


def _schema_html(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f'<section><h2 id="{escape(name)}">{escape(name)}</h2>'
    yield f"<p>{escape(schema.get('description', ''))}</p>"
    rows = [
        (_code(key), _type_html(value), escape(value.get("description", "")))
        for key, value in schema.get("properties", {}).items()
    ]
    yield _table_html(("field", "type", "meaning"), rows) + "</section>"


def _content_html(content: Mapping[str, Any]) -> str:
    return ", ".join(
        _type_html(media["schema"]) if media.get("schema") else _code(content_type)
        for content_type, media in content.items()
    )


def _type_html(schema: Mapping[str, Any]) -> str:
    """Render the type of a field, with a link to the table of a model."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type_html, schema["anyOf"]))
    if "const" in schema:
        return _code(schema["const"])
    if "enum" in schema:
        return " or ".join(map(_code, schema["enum"]))
    name = escape(str(schema.get("type", "anything")))
    if name == "array":
        return f"list of {_type_html(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_type_html(schema['additionalProperties'])}"
    return name


def _code(value: object) -> str:
    return f"<code>{escape(str(value))}</code>"


def _table_html(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = ("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>\n" + "\n".join(lines) + "</table>"
