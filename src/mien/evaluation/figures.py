"""The figures of a report, a training run and an audit, in one style; each is written as a PNG.

Figures are drawn with Matplotlib's object interface on the Agg canvas: no window, no global state.
Right and wrong are Okabe and Ito's (2008) blue and vermilion, told apart with any of the common
colour deficiencies.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTION_COLORS, EMOTIONS
from mien.core.errors import UsageError, needs_extra
from mien.core.files import SOFTWARE, write_atomically
from mien.core.progress import format_duration
from mien.data.audit import Audit, CopyCount, Pair
from mien.data.dataset import SPLITS, Split
from mien.evaluation.metrics import Agreement, Calibration, Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

OTHER_COLOR = "#44AA99"
"""For classes that are not emotions."""

RIGHT_COLOR = "#0072B2"
WRONG_COLOR = "#D55E00"
INK = "#222222"
FAINT = "#8A8A8A"
DOTS_PER_INCH = 150

_THIRD_COLOR = "#009E73"
_DASHED = (0, (4, 3))
_OTHER_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans Devanagari",
    "Noto Sans Arabic",
    "Noto Sans Thai",
    "Arial Unicode MS",
    "MS Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Nirmala UI",
)
"""Fallbacks for class names in scripts that Matplotlib's font lacks."""

# Any: Matplotlib's types of these keys differ between versions.
_SETTINGS: Any = {
    "font.family": "DejaVu Sans",  # Comes with Matplotlib, so figures look the same everywhere.
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "figure.titlesize": 14,
    "figure.titleweight": "bold",
    "figure.facecolor": "white",
    "figure.constrained_layout.h_pad": 0.12,
    "figure.constrained_layout.w_pad": 0.12,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Give an empty figure in the house style, sized in inches; write it as a PNG at the end.

    Raises:
        MissingExtra: without Matplotlib.
        OutputError: if the file cannot be written.
    """
    with needs_extra("train", "A figure"):
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.font_manager import get_font_names
    there = set(get_font_names())
    family = [_SETTINGS["font.family"], *(name for name in _OTHER_FONTS if name in there)]
    with rc_context({**_SETTINGS, "font.family": family}), warnings.catch_warnings():
        # A character that no font has is drawn as a box.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        picture = io.BytesIO()
        # Without Matplotlib's version, the same numbers give the same bytes.
        figure.savefig(picture, format="png", metadata={"Software": SOFTWARE})
    write_atomically(path, picture.getvalue())


def percent_axis(axes: Axes, which: str = "y") -> None:
    """Label an axis ("x" or "y") that runs from 0 to 1 in per cent."""
    from matplotlib.ticker import PercentFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0, symbol=" %"))


def show_image(axes: Axes, image: npt.NDArray[np.uint8], frame: str, **options: Any) -> None:
    """Show an image, uint8 (H, W) grey or (H, W, 3) RGB, in a coloured frame without ticks."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, **options)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(True)
        side.set_color(frame)


# ---------------------------------------------------------------- confusion and accuracy
def draw_matrix(
    axes: Axes,
    shares: npt.NDArray[np.float64],
    texts: npt.NDArray[np.str_],
    names: Sequence[str],
    read: str,
    *,
    text_size: int = 11,
) -> None:
    """Draw a confusion matrix: each cell's text, coloured by its share of the row.

    Args:
        axes: where.
        shares: float64 (classes, classes), 0-1, rows are the true classes.
        texts: str (classes, classes).
        names: of the classes.
        read: label of the columns.
        text_size: of the cells' texts, points.
    """
    with needs_extra("train", "A figure"):
        import seaborn

    seaborn.heatmap(
        shares,
        ax=axes,
        annot=texts,
        fmt="",
        vmin=0,
        vmax=1,
        cmap="Blues",
        cbar=False,
        square=True,
        linewidths=1,
        linecolor="white",
        xticklabels=names,
        yticklabels=names,
        annot_kws={"size": text_size},
    )
    axes.set_xlabel(read)
    axes.set_ylabel("true")
    axes.tick_params(axis="x", rotation=40, length=0)
    axes.tick_params(axis="y", rotation=0, length=0)


def confusion_figure(metrics: Metrics, path: Path, *, title: str) -> None:
    """Draw the confusion matrix twice: counts on the left, rates of each row on the right."""
    counts = np.array(metrics.confusion)
    names = [entry.emotion for entry in metrics.classes]
    rates = np.array([row or (np.nan,) * len(names) for row in metrics.confusion_rates])
    # Both are coloured by rate, or the largest class would dominate the counts.
    shares = np.nan_to_num(rates)
    percents = np.where(np.isnan(rates), "-", np.char.mod("%.0f", 100 * shares))
    with drawing(path, 12.6, 6.6) as figure:
        figure.suptitle(title)
        left, right = figure.subplots(1, 2)
        for axes, texts, heading in (
            (left, np.char.mod("%d", counts), "Images"),
            (right, percents, "Share of each true emotion, %"),
        ):
            draw_matrix(axes, shares, texts, names, "predicted")
            axes.set_title(heading)


def accuracy_figure(metrics: Metrics, path: Path, *, title: str) -> None:
    """Draw each emotion's accuracy as a bar with its 95 % interval, the mean as a line."""
    count = len(metrics.classes)
    with drawing(path, 9.0, 4.8) as figure:
        figure.suptitle(title)
        axes = figure.subplots()
        for place, entry in enumerate(metrics.classes):
            share, interval = entry.accuracy, entry.accuracy_interval
            if share is None or interval is None:
                axes.text(place, 0.02, "no\nimages", ha="center", va="bottom", color=FAINT)
                continue
            color = EMOTION_COLORS.get(entry.emotion, OTHER_COLOR)
            ends = [[share - interval.low], [interval.high - share]]
            axes.bar(place, share, width=0.68, color=color)
            axes.errorbar(place, share, yerr=ends, color=INK, capsize=4, lw=1.3)
            axes.text(
                place,
                interval.high + 0.02,
                f"{100 * share:.0f} %",
                ha="center",
                va="bottom",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            )
        axes.axhline(metrics.accuracy, color=INK, lw=1, ls=_DASHED)
        all_images = f"all\nimages\n{100 * metrics.accuracy:.1f} %"
        axes.text(count - 0.5, metrics.accuracy + 0.01, all_images, va="bottom")
        axes.set_xlim(-0.6, count + 0.45)
        axes.set_xticks(
            range(count), [f"{entry.emotion}\nn = {entry.support:,}" for entry in metrics.classes]
        )
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(0, 1.12)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set_ylabel("images read right")
        axes.grid(axis="y")
        percent_axis(axes)


# ---------------------------------------------------------------- reliability
def reliability_figure(calibration: Calibration, path: Path, *, title: str) -> None:
    """Draw accuracy against confidence, and below it how many predictions each bin holds."""
    rows = [(b.low, b.high, b.confidence, b.accuracy, b.count) for b in calibration.bins if b.count]
    with _reliability(path, title, rows) as (upper, lower):
        upper.containers[0].set_label("accuracy")
        upper.lines[0].set_label("perfectly calibrated")
        upper.lines[1].set_label("at the bin's mean confidence")
        upper.set_ylabel("images read right")
        _corner_note(
            upper,
            f"calibration error {100 * calibration.error:.1f} %\n"
            f"mean confidence {100 * calibration.confidence:.1f} %",
        )
        lower.set_ylabel("predictions")
        lower.set_xlabel("confidence (highest probability)")


def share_figure(agreement: Agreement, path: Path, *, title: str) -> None:
    """Draw the share of people who named an emotion against its score, and how many scores."""
    rows = [(b.low, b.high, b.score, b.share, b.count) for b in agreement.bins]
    with _reliability(path, title, rows) as (upper, lower):
        upper.containers[0].set_label("share of people")
        upper.lines[0].set_label("as the score says")
        upper.lines[1].set_label("at the bin's mean score")
        upper.set_ylabel("people who named the emotion")
        _corner_note(upper, f"differ by {100 * agreement.share_error:.1f} points on average")
        lower.set_yscale("log")
        lower.set_ylabel("scores (log)")
        lower.set_xlabel("score, of any of the seven emotions")


@contextmanager
def _reliability(
    path: Path, title: str, rows: Sequence[tuple[float, float, float | None, float | None, int]]
) -> Iterator[tuple[Axes, Axes]]:
    """Draw bins (low, high, mean, outcome, count) as a reliability diagram above a histogram.

    Gives the axes of both; the caller labels the bars, the diagonal and the dots.
    """
    low, high, means, found, counts = np.array(rows, np.float64).T
    centres, widths = (low + high) / 2, 0.92 * (high - low)
    with drawing(path, 6.4, 7.0) as figure:
        figure.suptitle(title)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.bar(centres, found, width=widths, color=RIGHT_COLOR)
        upper.plot([0, 1], [0, 1], color=INK, lw=1, ls=_DASHED)
        upper.plot(means, found, ls="none", marker="o", ms=5, mfc="white", mec=INK)
        upper.set_ylim(0, 1.02)
        lower.bar(centres, counts, width=widths, color=FAINT)
        lower.set_xlim(0, 1)
        yield upper, lower
        upper.legend(loc="upper left")
        for axes in (upper, lower):
            axes.grid(axis="y")
        percent_axis(upper)
        percent_axis(lower, "x")


def _corner_note(axes: Axes, text: str) -> None:
    box = {"facecolor": "white", "edgecolor": FAINT, "boxstyle": "round,pad=0.4"}
    axes.text(0.98, 0.05, text, ha="right", transform=axes.transAxes, bbox=box)


# ---------------------------------------------------------------- training curves
History = Mapping[str, Sequence[float | str | None]]
"""Columns of equal length, one value an epoch; a missing value is None, NaN or an empty text."""

_LOSSES = {"loss": ("training", WRONG_COLOR), "val_loss": ("validation", RIGHT_COLOR)}
_SHARES = {
    "accuracy": ("training", WRONG_COLOR),
    "val_accuracy": ("validation", RIGHT_COLOR),
    "val_macro_f1": ("validation, macro-F1", _THIRD_COLOR),
}
_RATE = {"learning_rate": ("learning rate", INK)}


def training_curves(history: History, path: Path, *, title: str = "Training") -> None:
    """Draw loss, accuracy and learning rate over the epochs and write them as a PNG.

    Args:
        history: any of the columns ``epoch, loss, accuracy, val_loss, val_accuracy, val_macro_f1,
            learning_rate, seconds, phase``; a line marks each change of ``phase``.
        path: where to write.
        title: heading of the figure.

    Raises:
        UsageError: if no column can be drawn, or columns differ in length.
        MissingExtra: without Matplotlib.
        OutputError: if the file cannot be written.
    """
    lengths = {name: len(column) for name, column in history.items()}
    panels = [
        (heading, lines)
        for heading, lines in (("Loss", _LOSSES), ("Accuracy", _SHARES), ("Learning rate", _RATE))
        if any(_known(history, name) for name in lines)
    ]
    if len(set(lengths.values())) != 1 or not panels:
        raise UsageError(
            "expected a history with columns of equal length, one value an epoch, "
            f"such as loss and val_accuracy; got {lengths}"
        )
    count = next(iter(lengths.values()))
    epochs = numbers(history["epoch"]) if "epoch" in history else np.arange(1.0, count + 1)
    phases = history.get("phase", ())
    changes = [place for place in range(1, len(phases)) if phases[place] != phases[place - 1]]
    seconds = float(np.nansum(numbers(history.get("seconds", ()))))
    with drawing(path, 1.0 + 4.6 * len(panels), 4.6) as figure:
        figure.suptitle(title + (f" ({format_duration(seconds)})" if seconds > 0 else ""))
        for axes, (heading, lines) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            # Room above the axes for the names of the phases.
            axes.set_title(heading, pad=22 if changes else None)
            _draw_lines(axes, epochs, history, lines)
            for place in changes:
                _mark_phase(axes, epochs, place, str(phases[place]))
            if lines is _SHARES:
                percent_axis(axes)
                if _known(history, "val_accuracy"):
                    _mark_best(axes, epochs, numbers(history["val_accuracy"]))
            if lines is _RATE:
                axes.yaxis.set_major_formatter("{x:g}")
            else:
                axes.legend(loc="best")


def numbers(column: Sequence[float | str | None]) -> npt.NDArray[np.float64]:
    """Return a column as float64 (N,), NaN where a value is missing."""
    return np.array([math.nan if value in (None, "") else float(value or 0) for value in column])


def _known(history: History, name: str) -> bool:
    return name in history and bool(np.isfinite(numbers(history[name])).any())


def _draw_lines(
    axes: Axes,
    epochs: npt.NDArray[np.float64],
    history: History,
    lines: Mapping[str, tuple[str, str]],
) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.grid()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for name, (label, color) in lines.items():
        if _known(history, name):
            # Markers make a run of one epoch visible; on long runs they are noise.
            marker = "o" if len(epochs) <= 30 else None
            values = numbers(history[name])
            axes.plot(epochs, values, color=color, label=label, lw=1.8, marker=marker, ms=3.5)


def _mark_phase(axes: Axes, epochs: npt.NDArray[np.float64], place: int, phase: str) -> None:
    edge = (epochs[place - 1] + epochs[place]) / 2
    axes.axvline(edge, color=FAINT, lw=1.2, ls=(0, (2, 2)))
    axes.annotate(
        f"{phase} from here",
        (edge, 1.015),
        xycoords=("data", "axes fraction"),
        ha="left" if place < len(epochs) / 2 else "right",
        va="bottom",
        color=FAINT,
        fontsize=9,
    )


def _mark_best(
    axes: Axes, epochs: npt.NDArray[np.float64], values: npt.NDArray[np.float64]
) -> None:
    best = int(np.nanargmax(values))
    label = f"best {100 * values[best]:.2f} %, epoch {epochs[best]:.0f}"
    ring: Any = {"ls": "none", "marker": "o", "ms": 9, "mfc": "none", "mec": INK, "mew": 1.6}
    axes.plot(epochs[best], values[best], label=label, **ring)


# ---------------------------------------------------------------- the audit of a data set
_SPLIT_COLORS = {"train": "#0072B2", "val": "#56B4E9", "test": "#E69F00"}

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


def _draw_balance(axes: Axes, audit: Audit) -> None:
    """Draw each class's share of its split, the three splits side by side."""
    height = 0.26
    for row, name in enumerate(SPLITS):
        counts = np.array([audit.classes[name][emotion] for emotion in EMOTIONS])
        shares = counts / max(1, counts.sum())
        places = np.arange(len(EMOTIONS)) + (row - 1) * height
        label = f"{name} ({counts.sum():,})"
        axes.barh(places, shares, height * 0.92, color=_SPLIT_COLORS[name], label=label)
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
        # Placed by hand, in inches: the automatic layout would separate the pairs.
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
