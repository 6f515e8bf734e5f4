"""The curves of a training run, from the columns of its history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError
from mien.core.progress import format_duration
from mien.evaluation.style import (
    FAINT,
    INK,
    RIGHT_COLOR,
    WRONG_COLOR,
    drawing,
    percent_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

History = Mapping[str, Sequence[float | str | None]]
"""Columns of equal length, one value an epoch; a missing value is None, NaN or an empty text."""

_THIRD_COLOR = "#009E73"
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
        history: any of the columns ``epoch, loss, accuracy, val_loss, val_accuracy,
            val_macro_f1, learning_rate, seconds, phase``; what is missing is not drawn. A line
            marks each epoch where the value of ``phase`` changes.
        path: where to write.
        title: heading of the figure.

    Raises:
        UsageError: if no column can be drawn, or columns differ in length.
        MissingExtra: without Matplotlib.
        OutputError: if the file cannot be written.
    """
    lengths = {len(column) for column in history.values()}
    panels = [
        (heading, lines)
        for heading, lines in (("Loss", _LOSSES), ("Accuracy", _SHARES), ("Learning rate", _RATE))
        if any(_known(history, name) for name in lines)
    ]
    if len(lengths) != 1 or lengths == {0} or not panels:
        raise UsageError(
            "expected a history with columns of equal length, one value an epoch, "
            f"such as loss and val_accuracy; got { ({n: len(c) for n, c in history.items()}) }"
        )
    count = lengths.pop()
    numbered = "epoch" in history
    epochs = numbers(history["epoch"]) if numbered else np.arange(1, count + 1, dtype=np.float64)
    with drawing(path, 1.0 + 4.6 * len(panels), 4.6) as figure:
        figure.suptitle(title + _duration(history))
        for axes, (heading, lines) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            # Room above the axes for the names of the phases.
            axes.set_title(heading, pad=22 if _changes(history) else None)
            axes.set_xlabel("epoch")
            axes.grid()
            _draw_lines(axes, epochs, history, lines)
            _mark_phases(axes, epochs, history)
            _whole_numbers(axes)
            if lines is _SHARES:
                percent_axis(axes)
                _mark_best(axes, epochs, history)
            if lines is _RATE:
                axes.yaxis.set_major_formatter("{x:g}")
            else:
                axes.legend(loc="best")


def numbers(column: Sequence[float | str | None]) -> npt.NDArray[np.float64]:
    """Return a column as float64 (N,), NaN where a value is missing."""
    missing = (None, "")
    return np.array([math.nan if value in missing else float(value or 0) for value in column])


def _shape(history: History) -> str:
    return ", ".join(f"{name} ({len(column)})" for name, column in history.items()) or "nothing"


def _known(history: History, name: str) -> bool:
    return name in history and bool(np.isfinite(numbers(history[name])).any())


def _duration(history: History) -> str:
    seconds = float(np.nansum(numbers(history.get("seconds", ()))))
    return f" ({format_duration(seconds)})" if seconds > 0 else ""


def _draw_lines(
    axes: Axes,
    epochs: npt.NDArray[np.float64],
    history: History,
    lines: Mapping[str, tuple[str, str]],
) -> None:
    for name, (label, color) in lines.items():
        if _known(history, name):
            # Markers let a run of a single epoch be seen; on long runs they would only be noise.
            marker = "o" if len(epochs) <= 30 else None
            values = numbers(history[name])
            axes.plot(epochs, values, color=color, label=label, lw=1.8, marker=marker, ms=3.5)


def _changes(history: History) -> list[int]:
    phases = history.get("phase", ())
    return [place for place in range(1, len(phases)) if phases[place] != phases[place - 1]]


def _mark_phases(axes: Axes, epochs: npt.NDArray[np.float64], history: History) -> None:
    for place in _changes(history):
        edge = (epochs[place - 1] + epochs[place]) / 2
        axes.axvline(edge, color=FAINT, lw=1.2, ls=(0, (2, 2)))
        axes.annotate(
            f"{history['phase'][place]} from here",
            (edge, 1.015),
            xycoords=("data", "axes fraction"),
            ha="left" if place < len(epochs) / 2 else "right",
            va="bottom",
            color=FAINT,
            fontsize=9,
        )


def _mark_best(axes: Axes, epochs: npt.NDArray[np.float64], history: History) -> None:
    if not _known(history, "val_accuracy"):
        return
    values = numbers(history["val_accuracy"])
    best = int(np.nanargmax(values))
    axes.plot(
        epochs[best],
        values[best],
        ls="none",
        marker="o",
        ms=9,
        mfc="none",
        mec=INK,
        mew=1.6,
        label=f"best {100 * values[best]:.2f} %, epoch {epochs[best]:.0f}",
    )


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
