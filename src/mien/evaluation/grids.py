"""Grids of predictions: faces with what they were read as, right and wrong ones told apart."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import UsageError
from mien.evaluation.style import (
    FAINT,
    INK,
    RIGHT_COLOR,
    RIGHT_MARK,
    WRONG_COLOR,
    WRONG_MARK,
    drawing,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLE_LETTERS = 7
"""Of a title in one inch, about."""


@dataclass(frozen=True)
class Tile:
    """One face and how it was read.

    Attributes:
        image: uint8, (H, W) grey or (H, W, 3) RGB.
        emotion: what it was read as.
        confidence: probability of that, 0-1.
        truth: what it shows, None where nobody said.
        caption: a name to show above it, or "".
    """

    image: npt.NDArray[np.uint8]
    emotion: str
    confidence: float
    truth: str | None = None
    caption: str = ""


def sample_tiles(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.floating[Any]],
    *,
    seed: int = 0,
    each: int = 2,
    classes: Sequence[str] = EMOTIONS,
) -> tuple[tuple[Tile | None, ...], ...]:
    """Choose images of every emotion at random, ``each`` read right and ``each`` read wrong.

    Args:
        images: uint8 (N, 48, 48).
        labels: (N,), indices into ``classes``.
        probabilities: (N, classes).
        seed: same seed, same choice.
        each: rows of right ones and rows of wrong ones.
        classes: their names.

    Returns:
        ``2 * each`` rows: the rows read right, then those read wrong; a column a class;
        None where a class has too few.
    """
    generator = np.random.default_rng(seed)
    predicted = probabilities.argmax(axis=1)
    rows: list[list[Tile | None]] = [[] for _ in range(2 * each)]
    for label, emotion in enumerate(classes):
        for block, right in enumerate((True, False)):
            among = np.flatnonzero((labels == label) & ((predicted == label) == right))
            chosen = generator.permutation(among)[:each]
            for place in range(each):
                row = rows[block * each + place]
                if place >= len(chosen):
                    row.append(None)
                    continue
                index = int(chosen[place])
                read = int(predicted[index])
                share = float(probabilities[index, read])
                row.append(Tile(images[index], classes[read], share, emotion))
    return tuple(tuple(row) for row in rows)


def prediction_grid(
    rows: Sequence[Sequence[Tile | None]], path: Path, *, title: str, note: str = ""
) -> None:
    """Draw tiles in rows and write them as a PNG.

    A tile that was read right has a blue frame and a tick, a wrong one a vermilion frame and a
    cross, and names the truth; one without a known truth has a grey frame and no mark.

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
                axes = grid[number][column]
                axes.set_xticks([])
                axes.set_yticks([])
                tile = row[column] if column < len(row) else None
                if tile is None:
                    axes.axis("off")
                else:
                    _draw_tile(axes, tile)


def in_rows(tiles: Sequence[Tile], columns: int) -> tuple[tuple[Tile, ...], ...]:
    """Break tiles into rows of at most ``columns``."""
    return tuple(tuple(tiles[start : start + columns]) for start in range(0, len(tiles), columns))


def _draw_tile(axes: Axes, tile: Tile) -> None:
    if tile.image.ndim == 2:
        axes.imshow(tile.image, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
    else:
        axes.imshow(tile.image, interpolation="bicubic")
    read = f"{tile.emotion} {100 * tile.confidence:.0f} %"
    if tile.truth is None:
        color, mark, text = FAINT, "", read
    elif tile.truth == tile.emotion:
        color, mark, text = RIGHT_COLOR, RIGHT_MARK, read
    else:
        color, mark, text = WRONG_COLOR, WRONG_MARK, f"{read}\ntrue: {tile.truth}"
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(color)
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
