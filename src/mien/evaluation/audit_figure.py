"""The audit of a data set as one picture: class balance, copies, and examples of what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.data.audit import Audit, CopyCount, Pair
from mien.data.dataset import SPLITS, Split
from mien.evaluation.figures import FAINT, INK, RIGHT_COLOR, WRONG_COLOR, drawing, show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

SPLIT_COLORS: dict[str, str] = {"train": "#0072B2", "val": "#56B4E9", "test": "#E69F00"}

_NEAR_COLOR = "#56B4E9"
_BELOW: Any = {
    "loc": "upper left",
    "bbox_to_anchor": (-0.02, -0.08),
    "ncols": 3,
    "fontsize": 10,
    "handlelength": 1.2,
    "handletextpad": 0.5,
    "columnspacing": 1.4,
}
_PAIRS = 7
_BLANKS = 14
_WIDTH_INCHES = 13.0
_STRIP_INCHES = 1.85
_TOP_INCHES = 5.2
_IMAGE_INCHES = 0.82
_PAIR_INCHES = 1.84


@dataclass(frozen=True)
class _Strip:
    """One row of example images, in pairs, each above its split and class; a note a pair."""

    title: str
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


def draw_audit(audit: Audit, splits: Mapping[str, Split], path: Path, *, title: str) -> None:
    """Draw what the audit found in the splits as a PNG; ``title`` names the data set.

    Raises:
        MissingExtra: without Matplotlib.
        OutputError: if the file cannot be written.
    """
    images = {
        file: image
        for name in SPLITS
        for file, image in zip(splits[name].files, splits[name].images, strict=True)
    }
    strips = [strip for strip in _strips(audit) if strip.files]
    heights = [_TOP_INCHES] + [_STRIP_INCHES] * len(strips)
    with drawing(path, _WIDTH_INCHES, sum(heights) + 0.4) as figure:
        figure.suptitle(
            f"{title}: {audit.images:,} images, {audit.distinct:,} distinct", x=0.01, ha="left"
        )
        rows = figure.subfigures(1 + len(strips), 1, height_ratios=heights)
        top, *below = np.atleast_1d(np.asarray(rows))
        left, right = top.subplots(1, 2, width_ratios=[1.0, 1.15])
        _draw_balance(left, audit)
        _draw_copies(right, audit)
        for area, strip in zip(below, strips, strict=True):
            _draw_strip(area, strip, images)


# ---------------------------------------------------------------- charts
def _draw_balance(axes: Axes, audit: Audit) -> None:
    """Draw each class's share of its split, the three splits side by side."""
    height = 0.26
    for row, name in enumerate(SPLITS):
        counts = np.array([audit.classes[name][emotion] for emotion in EMOTIONS])
        shares = counts / max(1, counts.sum())
        places = np.arange(len(EMOTIONS)) + (row - 1) * height
        label = f"{name} ({counts.sum():,})"
        axes.barh(places, shares, height * 0.92, color=SPLIT_COLORS[name], label=label)
        for place, share, count in zip(places, shares, counts, strict=True):
            axes.text(share + 0.003, place, f"{count:,}", va="center", fontsize=8, color=INK)
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    _finish_chart(axes, EMOTIONS, "Classes, as shares of each split")
    axes.legend(**_BELOW)


def _draw_copies(axes: Axes, audit: Audit) -> None:
    """Draw how many images have a copy where, and how many of these have another label."""
    height = 0.36
    near = [(count.near, count.near_other_label) for count in audit.copies]
    exact = [(count.exact, count.exact_other_label) for count in audit.copies]
    most = max(1, *(count for count, _ in near))
    drawn = []
    for row, (color, counts) in enumerate(((_NEAR_COLOR, near), (RIGHT_COLOR, exact))):
        places = np.arange(len(counts)) + (0.5 - row) * height
        drawn.append(axes.barh(places, [count for count, _ in counts], height * 0.92, color=color))
        others = axes.barh(places, [other for _, other in counts], height * 0.92, color=WRONG_COLOR)
        for place, (count, _) in zip(places, counts, strict=True):
            axes.text(count + most * 0.01, place, f"{count:,}", va="center", fontsize=9, color=INK)
    axes.margins(x=0.1)
    axes.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    _finish_chart(axes, [_where(count) for count in audit.copies], "Images with a copy")
    names = ["pixel-identical", f"near (cosine ≥ {audit.near_threshold:g})", "labelled otherwise"]
    axes.legend([drawn[1], drawn[0], others], names, **_BELOW)


def _finish_chart(axes: Axes, rows: Sequence[str], title: str) -> None:
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.tick_params(left=False)
    axes.set_title(title)


def _where(count: CopyCount) -> str:
    if count.within == (count.split,):
        return f"within {count.split}"
    return f"{count.split} in {' or '.join(count.within)}"


# ---------------------------------------------------------------- examples
def _strips(audit: Audit) -> list[_Strip]:
    """Choose the examples: copies across splits first, since those leak."""
    conflicting = sorted(
        (pair for pair in audit.exact_pairs if not pair.same_label),
        key=lambda pair: not _crosses(pair),
    )[:_PAIRS]
    leaks = [pair for pair in audit.near_pairs if _crosses(pair)]
    if len(leaks) > _PAIRS:  # evenly from the most to the least alike
        leaks = [leaks[round(at)] for at in np.linspace(0, len(leaks) - 1, _PAIRS)]
    notes = tuple(f"{pair.cosine:.3f}{' mirrored' if pair.flipped else ''}" for pair in leaks)
    return [
        _Strip("Pixel-identical, labelled differently", _files(conflicting)),
        _Strip("Near copies across splits", _files(leaks), notes),
        _Strip(f"Blank images ({len(audit.blank):,})", audit.blank[:_BLANKS]),
    ]


def _files(pairs: Sequence[Pair]) -> tuple[str, ...]:
    return tuple(file for pair in pairs for file in (pair.first, pair.second))


def _crosses(pair: Pair) -> bool:
    return pair.first.split("/")[0] != pair.second.split("/")[0]


def _draw_strip(
    area: SubFigure, strip: _Strip, images: Mapping[str, npt.NDArray[np.uint8]]
) -> None:
    """Draw images in one row, the two of a pair close together, with captions below."""
    area.suptitle(strip.title, x=0.01, y=0.97, ha="left", fontsize=12)
    for at, file in enumerate(strip.files):
        left = 0.14 + at // 2 * _PAIR_INCHES + at % 2 * (_IMAGE_INCHES + 0.04)
        # Placed by hand, in inches: the automatic layout would pull the two of a pair apart.
        axes = area.add_axes(
            (
                left / _WIDTH_INCHES,
                0.56 / _STRIP_INCHES,
                _IMAGE_INCHES / _WIDTH_INCHES,
                _IMAGE_INCHES / _STRIP_INCHES,
            )
        )
        show_image(axes, images[file], FAINT, interpolation="nearest", aspect="auto")
        axes.set_xlabel("\n".join(file.split("/")[:2]), fontsize=9, labelpad=3)
    for pair, note in enumerate(strip.notes):
        middle = 0.14 + pair * _PAIR_INCHES + _IMAGE_INCHES + 0.02
        area.text(middle / _WIDTH_INCHES, 0.1 / _STRIP_INCHES, note, ha="center", fontsize=9)
