"""What replies hold: the one shape of errors, and the models of the OpenAPI description.

Results are written by `mien.core.results.Result.to_dict`. The models are for the description alone;
clients generated from it get their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from mien.core.formats import json_text
from mien.core.results import QUALITY_FLAGS, SCHEMA

ERROR_SCHEMA = "mien-error/1"
"""Name and version of the JSON form of errors."""

EVENT_SCHEMA = "mien-event/1"
"""Name and version of the JSON form of a video's events, beside results."""

CODES: Mapping[int, str] = {
    400: "malformed",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "unsupported_type",
    422: "undecodable",
    426: "upgrade_required",
    431: "headers_too_large",
    500: "internal",
    501: "not_supported",
    503: "busy",
}
"""The code of each status; 422 has ``too_long``, 503 ``not_ready`` and ``stopping``, too."""

RETRY_SECONDS = 1
"""What ``Retry-After`` says with 503."""


def json_bytes(content: object) -> bytes:
    """Return a reply's body: one line of JSON, whatever characters a file's name has."""
    return (json_text(content, indent=None) + "\n").encode("utf-8", "backslashreplace")


class ApiError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: the HTTP status.
        code: the error's name for programs.
        message: one line: what happened, what was expected, how to mend it.
        headers: of the reply, beside its content type.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take the status and the line; the code is the status' own unless given."""
        super().__init__(message)
        self.status = status
        self.code = code or CODES.get(status, "error")
        self.message = " ".join(message.split())
        self.headers = dict(headers or {})
        if status == 503:
            self.headers.setdefault("Retry-After", str(RETRY_SECONDS))

    def to_dict(self, request_id: str | None = None) -> dict[str, str]:
        """Return the error as JSON has it, with the id of the request if it has one."""
        error = {"schema": ERROR_SCHEMA, "code": self.code, "error": self.message}
        return error if request_id is None else {**error, "request_id": request_id}

    def response(self, request_id: str | None = None) -> Response:
        """Return the reply to the request with this id."""
        body = json_bytes(self.to_dict(request_id))
        return Response(body, self.status, self.headers, "application/json")


# ---------------------------------------------------------------- OpenAPI


class _Reply(BaseModel):
    """Base: nothing beside the fields that are named."""

    model_config = ConfigDict(extra="forbid")


class Box(_Reply):
    """A rectangle in pixels of the upright image."""

    x: int = Field(ge=0, description="left")
    y: int = Field(ge=0, description="top")
    w: int = Field(ge=1, description="width")
    h: int = Field(ge=1, description="height")


class Quality(_Reply):
    """How well a face can be seen."""

    size_px: int = Field(ge=1, description="smaller side of the box in pixels")
    blur: float = Field(ge=0, le=1, description="0 is sharp, 1 nothing but blur")
    flags: list[str] = Field(description=f"any of {', '.join(QUALITY_FLAGS)}")


class Smoothed(_Reply):
    """A person's scores, smoothed over time."""

    emotion: str = Field(description="the likeliest emotion, a key of scores")
    confidence: float = Field(ge=0, le=1, description="its score")
    scores: dict[str, float] = Field(description="probability of each emotion")


class Face(_Reply):
    """One face and its emotion."""

    face_id: int = Field(ge=0, description="from 0, left to right")
    track_id: int | None = Field(description="the person's number; null for an image")
    box: Box
    face_confidence: float = Field(ge=0, le=1, description="how sure the detector is of the face")
    emotion: str = Field(description="the likeliest emotion, a key of scores")
    confidence: float = Field(ge=0, le=1, description="its score")
    uncertain: bool = Field(description="below the model's threshold for this emotion")
    scores: dict[str, float] = Field(description="calibrated probability of each emotion")
    quality: Quality
    smoothed: Smoothed | None = Field(
        default=None, description="over time; where people are tracked alone"
    )


class Model(_Reply):
    """Which model gave a result."""

    name: str
    version: str
    sha256: str = Field(description="of the ONNX file")


class Result(_Reply):
    """What was found in an image: the object that `mien predict --format json` writes."""

    schema_: Literal["mien/1"] = Field(alias="schema", description=f"always {SCHEMA}")
    source: str | None = Field(description="the form's file name; null for a raw body")
    frame: int | None = Field(description="null for an image")
    time_s: float | None = Field(description="null for an image")
    status: Literal["ok", "no_face", "unreadable", "error"] = Field(
        description="the last two of a video's frames alone, with error"
    )
    width: int | None = Field(ge=1, description="pixels of the upright image")
    height: int | None = Field(ge=1, description="pixels of the upright image")
    faces: list[Face] = Field(description="left to right; empty where nobody is there")
    model: Model
    labels: str = Field(description="whose labels scores follow: people, fer2013, or own")
    error: str | None = Field(default=None, description="why a frame has no faces to tell of")


class Progress(_Reply):
    """How far a video has been read."""

    schema_: Literal["mien-event/1"] = Field(alias="schema", description=f"always {EVENT_SCHEMA}")
    event: Literal["progress"]
    time_s: float = Field(description="moment of the frame that was read last")
    duration_s: float | None = Field(description="of the video, where its header says so")
    share: float | None = Field(ge=0, le=1, description="of the video that has been read")
    frames: int = Field(ge=0, description="that have a result")


class Done(_Reply):
    """The end of a video: all of it has been read."""

    schema_: Literal["mien-event/1"] = Field(alias="schema", description=f"always {EVENT_SCHEMA}")
    event: Literal["done"]
    frames: int = Field(ge=0, description="that have a result")
    faces: int = Field(ge=0, description="in all of them")
    people: list[dict[str, object]] = Field(
        description="track_id, frames, start_s, end_s and episodes of each person"
    )
    error: str | None = Field(description="where the video broke off, and why")


class Error(_Reply):
    """Why there is no result."""

    schema_: Literal["mien-error/1"] = Field(alias="schema", description=f"always {ERROR_SCHEMA}")
    code: str = Field(description="the error's name for programs")
    error: str = Field(description="one line: what happened, what was expected, how to mend it")
    request_id: str | None = Field(
        default=None, description="as X-Request-ID; missing where nothing could be read"
    )


class State(_Reply):
    """That the service is as asked."""

    status: Literal["ok", "ready"]


class Version(_Reply):
    """What is served; null where the model is still being loaded."""

    mien: str = Field(description="the package's version")
    model: Model | None
    labels: list[str] | None = Field(description="the emotions that the model tells apart")
    detector: str | None = Field(description="what finds faces")
