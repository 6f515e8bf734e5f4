"""Live bars on the terminal: each face's scores, redrawn in place by rich."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.color import Color
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from mien.core.display import class_colors
from mien.core.results import Face, Result
from mien.video.times import format_time
from mien.video.writer import as_smoothed

_BAR_COLUMNS = 12
_REDRAW_S = 1 / 15


class LiveBars:
    """Draws the newest result over the one before, on stderr; use as a context manager.

    Args:
        title: what is being watched.
        labels: the model's emotions.
    """

    def __init__(self, title: str, labels: Sequence[str]) -> None:
        """See the class."""
        self._title, self._labels = title, labels
        self._colors = class_colors(labels)
        # Refreshed from here alone; notes on stderr come to stand above the bars.
        self._live = Live(
            console=Console(file=sys.stderr),
            auto_refresh=False,
            redirect_stdout=False,
            vertical_overflow="crop",
        )
        self._drawn = 0.0
        self._times: list[float] = []

    def __enter__(self) -> LiveBars:
        """Nothing is drawn before the first result."""
        self._live.start()
        # Kept visible: a process that is killed could not bring it back.
        self._live.console.show_cursor(True)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state standing."""
        self._live.stop()

    def show(self, result: Result) -> None:
        """Draw a result, if the last one was not drawn just now."""
        now = time.monotonic()
        self._times = [each for each in self._times if now - each < 2.0] + [now]
        if now - self._drawn >= _REDRAW_S:
            self._drawn = now
            self._live.update(self._picture(result), refresh=True)

    def _picture(self, result: Result) -> Group:
        span = self._times[-1] - self._times[0]
        rate = f"{(len(self._times) - 1) / span:.1f} frames/s  " if span else ""
        head = f"{self._title}  {format_time(result.time_s or 0.0)}  {rate}Ctrl-C ends"
        faces = [self._face(face) for face in result.faces]
        body = Columns(faces, padding=(0, 3)) if faces else Text("no face")
        return Group(Text(head, no_wrap=True, overflow="ellipsis"), body)

    def _face(self, face: Face) -> Group:
        seen = as_smoothed(face)
        table = Table.grid(padding=(0, 1))
        table.add_column(justify="right")
        table.add_column(width=_BAR_COLUMNS)
        table.add_column(justify="right", width=4)
        for label in self._labels:
            score = seen.scores.get(label, 0.0)
            style = Style(color=Color.from_rgb(*self._colors[label][:3]))
            bar = ProgressBar(1.0, score, _BAR_COLUMNS, complete_style=style, finished_style=style)
            row_style = None if label == seen.emotion else "dim"
            table.add_row(Text(label), bar, f"{score:.0%}", style=row_style)
        person = "" if face.track_id is None else f"#{face.track_id}  "
        title = f"{person}{seen.emotion}{' ?' if face.uncertain else ''}"
        return Group(Text(title, style="bold"), table)
