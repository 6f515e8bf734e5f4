"""One look for every figure: fonts, colours, sizes; and how a figure becomes a PNG.

Colours are Okabe and Ito's (2008), told apart by people with any of the common colour deficiencies.
Figures are drawn with Matplotlib's object interface on the Agg canvas: no window, no global state.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.core.files import SOFTWARE, write_atomically
from mien.evaluation.extra import train_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EMOTION_COLORS: dict[str, str] = {
    "angry": "#D55E00",
    "disgust": "#009E73",
    "fear": "#CC79A7",
    "happy": "#E69F00",
    "neutral": "#7F7F7F",
    "sad": "#0072B2",
    "surprise": "#56B4E9",
}
OTHER_COLOR = "#44AA99"
"""Of a model's own classes."""

RIGHT_COLOR = "#0072B2"
WRONG_COLOR = "#D55E00"
INK = "#222222"
FAINT = "#8A8A8A"
RIGHT_MARK = "✓"
WRONG_MARK = "✗"

DOTS_PER_INCH = 150

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
"""For names of one's own classes in scripts that Matplotlib's font lacks, where they are there."""

# Any: what Matplotlib types these keys as differs between its versions.
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


def class_color(name: str) -> str:
    """Return the colour of an emotion, or the one of all other classes."""
    return EMOTION_COLORS.get(name, OTHER_COLOR)


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Give an empty figure in the house style and write it to ``path`` as a PNG at the end.

    Args:
        path: where to write; its folder is made if need be.
        width: inches, at 150 dots an inch.
        height: inches.

    Raises:
        MissingExtra: without Matplotlib.
        OutputError: if the file cannot be written.
    """
    with train_extra("A figure"):
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.font_manager import get_font_names
    there = set(get_font_names())
    family = [_SETTINGS["font.family"], *(name for name in _OTHER_FONTS if name in there)]
    with rc_context({**_SETTINGS, "font.family": family}), warnings.catch_warnings():
        # A box stands for a character that no font has.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        picture = io.BytesIO()
        # Without the software's version, the same numbers give the same bytes.
        figure.savefig(picture, format="png", metadata={"Software": SOFTWARE})
    write_atomically(path, picture.getvalue())


def percent_axis(axes: Axes, which: str = "y") -> None:
    """Label an axis that runs from 0 to 1 in per cent; ``which`` is "x" or "y"."""
    from matplotlib.ticker import PercentFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0, symbol=" %"))
