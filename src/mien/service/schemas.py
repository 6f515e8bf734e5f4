"""What replies hold, for the OpenAPI description alone.

Results are written by `mien.core.results.Result.to_dict`. The classes have the names that clients
made from the description get.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mien.core.results import QUALITY_FLAGS, SCHEMA
from mien.service.refusal import ERROR_SCHEMA


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


class Face(_Reply):
    """One face and its emotion."""

    face_id: int = Field(ge=0, description="from 0, left to right")
    track_id: int | None = Field(description="null for an image")
    box: Box
    face_confidence: float = Field(ge=0, le=1, description="how sure the detector is of the face")
    emotion: str = Field(description="the likeliest emotion, a key of scores")
    confidence: float = Field(ge=0, le=1, description="its score")
    uncertain: bool = Field(description="below the model's threshold for this emotion")
    scores: dict[str, float] = Field(description="calibrated probability of each emotion")
    quality: Quality


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
    status: Literal["ok", "no_face"]
    width: int = Field(ge=1, description="pixels of the upright image")
    height: int = Field(ge=1, description="pixels of the upright image")
    faces: list[Face] = Field(description="left to right; empty where nobody is there")
    model: Model
    labels: str = Field(description="whose labels scores follow: people, fer2013, or own")


class Error(_Reply):
    """Why there is no result."""

    schema_: Literal["mien-error/1"] = Field(alias="schema", description=f"always {ERROR_SCHEMA}")
    code: str = Field(description="the error's name for programs")
    error: str = Field(description="one line: what happened, what was expected, how to mend it")


class State(_Reply):
    """That the service is as asked."""

    status: Literal["ok", "ready"]


class Version(_Reply):
    """What is served; null where the model is still being loaded."""

    mien: str = Field(description="the package's version")
    model: Model | None
    labels: list[str] | None = Field(description="the emotions that the model tells apart")
    detector: str | None = Field(description="what finds faces")
