"""The figures of a report; each function draws one and writes it as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mien.evaluation.agreement import BIN_COUNT, Agreement
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
    width = 1 / BIN_COUNT
    centres = [(each.low + each.high) / 2 for each in agreement.bins]
    with drawing(path, 6.4, 7.0) as figure:
        figure.suptitle(title)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        shares = [each.share for each in agreement.bins]
        upper.bar(centres, shares, width=width * 0.92, color=RIGHT_COLOR, label="share of people")
        upper.plot([0, 1], [0, 1], color=INK, lw=1, ls=(0, (4, 3)), label="as the score says")
        upper.plot(
            [each.score for each in agreement.bins],
            shares,
            ls="none",
            marker="o",
            ms=5,
            mfc="white",
            mec=INK,
            label="at the bin's mean score",
        )
        upper.set_ylim(0, 1.02)
        upper.set_ylabel("people who named the emotion")
        upper.legend(loc="upper left")
        upper.text(
            0.98,
            0.05,
            f"differ by {100 * agreement.share_error:.1f} points on average",
            ha="right",
            transform=upper.transAxes,
            bbox={"facecolor": "white", "edgecolor": FAINT, "boxstyle": "round,pad=0.4"},
        )
        counts = [each.count for each in agreement.bins]
        lower.bar(centres, counts, width=width * 0.92, color=FAINT)
        lower.set_yscale("log")
        lower.set_ylabel("scores (log)")
        lower.set_xlabel("score, of any of the seven emotions")
        lower.set_xlim(0, 1)
        for axes in (upper, lower):
            axes.grid(axis="y")
        percent_axis(upper)
        percent_axis(lower, "x")


def _mean_line(axes: Axes, count: int, value: float, text: str) -> None:
    axes.axhline(value, color=INK, lw=1, ls=(0, (4, 3)))
    axes.set_xlim(-0.6, count + 0.45)
    axes.text(count - 0.5, value + 0.01, text.replace(" images ", "\nimages\n"), va="bottom")


def reliability_figure(calibration: Calibration, path: Path, *, title: str) -> None:
    """Draw accuracy against confidence, and below it how many predictions each bin holds."""
    filled = [entry for entry in calibration.bins if entry.count]
    width = 1 / len(calibration.bins)
    centres = [(entry.low + entry.high) / 2 for entry in filled]
    confidences = np.array([entry.confidence for entry in filled], np.float64)
    accuracies = np.array([entry.accuracy for entry in filled], np.float64)
    with drawing(path, 6.4, 7.0) as figure:
        figure.suptitle(title)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.bar(centres, accuracies, width=width * 0.92, color=RIGHT_COLOR, label="accuracy")
        upper.plot([0, 1], [0, 1], color=INK, lw=1, ls=(0, (4, 3)), label="perfectly calibrated")
        upper.plot(
            confidences,
            accuracies,
            ls="none",
            marker="o",
            ms=5,
            mfc="white",
            mec=INK,
            label="at the bin's mean confidence",
        )
        upper.set_ylim(0, 1.02)
        upper.set_ylabel("images read right")
        upper.legend(loc="upper left")
        upper.text(
            0.98,
            0.05,
            f"calibration error {100 * calibration.error:.1f} %\n"
            f"mean confidence {100 * calibration.confidence:.1f} %",
            ha="right",
            transform=upper.transAxes,
            bbox={"facecolor": "white", "edgecolor": FAINT, "boxstyle": "round,pad=0.4"},
        )
        lower.bar(centres, [entry.count for entry in filled], width=width * 0.92, color=FAINT)
        lower.set_ylabel("predictions")
        lower.set_xlabel("confidence (highest probability)")
        lower.set_xlim(0, 1)
        for axes in (upper, lower):
            axes.grid(axis="y")
        percent_axis(upper)
        percent_axis(lower, "x")
