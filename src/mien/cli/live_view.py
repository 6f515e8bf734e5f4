"""Live views of a video: bars of scores on the terminal, and a window with annotated frames."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from rich.color import Color
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from mien.core.display import class_colors
from mien.core.errors import UsageError
from mien.core.results import Face, Result
from mien.video.frames import format_time
from mien.video.writer import draw_faces, smoothed_face

_BAR_COLUMNS = 12
_REDRAW_S = 1 / 15
_RATE_WINDOW_S = 2.0

_CLOSING_KEYS = (27, ord("q"))
_WINDOW_FLAGS = cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL  # no toolbar
_INITIAL_SIDE = 1200
"""Longer side of a new window, in pixels; users may enlarge it."""


class LiveBars:
    """Bars of each face's scores on stderr, redrawn in place; use as a context manager.

    Args:
        title: name of the video source.
        labels: the model's emotions.
    """

    def __init__(self, title: str, labels: Sequence[str]) -> None:
        self._title, self._labels = title, labels
        self._colors = class_colors(labels)
        # Other lines on stderr appear above the bars.
        self._live = Live(
            console=Console(file=sys.stderr),
            auto_refresh=False,
            redirect_stdout=False,
            vertical_overflow="crop",
        )
        self._last_drawn = 0.0
        self._times: list[float] = []

    def __enter__(self) -> LiveBars:
        self._live.start()
        # Kept visible: a killed process could not restore it.
        self._live.console.show_cursor(True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, result: Result) -> None:
        """Draw a result, unless another was drawn less than `_REDRAW_S` ago."""
        now = time.monotonic()
        self._times = [past for past in self._times if now - past < _RATE_WINDOW_S] + [now]
        if now - self._last_drawn >= _REDRAW_S:
            self._last_drawn = now
            self._live.update(self._render(result), refresh=True)

    def _render(self, result: Result) -> Group:
        elapsed = self._times[-1] - self._times[0]
        rate = f"{(len(self._times) - 1) / elapsed:.1f} frames/s  " if elapsed else ""
        header = f"{self._title}  {format_time(result.time_s or 0.0)}  {rate}Ctrl-C ends"
        faces = [self._render_face(face) for face in result.faces]
        body = Columns(faces, padding=(0, 3)) if faces else Text("no face")
        return Group(Text(header, no_wrap=True, overflow="ellipsis"), body)

    def _render_face(self, face: Face) -> Group:
        smoothed = smoothed_face(face)
        table = Table.grid(padding=(0, 1))
        table.add_column(justify="right")
        table.add_column(width=_BAR_COLUMNS)
        table.add_column(justify="right", width=4)
        for label in self._labels:
            score = smoothed.scores.get(label, 0.0)
            style = Style(color=Color.from_rgb(*self._colors[label][:3]))
            bar = ProgressBar(1.0, score, _BAR_COLUMNS, complete_style=style, finished_style=style)
            row_style = None if label == smoothed.emotion else "dim"
            table.add_row(Text(label), bar, f"{score:.0%}", style=row_style)
        person = "" if face.track_id is None else f"#{face.track_id}  "
        title = f"{person}{smoothed.emotion}{' ?' if face.uncertain else ''}"
        return Group(Text(title, style="bold"), table)


def check_window_support() -> None:
    """Raise UsageError if OpenCV cannot open windows on this machine."""
    if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
        raise UsageError(
            "--show needs an OpenCV with windows: pip uninstall opencv-python-headless, then "
            "pip install 'opencv-python<5'"
        )
    # Without a display, OpenCV's window library ends the process.
    if sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise UsageError("--show needs a display, but there is none: leave it out")


class LiveWindow:
    """A window that shows annotated frames, opened with the first; use as a context manager."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._is_open = False

    def __enter__(self) -> LiveWindow:
        return self

    def __exit__(self, *_: object) -> None:
        cv2.destroyAllWindows()

    def show(self, pixels: npt.NDArray[np.uint8], faces: Sequence[Face]) -> bool:
        """Show a frame, RGB (H, W, 3) uint8; return False once the user has closed the window."""
        picture = draw_faces(pixels, faces)
        if not self._is_open:
            height, width = picture.shape[:2]
            scale = min(1.0, _INITIAL_SIDE / max(height, width))
            cv2.namedWindow(self._title, _WINDOW_FLAGS)
            cv2.resizeWindow(self._title, round(width * scale), round(height * scale))
            self._is_open = True
        cv2.imshow(self._title, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1)
        is_open = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        return is_open and key not in _CLOSING_KEYS
