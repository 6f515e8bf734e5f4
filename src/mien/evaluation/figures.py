"""Figures of reports, training runs and audits, written as PNG.

Matplotlib's object interface and the Agg canvas keep them free of windows and global state. Correct
and incorrect are the blue and vermilion of Okabe and Ito (2008), a palette that is safe for common
colour vision deficiencies.
"""

from __future__ import annotations

import csv
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
from mien.core.errors import InputError, UsageError, needs_extra
from mien.core.files import SOFTWARE, write_atomically
from mien.core.progress import format_duration
from mien.data.audit import Audit, CopyCount, Pair
from mien.data.dataset import SPLITS, Split
from mien.evaluation.metrics import Agreement, Calibration, Floats, Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

CORRECT_COLOR = "#0072B2"
WRONG_COLOR = "#D55E00"
INK = "#222222"
FAINT = "#8A8A8A"
DOTS_PER_INCH = 150

_CUSTOM_CLASS_COLOR = "#44AA99"
_F1_COLOR = "#009E73"
_DASHED = (0, (4, 3))
_FALLBACK_FONTS = (
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
"""For class names in scripts that Matplotlib's default font lacks."""

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
    """Yield an empty figure, sized in inches, and write it as PNG on exit.

    Raises:
        MissingExtra: without Matplotlib.
        OutputError: if the file cannot be written.
    """
    with needs_extra("train", "A figure"):
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.font_manager import get_font_names
    installed = set(get_font_names())
    family = [_SETTINGS["font.family"], *(name for name in _FALLBACK_FONTS if name in installed)]
    with rc_context({**_SETTINGS, "font.family": family}), warnings.catch_warnings():
        # A character that no font has is drawn as a box.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        buffer = io.BytesIO()
        # Without Matplotlib's version in the metadata, equal figures are equal files.
        figure.savefig(buffer, format="png", metadata={"Software": SOFTWARE})
    write_atomically(path, buffer.getvalue())


def percent_axis(axes: Axes, which: str = "y") -> None:
    """Label an axis ("x" or "y") from 0 to 1 in per cent."""
    from matplotlib.ticker import PercentFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0, symbol=" %"))


def show_image(axes: Axes, image: npt.NDArray[np.uint8], color: str, **options: Any) -> None:
    """Show an image, uint8 (H, W) grey or (H, W, 3) RGB, in a coloured frame without ticks."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, **options)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(color)


# ---------------------------------------------------------------- confusion and accuracy
def draw_matrix(
    axes: Axes,
    shares: Floats,
    texts: npt.NDArray[np.str_],
    names: Sequence[str],
    *,
    text_size: int = 11,
) -> None:
    """Draw a confusion matrix, each cell coloured by its share of the row.

    Args:
        axes: the axes to draw on.
        shares: float64 (classes, classes), 0-1; rows are the true classes.
        texts: str (classes, classes), the cells' texts.
        names: class names.
        text_size: font size of the cells' texts in points.
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
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(axis="x", rotation=40, length=0)
    axes.tick_params(axis="y", rotation=0, length=0)


def confusion_figure(metrics: Metrics, path: Path, *, title: str) -> None:
    """Draw the confusion matrix as counts (left) and as rates of each row (right)."""
    names = [entry.emotion for entry in metrics.classes]
    rates = np.array([row or (np.nan,) * len(names) for row in metrics.confusion_rates])
    shares = np.nan_to_num(rates)
    percents = np.where(np.isnan(rates), "-", np.char.mod("%.0f", 100 * shares))
    with drawing(path, 12.6, 6.6) as figure:
        figure.suptitle(title)
        left, right = figure.subplots(1, 2)
        # Counts are coloured by rate too, or the largest class would dominate.
        draw_matrix(left, shares, np.char.mod("%d", np.array(metrics.confusion)), names)
        draw_matrix(right, shares, percents, names)
        left.set_title("Images")
        right.set_title("Share of each true emotion, %")


def accuracy_figure(metrics: Metrics, path: Path, *, title: str) -> None:
    """Draw the accuracy of each class with its 95 % interval, and that of all images."""
    count = len(metrics.classes)
    with drawing(path, 9.0, 4.8) as figure:
        figure.suptitle(title)
        axes = figure.subplots()
        for x, entry in enumerate(metrics.classes):
            share, interval = entry.accuracy, entry.accuracy_interval
            if share is None or interval is None:
                axes.text(x, 0.02, "no\nimages", ha="center", va="bottom", color=FAINT)
                continue
            color = EMOTION_COLORS.get(entry.emotion, _CUSTOM_CLASS_COLOR)
            errors = [[share - interval.low], [interval.high - share]]
            axes.bar(x, share, width=0.68, color=color)
            axes.errorbar(x, share, yerr=errors, color=INK, capsize=4, lw=1.3)
            axes.text(
                x,
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
        axes.set_ylabel("accuracy")
        axes.grid(axis="y")
        percent_axis(axes)


# ---------------------------------------------------------------- reliability
def reliability_figure(calibration: Calibration, path: Path, *, title: str) -> None:
    """Draw accuracy over confidence, and the number of predictions in each bin."""
    rows = [(b.low, b.high, b.confidence, b.accuracy, b.count) for b in calibration.bins if b.count]
    note = (
        f"calibration error {100 * calibration.error:.1f} %\n"
        f"mean confidence {100 * calibration.confidence:.1f} %"
    )
    with _reliability(path, title, rows, "accuracy", note) as histogram:
        histogram.set_ylabel("predictions")
        histogram.set_xlabel("confidence (highest probability)")


def share_figure(agreement: Agreement, path: Path, *, title: str) -> None:
    """Draw vote shares over scores, and the number of scores in each bin."""
    rows = [(b.low, b.high, b.score, b.share, b.count) for b in agreement.bins]
    note = f"mean gap {100 * agreement.share_error:.1f} points"
    with _reliability(path, title, rows, "share of annotators", note) as histogram:
        histogram.set_yscale("log")
        histogram.set_ylabel("scores (log)")
        histogram.set_xlabel("score of any of the seven emotions")


@contextmanager
def _reliability(
    path: Path,
    title: str,
    rows: Sequence[tuple[float, float, float | None, float | None, int]],
    outcome: str,
    note: str,
) -> Iterator[Axes]:
    """Draw bins (low, high, mean, outcome, count) as a reliability diagram above a histogram.

    Yields the histogram's axes for the caller to label.
    """
    low, high, means, outcomes, counts = np.array(rows, np.float64).T
    centres, widths = (low + high) / 2, 0.92 * (high - low)
    with drawing(path, 6.4, 7.0) as figure:
        figure.suptitle(title)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.bar(centres, outcomes, width=widths, color=CORRECT_COLOR, label=outcome)
        upper.plot([0, 1], [0, 1], color=INK, lw=1, ls=_DASHED, label="perfect calibration")
        dots: Any = {"ls": "none", "marker": "o", "ms": 5, "mfc": "white", "mec": INK}
        upper.plot(means, outcomes, label="mean of the bin", **dots)
        upper.set_ylim(0, 1.02)
        upper.set_ylabel(outcome)
        box = {"facecolor": "white", "edgecolor": FAINT, "boxstyle": "round,pad=0.4"}
        upper.text(0.98, 0.05, note, ha="right", transform=upper.transAxes, bbox=box)
        upper.legend(loc="upper left")
        lower.bar(centres, counts, width=widths, color=FAINT)
        lower.set_xlim(0, 1)
        yield lower
        for axes in (upper, lower):
            axes.grid(axis="y")
        percent_axis(upper)
        percent_axis(lower, "x")


# ---------------------------------------------------------------- training curves
History = Mapping[str, Sequence[float | str | None]]
"""Columns of equal length, one value per epoch; missing values are None, NaN or empty strings."""

_Lines = Mapping[str, tuple[str, str]]
"""Label and colour of each column in one panel."""

_LOSSES: _Lines = {
    "loss": ("training", WRONG_COLOR),
    "val_loss": ("validation", CORRECT_COLOR),
}
_ACCURACIES: _Lines = {
    "accuracy": ("training", WRONG_COLOR),
    "val_accuracy": ("validation", CORRECT_COLOR),
    "val_macro_f1": ("validation, macro-F1", _F1_COLOR),
}
_RATES: _Lines = {"learning_rate": ("learning rate", INK)}


def read_history(path: Path) -> History:
    """Read the columns of a run's ``history.csv``.

    Raises:
        InputError: if it cannot be read, has no epochs, or has rows of different length.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the history {path}: {error}") from error
    if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows):
        raise InputError(
            f"cannot read the history {path}: expected a header and a line for each epoch"
        )
    header, *epochs = rows
    return {name: list(column) for name, *column in zip(header, *epochs, strict=True)}


def training_curves(history: History, path: Path, *, title: str = "Training") -> None:
    """Draw loss, accuracy and learning rate over the epochs.

    Args:
        history: any of the columns ``epoch, loss, accuracy, val_loss, val_accuracy, val_macro_f1,
            learning_rate, seconds, phase``; each change of ``phase`` is marked.
        path: file to write.
        title: title of the figure.

    Raises:
        UsageError: if there is no column to draw, or columns differ in length.
        MissingExtra: without Matplotlib.
        OutputError: if the file cannot be written.
    """
    lengths = {name: len(column) for name, column in history.items()}
    panels = {"Loss": _LOSSES, "Accuracy": _ACCURACIES, "Learning rate": _RATES}
    panels = {
        heading: lines
        for heading, lines in panels.items()
        if any(_has_values(history, name) for name in lines)
    }
    if len(set(lengths.values())) != 1 or not panels:
        raise UsageError(
            "expected a history with columns of equal length, one value an epoch, "
            f"such as loss and val_accuracy; got {lengths}"
        )
    count = next(iter(lengths.values()))
    epochs = numbers(history["epoch"]) if "epoch" in history else np.arange(1.0, count + 1)
    phases = history.get("phase", ())
    changes = [index for index in range(1, len(phases)) if phases[index] != phases[index - 1]]
    seconds = float(np.nansum(numbers(history.get("seconds", ()))))
    with drawing(path, 1.0 + 4.6 * len(panels), 4.6) as figure:
        figure.suptitle(title + (f" ({format_duration(seconds)})" if seconds > 0 else ""))
        all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (heading, lines) in zip(all_axes, panels.items(), strict=True):
            # Leaves room above the axes for the names of the phases.
            axes.set_title(heading, pad=22 if changes else None)
            _draw_lines(axes, epochs, history, lines)
            for index in changes:
                _mark_phase(axes, epochs, index, str(phases[index]))
            if lines is _ACCURACIES:
                percent_axis(axes)
                if _has_values(history, "val_accuracy"):
                    _mark_best(axes, epochs, numbers(history["val_accuracy"]))
            if lines is _RATES:
                axes.yaxis.set_major_formatter("{x:g}")
            else:
                axes.legend(loc="best")


def numbers(column: Sequence[float | str | None]) -> Floats:
    """Return a column as float64 (N,), NaN where a value is missing."""
    return np.array([math.nan if value in (None, "") else float(value or 0) for value in column])


def _has_values(history: History, name: str) -> bool:
    return name in history and bool(np.isfinite(numbers(history[name])).any())


def _draw_lines(axes: Axes, epochs: Floats, history: History, lines: _Lines) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.grid()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for name, (label, color) in lines.items():
        if _has_values(history, name):
            # Markers make a run of one epoch visible; on long runs they are noise.
            marker = "o" if len(epochs) <= 30 else None
            values = numbers(history[name])
            axes.plot(epochs, values, color=color, label=label, lw=1.8, marker=marker, ms=3.5)


def _mark_phase(axes: Axes, epochs: Floats, index: int, phase: str) -> None:
    x = (epochs[index - 1] + epochs[index]) / 2
    axes.axvline(x, color=FAINT, lw=1.2, ls=(0, (2, 2)))
    axes.annotate(
        f"phase: {phase}",
        (x, 1.015),
        xycoords=("data", "axes fraction"),
        ha="left" if index < len(epochs) / 2 else "right",
        va="bottom",
        color=FAINT,
        fontsize=9,
    )


def _mark_best(axes: Axes, epochs: Floats, values: Floats) -> None:
    best = int(np.nanargmax(values))
    label = f"best {100 * values[best]:.2f} %, epoch {epochs[best]:.0f}"
    ring: Any = {"ls": "none", "marker": "o", "ms": 9, "mfc": "none", "mec": INK, "mew": 1.6}
    axes.plot(epochs[best], values[best], label=label, **ring)


# ---------------------------------------------------------------- audit of a data set
_SPLIT_COLORS = {"train": "#0072B2", "val": "#56B4E9", "test": "#E69F00"}
_NEAR_COLOR = "#56B4E9"
_LEGEND_BELOW: Any = {
    "loc": "upper left",
    "bbox_to_anchor": (-0.02, -0.08),
    "ncols": 3,
    "fontsize": 10,
    "handlelength": 1.2,
    "handletextpad": 0.5,
    "columnspacing": 1.4,
}
_MAX_PAIRS = 7
_MAX_BLANKS = 14
# Sizes in inches.
_WIDTH = 13.0
_STRIP_HEIGHT = 1.85
_CHARTS_HEIGHT = 5.2
_IMAGE_SIDE = 0.82
_PAIR_PITCH = 1.84


@dataclass(frozen=True)
class _Strip:
    """One row of example images in pairs, captioned with split and class; one note per pair."""

    title: str
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


def draw_audit(audit: Audit, splits: Mapping[str, Split], path: Path, *, title: str) -> None:
    """Draw the findings of an audit: class balance, duplicates and example images.

    Args:
        audit: the findings.
        splits: the audited splits.
        path: file to write.
        title: name of the data set.

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
    heights = [_CHARTS_HEIGHT] + [_STRIP_HEIGHT] * len(strips)
    with drawing(path, _WIDTH, sum(heights) + 0.4) as figure:
        figure.suptitle(
            f"{title}: {audit.images:,} images, {audit.distinct:,} distinct", x=0.01, ha="left"
        )
        rows = figure.subfigures(1 + len(strips), 1, height_ratios=heights)
        top, *below = np.atleast_1d(np.asarray(rows))
        left, right = top.subplots(1, 2, width_ratios=[1.0, 1.15])
        _draw_balance(left, audit)
        _draw_duplicates(right, audit)
        for subfigure, strip in zip(below, strips, strict=True):
            _draw_strip(subfigure, strip, images)


def _draw_balance(axes: Axes, audit: Audit) -> None:
    """Draw the class shares of the three splits side by side."""
    height = 0.26
    for row, name in enumerate(SPLITS):
        counts = np.array([audit.classes[name][emotion] for emotion in EMOTIONS])
        shares = counts / max(1, counts.sum())
        ys = np.arange(len(EMOTIONS)) + (row - 1) * height
        label = f"{name} ({counts.sum():,})"
        axes.barh(ys, shares, height * 0.92, color=_SPLIT_COLORS[name], label=label)
        for y, share, count in zip(ys, shares, counts, strict=True):
            axes.text(share + 0.003, y, f"{count:,}", va="center", fontsize=8, color=INK)
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    _finish_chart(axes, EMOTIONS, "Class shares of each split")
    axes.legend(**_LEGEND_BELOW)


def _draw_duplicates(axes: Axes, audit: Audit) -> None:
    """Draw the number of images with duplicates, and those labelled differently."""
    height = 0.36
    near = [(count.near, count.near_other_label) for count in audit.copies]
    exact = [(count.exact, count.exact_other_label) for count in audit.copies]
    largest = max(1, *(total for total, _ in near))
    bars = []
    for row, (color, counts) in enumerate(((_NEAR_COLOR, near), (CORRECT_COLOR, exact))):
        totals, conflicts = zip(*counts, strict=True)
        ys = np.arange(len(counts)) + (0.5 - row) * height
        bars.append(axes.barh(ys, totals, height * 0.92, color=color))
        conflicting = axes.barh(ys, conflicts, height * 0.92, color=WRONG_COLOR)
        for y, total in zip(ys, totals, strict=True):
            x = total + largest * 0.01
            axes.text(x, y, f"{total:,}", va="center", fontsize=9, color=INK)
    axes.margins(x=0.1)
    axes.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    _finish_chart(axes, [_where(count) for count in audit.copies], "Images with duplicates")
    names = ["pixel-identical", f"near (cosine ≥ {audit.near_threshold:g})", "different label"]
    axes.legend([bars[1], bars[0], conflicting], names, **_LEGEND_BELOW)


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
    """Choose the examples; duplicates across splits come first, as they leak test images."""
    conflicting = [pair for pair in audit.exact_pairs if not pair.same_label]
    conflicting = sorted(conflicting, key=lambda pair: not _crosses_splits(pair))[:_MAX_PAIRS]
    leaks = [pair for pair in audit.near_pairs if _crosses_splits(pair)]
    if len(leaks) > _MAX_PAIRS:  # evenly from the most to the least similar
        leaks = [leaks[round(index)] for index in np.linspace(0, len(leaks) - 1, _MAX_PAIRS)]
    notes = tuple(f"{pair.cosine:.3f}{' mirrored' if pair.flipped else ''}" for pair in leaks)
    conflict_files, leak_files = (
        tuple(file for pair in pairs for file in (pair.first, pair.second))
        for pairs in (conflicting, leaks)
    )
    return [
        _Strip("Pixel-identical with different labels", conflict_files),
        _Strip("Near duplicates across splits", leak_files, notes),
        _Strip(f"Blank images ({len(audit.blank):,})", audit.blank[:_MAX_BLANKS]),
    ]


def _crosses_splits(pair: Pair) -> bool:
    return pair.first.split("/")[0] != pair.second.split("/")[0]


def _draw_strip(
    subfigure: SubFigure, strip: _Strip, images: Mapping[str, npt.NDArray[np.uint8]]
) -> None:
    subfigure.suptitle(strip.title, x=0.01, y=0.97, ha="left", fontsize=12)
    width, height = _IMAGE_SIDE / _WIDTH, _IMAGE_SIDE / _STRIP_HEIGHT
    for index, file in enumerate(strip.files):
        left = 0.14 + index // 2 * _PAIR_PITCH + index % 2 * (_IMAGE_SIDE + 0.04)
        # Placed by hand, as the automatic layout would separate the pairs.
        axes = subfigure.add_axes((left / _WIDTH, 0.56 / _STRIP_HEIGHT, width, height))
        show_image(axes, images[file], FAINT, interpolation="nearest", aspect="auto")
        axes.set_xlabel("\n".join(file.split("/")[:2]), fontsize=9, labelpad=3)
    for index, note in enumerate(strip.notes):
        centre = 0.14 + index * _PAIR_PITCH + _IMAGE_SIDE + 0.02
        subfigure.text(centre / _WIDTH, 0.1 / _STRIP_HEIGHT, note, ha="center", fontsize=9)
