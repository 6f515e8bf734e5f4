"""The table form of results (CSV, Parquet): one row a face, one row where there is none."""

from __future__ import annotations

import unicodedata
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


_SMOOTHED = "smoothed_"
_RESERVED: tuple[str, ...] = (
    *_FACE_COLUMNS,
    *("truth", "right"),  # of the table of one's own pictures
    # Later columns stand after the scores; a class must not take their names before they come.
    *("error", "flags", "valence", "arousal", "labels", "model", "schema"),
)


def score_columns(labels: Sequence[str]) -> dict[str, str]:
    """Return the column of each label's score: its own name, or ``score_`` and the name.

    The prefix is for names that are, or come too close to, another column's: they would be the same
    but for case, blanks around them or the form of their characters, as which data bases take
    column names; and for those that begin as the columns of smoothed scores do.

    Example:
        >>> score_columns(("calm", "Status"))
        {'calm': 'calm', 'Status': 'score_Status'}
    """
    taken = {_folded(name) for name in _RESERVED}
    columns = {}
    for label in labels:
        name = label
        while (folded := _folded(name)) in taken or folded.startswith(_SMOOTHED):
            name = f"score_{name}"
        taken.add(folded)
        columns[label] = name
    return columns


def table_columns(labels: Sequence[str] = EMOTIONS, *, smoothed: bool = False) -> tuple[str, ...]:
    """Return the columns of a table of results for a model's labels; see `TABLE_COLUMNS`.

    The labels' are those of `score_columns`. ``smoothed`` adds those of a video:
    ``smoothed_emotion``, ``smoothed_confidence``, then ``smoothed_`` and each label's column.
    """
    scores = score_columns(labels).values()
    columns = (*_FACE_COLUMNS, *scores)
    if not smoothed:
        return columns
    names = ("emotion", "confidence", *scores)
    return (*columns, *(_SMOOTHED + name for name in names))


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
    rows, columns = [], score_columns(labels)
    for face in written["faces"]:
        known = {key: face[key] for key in _FACE_COLUMNS if key in face}
        scores = {name: face["scores"].get(label) for label, name in columns.items()}
        over_time = _smoothed_cells(face.get("smoothed"), columns) if smoothed else {}
        rows.append({**empty, **image, **known, **face["box"], **scores, **over_time})
    return rows


def _smoothed_cells(
    written: Mapping[str, Any] | None, columns: Mapping[str, str]
) -> dict[str, Any]:
    if written is None:
        return {}
    scores = {_SMOOTHED + name: written["scores"].get(label) for label, name in columns.items()}
    return {
        _SMOOTHED + "emotion": written["emotion"],
        _SMOOTHED + "confidence": written["confidence"],
        **scores,
    }


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()
