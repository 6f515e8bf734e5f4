"""The figures of a report; each function draws one and writes it as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mien.evaluation.agreement import Agreement
from mien.evaluation.calibration import Calibration
from mien.evaluation.extra import train_extra
from mien.evaluation.metrics import Metrics
from mien.evaluation.style import (
    FAINT,
    INK,
    RIGHT_COLOR,
    class_color,
    drawing,
    percent_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        shares: float64 (classes, classes), 0-1, rows are what is true.
        texts: str (classes, classes).
        names: of the classes.
        read: what the columns are called.
        text_size: of the cells' texts, points.
    """
    with train_extra("A figure"):
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
    # Colour follows the rate in both, or the largest class would drown the others' counts.
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
    with drawing(path, 9.0, 4.8) as figure:
        figure.suptitle(title)
        axes = figure.subplots()
        for place, entry in enumerate(metrics.classes):
            if entry.accuracy is None or entry.accuracy_interval is None:
                axes.text(place, 0.02, "no\nimages", ha="center", va="bottom", color=FAINT)
                continue
            below = entry.accuracy - entry.accuracy_interval.low
            above = entry.accuracy_interval.high - entry.accuracy
            axes.bar(place, entry.accuracy, width=0.68, color=class_color(entry.emotion))
            axes.errorbar(
                place, entry.accuracy, yerr=[[below], [above]], color=INK, capsize=4, lw=1.3
            )
            axes.text(
                place,
                entry.accuracy_interval.high + 0.02,
                f"{100 * entry.accuracy:.0f} %",
                ha="center",
                va="bottom",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            )
        _mean_line(
            axes,
            len(metrics.classes),
            metrics.accuracy,
            f"all images {100 * metrics.accuracy:.1f} %",
        )
        axes.set_xticks(
            range(len(metrics.classes)),
            [f"{entry.emotion}\nn = {entry.support:,}" for entry in metrics.classes],
        )
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(0, 1.12)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set_ylabel("images read right")
        axes.grid(axis="y")
        percent_axis(axes)


def share_figure(agreement: Agreement, path: Path, *, title: str) -> None:
    """Draw the share of people who named an emotion against its score, and how many scores."""
    bins = agreement.bins
    _reliability(
        path,
        title,
        [(each.low, each.high) for each in bins],
        means=[each.score for each in bins],
        heights=[each.share for each in bins],
        counts=[each.count for each in bins],
        texts=_ReliabilityTexts(
            bars="share of people",
            diagonal="as the score says",
            dots="at the bin's mean score",
            heights="people who named the emotion",
            note=f"differ by {100 * agreement.share_error:.1f} points on average",
            counts="scores (log)",
            axis="score, of any of the seven emotions",
        ),
        count_scale="log",
    )


def _mean_line(axes: Axes, count: int, value: float, text: str) -> None:
    axes.axhline(value, color=INK, lw=1, ls=(0, (4, 3)))
    axes.set_xlim(-0.6, count + 0.45)
    axes.text(count - 0.5, value + 0.01, text.replace(" images ", "\nimages\n"), va="bottom")


def reliability_figure(calibration: Calibration, path: Path, *, title: str) -> None:
    """Draw accuracy against confidence, and below it how many predictions each bin holds."""
    filled = [entry for entry in calibration.bins if entry.count]
    _reliability(
        path,
        title,
        [(entry.low, entry.high) for entry in filled],
        means=[entry.confidence for entry in filled],
        heights=[entry.accuracy for entry in filled],
        counts=[entry.count for entry in filled],
        texts=_ReliabilityTexts(
            bars="accuracy",
            diagonal="perfectly calibrated",
            dots="at the bin's mean confidence",
            heights="images read right",
            note=f"calibration error {100 * calibration.error:.1f} %\n"
            f"mean confidence {100 * calibration.confidence:.1f} %",
            counts="predictions",
            axis="confidence (highest probability)",
        ),
    )


@dataclass(frozen=True)
class _ReliabilityTexts:
    """What a reliability diagram says: in its legend, on its axes and in its corner."""

    bars: str
    diagonal: str
    dots: str
    heights: str
    note: str
    counts: str
    axis: str


def _reliability(
    path: Path,
    title: str,
    edges: Sequence[tuple[float, float]],
    *,
    means: Sequence[float | None],
    heights: Sequence[float | None],
    counts: Sequence[int],
    texts: _ReliabilityTexts,
    count_scale: str = "linear",
) -> None:
    """Draw what was found in each bin against what was said, and how much each bin holds."""
    centres = [(low + high) / 2 for low, high in edges]
    widths = [0.92 * (high - low) for low, high in edges]
    found = np.array(heights, np.float64)
    with drawing(path, 6.4, 7.0) as figure:
        figure.suptitle(title)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.bar(centres, found, width=widths, color=RIGHT_COLOR, label=texts.bars)
        upper.plot([0, 1], [0, 1], color=INK, lw=1, ls=(0, (4, 3)), label=texts.diagonal)
        upper.plot(
            np.array(means, np.float64),
            found,
            ls="none",
            marker="o",
            ms=5,
            mfc="white",
            mec=INK,
            label=texts.dots,
        )
        upper.set_ylim(0, 1.02)
        upper.set_ylabel(texts.heights)
        upper.legend(loc="upper left")
        upper.text(
            0.98,
            0.05,
            texts.note,
            ha="right",
            transform=upper.transAxes,
            bbox={"facecolor": "white", "edgecolor": FAINT, "boxstyle": "round,pad=0.4"},
        )
        lower.bar(centres, counts, width=widths, color=FAINT)
        lower.set_yscale(count_scale)
        lower.set_ylabel(texts.counts)
        lower.set_xlabel(texts.axis)
        lower.set_xlim(0, 1)
        for axes in (upper, lower):
            axes.grid(axis="y")
        percent_axis(upper)
        percent_axis(lower, "x")
