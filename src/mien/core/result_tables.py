"""The table form of results (CSV, Parquet): one row a face, one row where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mien.core.emotions import EMOTIONS
from mien.core.results import Result

_FACE_COLUMNS: tuple[str, ...] = (
    "source",
    "frame",
    "time_s",
    "face_id",
    "track_id",
    "status",
    "x",
    "y",
    "w",
    "h",
    "face_confidence",
    "emotion",
    "confidence",
    "uncertain",
)

TABLE_COLUMNS: tuple[str, ...] = (*_FACE_COLUMNS, *EMOTIONS)
"""Columns of a table of results (CSV, Parquet): one row a face, one row where there is none."""


def table_columns(labels: Sequence[str] = EMOTIONS, *, smoothed: bool = False) -> tuple[str, ...]:
    """Return the columns of a table of results for a model's labels; see `TABLE_COLUMNS`.

    ``smoothed`` adds those of a video: ``smoothed_emotion``, ``smoothed_confidence``, then
    ``smoothed_`` and each label.
    """
    columns = (*_FACE_COLUMNS, *labels)
    if not smoothed:
        return columns
    names = ("emotion", "confidence", *labels)
    return (*columns, *(f"smoothed_{name}" for name in names))


def result_rows(
    result: Result, labels: Sequence[str] = EMOTIONS, *, smoothed: bool = False
) -> list[dict[str, Any]]:
    """Return the table rows of a result: one a face, one with empty fields where there is none.

    Args:
        result: of one image or frame.
        labels: the model's labels, for one that has its own.
        smoothed: with the columns of a video, as `table_columns`.

    Returns:
        Dictionaries with the keys of `table_columns`, in that order; None where a value is missing.
    """
    written = result.to_dict()
    empty: dict[str, Any] = dict.fromkeys(table_columns(labels, smoothed=smoothed))
    image = {key: written[key] for key in ("source", "frame", "time_s", "status")}
    if not written["faces"]:
        return [{**empty, **image}]
    rows = []
    for face in written["faces"]:
        known = {key: face[key] for key in _FACE_COLUMNS if key in face}
        scores = {label: face["scores"].get(label) for label in labels}
        over_time = _smoothed_cells(face.get("smoothed"), labels) if smoothed else {}
        rows.append({**empty, **image, **known, **face["box"], **scores, **over_time})
    return rows


def _smoothed_cells(written: Mapping[str, Any] | None, labels: Sequence[str]) -> dict[str, Any]:
    if written is None:
        return {}
    scores = {f"smoothed_{label}": written["scores"].get(label) for label in labels}
    return {
        "smoothed_emotion": written["emotion"],
        "smoothed_confidence": written["confidence"],
        **scores,
    }
