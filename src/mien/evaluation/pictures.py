"""One's own pictures: what was read in them, and whether that is right where their name tells."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from mien.core.emotions import EMOTIONS, match_label
from mien.core.images import load_image
from mien.core.results import Face, Result, result_rows, table_columns
from mien.evaluation.grids import Tile, in_rows, prediction_grid
from mien.inference.preprocess import face_crop

MOST_TILES = 96
"""Faces in one grid; the table has all."""

TABLE_COLUMNS: tuple[str, ...] = (*table_columns(), "truth", "right")
"""Of the table for a model of the seven emotions."""

_COLUMNS = 6
_CAPTION_LENGTH = 22


@dataclass(frozen=True)
class Reading:
    """One face of one picture.

    Attributes:
        result: of the picture.
        face: one of its faces.
        truth: the emotion that the picture's name tells, None where it tells none or where this is
            not the picture's largest face.
    """

    result: Result
    face: Face
    truth: str | None

    @property
    def right(self) -> bool | None:
        """Whether it was read as what it shows; None where that is unknown."""
        return None if self.truth is None else self.face.emotion == self.truth


def picture_columns(labels: Sequence[str] = EMOTIONS) -> tuple[str, ...]:
    """Return the columns of the table for a model's labels; see `TABLE_COLUMNS`."""
    return (*table_columns(labels), "truth", "right")


def truth_of(source: str, labels: Sequence[str] = EMOTIONS) -> str | None:
    """Return the class that a picture's folder is named after, or that its name begins with.

    Args:
        source: the picture's path.
        labels: the classes; for emotions, synonyms count.

    Example:
        >>> truth_of("ImgTest/happy/me.jpg"), truth_of("ImgTest/Surprised_2.png")
        ('happy', 'surprise')
    """
    path = PurePath(source)
    first_word = re.match(r"[A-Za-z]*", path.stem)
    return match_label(path.parent.name, labels) or match_label(
        first_word[0] if first_word else "", labels
    )


def readings(results: Sequence[Result], labels: Sequence[str] = EMOTIONS) -> tuple[Reading, ...]:
    """Return all faces of all pictures, in their order; ``labels`` are the model's."""
    found = []
    for result in results:
        truth = truth_of(result.source or "", labels)
        largest = max(result.faces, key=lambda face: face.box.area, default=None)
        found += [
            Reading(result, face, truth if face is largest else None) for face in result.faces
        ]
    return tuple(found)


def picture_rows(
    results: Sequence[Result], labels: Sequence[str] = EMOTIONS
) -> list[dict[str, Any]]:
    """Return the rows of a table with `picture_columns`: one a face, one a picture without any."""
    known = {(id(one.result), one.face.face_id): one for one in readings(results, labels)}
    rows = []
    for result in results:
        for row in result_rows(result, labels):
            one = known.get((id(result), row["face_id"]))
            rows.append(
                {**row, "truth": one.truth if one else None, "right": one.right if one else None}
            )
    return rows


def pictures_dict(results: Sequence[Result], labels: Sequence[str] = EMOTIONS) -> dict[str, Any]:
    """Return all results and how many of the known truths were read right, ready for JSON."""
    marked = [one.right for one in readings(results, labels) if one.right is not None]
    return {
        "schema": "mien-pictures/1",
        "known": len(marked),
        "right": sum(marked),
        "pictures": [
            {**result.to_dict(), "truth": truth_of(result.source or "", labels)}
            for result in results
        ],
    }


def picture_grid(
    results: Sequence[Result],
    path: Path,
    *,
    crop_scale: float | None,
    labels: Sequence[str] = EMOTIONS,
) -> None:
    """Draw every face with what it was read as, and write them as a PNG.

    Args:
        results: of pictures that can still be read from their ``source``.
        path: where to write.
        crop_scale: the detector's (see `mien.inference.detectors.Detector`).
        labels: the model's.

    Raises:
        UsageError: if there is no face.
        UnreadableImage: if a picture has gone meanwhile.
        OutputError: if the file cannot be written.
    """
    every = readings(results, labels)
    shown = every[:MOST_TILES]
    images: dict[str, Any] = {}
    tiles = []
    for one in shown:
        source = one.result.source or ""
        if source not in images:
            images = {source: load_image(source)}  # One picture in memory at a time.
        tiles.append(_tile(one, images, crop_scale))
    marked = [one.right for one in every if one.right is not None]
    notes = [f"{sum(marked)} of {len(marked)} read right"] if marked else []
    notes += [f"the first {len(shown)} of {len(every)} faces"] if len(shown) < len(every) else []
    prediction_grid(
        in_rows(tiles, _COLUMNS),
        path,
        title="Your pictures",
        note=", ".join(notes),
    )


def _tile(one: Reading, images: Mapping[str, Any], crop_scale: float | None) -> Tile:
    source = one.result.source or ""
    name = PurePath(source).name
    caption = name if len(name) <= _CAPTION_LENGTH else f"{name[: _CAPTION_LENGTH - 1]}…"
    return Tile(
        image=face_crop(images[source], one.face.box, crop_scale, turn=one.face.turn),
        emotion=one.face.emotion,
        confidence=one.face.confidence,
        truth=one.truth,
        caption=caption,
    )
