"""Grids of faces with their predictions: samples of a data set, and a user's own pictures."""

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
from mien.core.results import LAST_COLUMNS, Result, result_rows, table_columns
from mien.evaluation.figures import CORRECT_COLOR, FAINT, INK, WRONG_COLOR, drawing, show_image
from mien.evaluation.metrics import Labels
from mien.inference.preprocess import face_crop

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_TILES = 96
"""Maximum number of faces in a grid of pictures."""

_COLUMNS = 6
_CAPTION_LENGTH = 22
_TITLE_CHARACTERS = 7
"""Approximate number of characters of a title per inch."""


# ---------------------------------------------------------------- grids
@dataclass(frozen=True)
class Samples:
    """Labelled images and their predictions.

    Attributes:
        images: uint8 (N, 48, 48).
        labels: (N,), indices into ``classes``.
        probabilities: (N, classes).
        classes: class names.
    """

    images: npt.NDArray[np.uint8]
    labels: Labels
    probabilities: npt.NDArray[np.floating[Any]]
    classes: tuple[str, ...] = EMOTIONS


@dataclass(frozen=True)
class Tile:
    """One face and its prediction.

    Attributes:
        image: uint8, (H, W) grey or (H, W, 3) RGB.
        emotion: predicted class.
        confidence: its probability, 0-1.
        truth: true class, None if unknown.
        caption: text above the image.
    """

    image: npt.NDArray[np.uint8]
    emotion: str
    confidence: float
    truth: str | None = None
    caption: str = ""


def sample_tiles(
    samples: Samples, *, seed: int = 0, per_class: int = 2
) -> tuple[tuple[Tile | None, ...], ...]:
    """Choose random images of each class, ``per_class`` predicted correctly and as many not.

    Returns:
        ``2 * per_class`` rows, the correct ones first, and a column for each class; None where a
        class has too few images.
    """
    rng = np.random.default_rng(seed)
    predicted = samples.probabilities.argmax(axis=1)
    columns: list[list[Tile | None]] = []
    for label, truth in enumerate(samples.classes):
        column: list[Tile | None] = []
        for correct in (True, False):
            members = (samples.labels == label) & ((predicted == label) == correct)
            chosen = rng.permutation(np.flatnonzero(members))[:per_class].tolist()
            for index in chosen:
                confidence = float(samples.probabilities[index, predicted[index]])
                emotion = samples.classes[predicted[index]]
                column.append(Tile(samples.images[index], emotion, confidence, truth))
            column += [None] * (per_class - len(chosen))
        columns.append(column)
    return tuple(zip(*columns, strict=True))


def prediction_grid(
    rows: Sequence[Sequence[Tile | None]], path: Path, *, title: str, note: str = ""
) -> None:
    """Draw rows of tiles.

    A correct prediction has a blue frame and a tick; an incorrect one a vermilion frame, a cross
    and the true class; one of unknown truth a grey frame.

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
        figure.suptitle(textwrap.fill(title, round(_TITLE_CHARACTERS * width)))
        if note:
            figure.supxlabel(note, fontsize=10, color=FAINT)
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes_row, row in zip(grid, rows, strict=True):
            for column, axes in enumerate(axes_row):
                tile = row[column] if column < len(row) else None
                if tile is None:
                    axes.axis("off")
                else:
                    _draw_tile(axes, tile)


def _draw_tile(axes: Axes, tile: Tile) -> None:
    color, mark, text = FAINT, "", f"{tile.emotion} {100 * tile.confidence:.0f} %"
    if tile.truth == tile.emotion:
        color, mark = CORRECT_COLOR, "✓"
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


# ---------------------------------------------------------------- a user's own pictures
def picture_columns(labels: Sequence[str] = EMOTIONS) -> tuple[str, ...]:
    """Return the table's columns for a model's labels; see `TABLE_COLUMNS`."""
    columns = table_columns(labels)[: -len(LAST_COLUMNS)]
    return (*columns, "truth", "right", *LAST_COLUMNS)


def truth_of(source: str, labels: Sequence[str] = EMOTIONS) -> str | None:
    """Return the class named by a picture's folder or by the first word of its file name.

    Example:
        >>> truth_of("ImgTest/happy/me.jpg"), truth_of("ImgTest/Surprised_2.png")
        ('happy', 'surprise')
    """
    path = PurePath(source)
    first_word = re.match(r"[A-Za-z]*", path.stem)
    return match_label(path.parent.name, labels) or match_label(
        first_word[0] if first_word else "", labels
    )


def face_truths(result: Result, labels: Sequence[str] = EMOTIONS) -> list[str | None]:
    """Return the class that a picture's name gives each face: to the largest one, None to others.

    ``labels`` are the model's.
    """
    largest = max(result.faces, key=lambda face: face.box.area, default=None)
    truth = truth_of(result.source or "", labels)
    return [truth if face is largest else None for face in result.faces]


def picture_rows(
    results: Sequence[Result], labels: Sequence[str] = EMOTIONS
) -> list[dict[str, Any]]:
    """Return table rows with `picture_columns`: one per face, or one for a picture without any."""
    columns = picture_columns(labels)
    rows = []
    for result in results:
        truths = face_truths(result, labels) or [None]
        for row, truth in zip(result_rows(result, labels), truths, strict=True):
            right = None if truth is None else row["emotion"] == truth
            row |= {"truth": truth, "right": right}
            rows.append({column: row[column] for column in columns})
    return rows


def pictures_dict(results: Sequence[Result], labels: Sequence[str] = EMOTIONS) -> dict[str, Any]:
    """Return all results and the number of correct predictions as JSON-compatible values."""
    known = _known(results, labels)
    return {
        "schema": "mien-pictures/1",
        "known": len(known),
        "right": sum(known),
        "pictures": [
            {**result.to_dict(), "truth": truth_of(result.source or "", labels)}
            for result in results
        ],
    }


def _known(results: Sequence[Result], labels: Sequence[str]) -> list[bool]:
    """Return whether the prediction is correct for each face whose class is known."""
    rows = picture_rows(results, labels)
    return [row["right"] for row in rows if row["right"] is not None]


def picture_grid(
    results: Sequence[Result],
    path: Path,
    *,
    crop_scale: float | None,
    labels: Sequence[str] = EMOTIONS,
) -> None:
    """Draw the first `MAX_TILES` faces with their predictions.

    Args:
        results: results of pictures that can still be read from their ``source``.
        path: file to write.
        crop_scale: crop scale of the detector (see `mien.inference.detectors.Detector`).
        labels: the model's labels.

    Raises:
        UsageError: if there is no face.
        UnreadableImage: if a picture is gone.
        OutputError: if the file cannot be written.
    """
    tiles: list[Tile] = []
    for result in results:
        if not result.faces or len(tiles) == MAX_TILES:
            continue
        source = result.source or ""
        image, name = load_image(source), PurePath(source).name
        if len(name) > _CAPTION_LENGTH:
            name = f"{name[: _CAPTION_LENGTH - 1]}…"
        tiles += [
            Tile(
                image=face_crop(image, face.box, crop_scale, turn=face.turn),
                emotion=face.emotion,
                confidence=face.confidence,
                truth=truth,
                caption=name,
            )
            for face, truth in zip(result.faces, face_truths(result, labels), strict=True)
        ][: MAX_TILES - len(tiles)]
    known, count = _known(results, labels), sum(len(result.faces) for result in results)
    notes = [f"{sum(known)} of {len(known)} correct"] if known else []
    notes += [f"the first {len(tiles)} of {count} faces"] if len(tiles) < count else []
    rows = [tiles[start : start + _COLUMNS] for start in range(0, len(tiles), _COLUMNS)]
    prediction_grid(rows, path, title="Your pictures", note=", ".join(notes))
