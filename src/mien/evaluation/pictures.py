"""Grids of faces with what was predicted: samples of a data set, and one's own pictures."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS, match_label
from mien.core.errors import UsageError
from mien.core.images import load_image
from mien.core.results import LAST_COLUMNS, Face, Result, result_rows, table_columns
from mien.evaluation.figures import (
    FAINT,
    INK,
    RIGHT_COLOR,
    WRONG_COLOR,
    drawing,
    show_image,
)
from mien.evaluation.report import Samples
from mien.inference.preprocess import face_crop

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_TILES = 96
"""Most faces in one grid; the table has all."""

_COLUMNS = 6
_CAPTION_LENGTH = 22
_TITLE_LETTERS = 7
"""Letters of a title per inch, approximately."""


# ---------------------------------------------------------------- grids
@dataclass(frozen=True)
class Tile:
    """One face and its prediction.

    Attributes:
        image: uint8, (H, W) grey or (H, W, 3) RGB.
        emotion: the prediction.
        confidence: its probability, 0-1.
        truth: the true class, None where unknown.
        caption: a name to show above it, or "".
    """

    image: npt.NDArray[np.uint8]
    emotion: str
    confidence: float
    truth: str | None = None
    caption: str = ""


def sample_tiles(
    samples: Samples, *, seed: int = 0, each: int = 2
) -> tuple[tuple[Tile | None, ...], ...]:
    """Choose at random ``each`` images of every class predicted right, and as many wrong.

    Returns:
        ``2 * each`` rows, the right ones first; a column a class; None where a class has too few.
    """
    generator = np.random.default_rng(seed)
    predicted = samples.probabilities.argmax(axis=1)
    rows: list[list[Tile | None]] = [[] for _ in range(2 * each)]
    for label, emotion in enumerate(samples.classes):
        for block, right in enumerate((True, False)):
            among = np.flatnonzero((samples.labels == label) & ((predicted == label) == right))
            chosen = generator.permutation(among)[:each]
            for place in range(each):
                row = rows[block * each + place]
                if place >= len(chosen):
                    row.append(None)
                    continue
                index = int(chosen[place])
                read = int(predicted[index])
                share = float(samples.probabilities[index, read])
                row.append(Tile(samples.images[index], samples.classes[read], share, emotion))
    return tuple(tuple(row) for row in rows)


def prediction_grid(
    rows: Sequence[Sequence[Tile | None]], path: Path, *, title: str, note: str = ""
) -> None:
    """Draw rows of tiles and write them as a PNG.

    A right prediction has a blue frame and a tick, a wrong one a vermilion frame, a cross and the
    truth, one of unknown truth a grey frame.

    Raises:
        UsageError: if there is no tile.
        OutputError: if the file cannot be written.
    """
    columns = max((len(row) for row in rows), default=0)
    if not any(tile is not None for row in rows for tile in row):
        raise UsageError("nothing to draw: expected at least one face")
    captions = any(tile is not None and tile.caption for row in rows for tile in row)
    row_height = 2.35 if captions else 2.1
    height = 0.55 + row_height * len(rows) + (0.35 if note else 0.0)
    width = max(5.0, 0.3 + 1.75 * columns)
    with drawing(path, width, height) as figure:
        figure.suptitle(textwrap.fill(title, round(_TITLE_LETTERS * width)))
        if note:
            figure.supxlabel(note, fontsize=10, color=FAINT)
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for number, row in enumerate(rows):
            for column in range(columns):
                tile = row[column] if column < len(row) else None
                if tile is None:
                    grid[number][column].axis("off")
                else:
                    _draw_tile(grid[number][column], tile)


def _draw_tile(axes: Axes, tile: Tile) -> None:
    color, mark, text = FAINT, "", f"{tile.emotion} {100 * tile.confidence:.0f} %"
    if tile.truth == tile.emotion:
        color, mark = RIGHT_COLOR, "✓"
    elif tile.truth is not None:
        color, mark, text = WRONG_COLOR, "✗", f"{text}\ntrue: {tile.truth}"
    show_image(axes, tile.image, color, interpolation="bicubic")
    for spine in axes.spines.values():
        spine.set_linewidth(3)
    axes.set_xlabel(text, fontsize=10, color=INK if tile.truth is None else color)
    if tile.caption:
        axes.set_title(tile.caption, fontsize=9, fontweight="normal", loc="center", pad=5)
    if mark:
        axes.text(
            0.95,
            0.05,
            mark,
            transform=axes.transAxes,
            ha="right",
            va="bottom",
            fontsize=14,
            fontweight="bold",
            color="white",
            bbox={"facecolor": color, "edgecolor": "none", "boxstyle": "round,pad=0.15"},
        )


# ---------------------------------------------------------------- one's own pictures


@dataclass(frozen=True)
class Reading:
    """One face of one picture.

    Attributes:
        result: of the picture.
        face: one of its faces.
        truth: the class that the picture's name tells; None where it tells none, and for all but
            the largest face.
    """

    result: Result
    face: Face
    truth: str | None

    @property
    def right(self) -> bool | None:
        """Whether the prediction is the truth; None where that is unknown."""
        return None if self.truth is None else self.face.emotion == self.truth


def picture_columns(labels: Sequence[str] = EMOTIONS) -> tuple[str, ...]:
    """Return the columns of the table for a model's labels; see `TABLE_COLUMNS`."""
    columns = table_columns(labels)[: -len(LAST_COLUMNS)]
    return (*columns, "truth", "right", *LAST_COLUMNS)


def truth_of(source: str, labels: Sequence[str] = EMOTIONS) -> str | None:
    """Return the class that a picture's folder is named after, or that its name begins with.

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
            marked = {
                **row,
                "truth": one.truth if one else None,
                "right": one.right if one else None,
            }
            rows.append({column: marked[column] for column in picture_columns(labels)})
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
    """Draw every face with its prediction and write them as a PNG.

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
    tiles: list[Tile] = []
    source, image = "", None
    for one in shown:
        if image is None or source != one.result.source:  # one picture in memory at a time
            source = one.result.source or ""
            image = load_image(source)
        name = PurePath(source).name
        tiles.append(
            Tile(
                image=face_crop(image, one.face.box, crop_scale, turn=one.face.turn),
                emotion=one.face.emotion,
                confidence=one.face.confidence,
                truth=one.truth,
                caption=_shortened(name),
            )
        )
    marked = [one.right for one in every if one.right is not None]
    notes = [f"{sum(marked)} of {len(marked)} read right"] if marked else []
    notes += [f"the first {len(shown)} of {len(every)} faces"] if len(shown) < len(every) else []
    rows = [tiles[start : start + _COLUMNS] for start in range(0, len(tiles), _COLUMNS)]
    prediction_grid(rows, path, title="Your pictures", note=", ".join(notes))


def _shortened(name: str) -> str:
    return name if len(name) <= _CAPTION_LENGTH else f"{name[: _CAPTION_LENGTH - 1]}…"
