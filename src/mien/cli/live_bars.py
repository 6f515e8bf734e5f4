"""Live bars in the terminal: each face's scores, redrawn in place."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from mien.cli.output import bar, display_width, shorten
from mien.core.errors import printable

if TYPE_CHECKING:
    from mien.core.results import Face, Result

_REDRAW_SECONDS = 1 / 15
_BAR_COLUMNS = 12
_GAP = "   "
_RESET, _BOLD, _DIM = "\x1b[0m", "\x1b[1m", "\x1b[2m"


class LiveBars:
    """Draws the newest result over the one before; use as a context manager.

    Args:
        title: what is being watched.
        labels: the model's emotions.
        stream: where to draw; stderr unless given.
        clock: gives the time in seconds.
    """

    def __init__(
        self,
        title: str,
        labels: Sequence[str],
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """See the class."""
        # Loads Pillow, which `mien --help` does without.
        from mien.inference.annotate import class_colors

        self._title = title
        self._labels = labels
        self._colors = {name: _style(color) for name, color in class_colors(labels).items()}
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._lines = 0
        self._drawn = -1.0
        self._times: list[float] = []
        self._plain = not _takes(self._stream, "█░")
        self._colored = "NO_COLOR" not in os.environ

    def __enter__(self) -> LiveBars:
        """Nothing is drawn before the first result."""
        self._notes = _Notes(self)
        logging.getLogger("mien").addHandler(self._notes)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state standing."""
        logging.getLogger("mien").removeHandler(self._notes)
        self._stream.flush()

    def start_below(self) -> None:
        """Draw the next result below what is there: somebody else has written something."""
        self._lines = 0

    def show(self, result: Result) -> None:
        """Draw a result, if the last one was not drawn just now."""
        now = self._clock()
        self._times = [each for each in self._times if now - each < 2.0] + [now]
        if self._drawn >= 0 and now - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn = now
        size = _terminal_size(self._stream)
        lines = self.lines(result, size[0])[: max(1, size[1] - 1)]
        up = f"\x1b[{self._lines}A" if self._lines else ""
        # Each line is cleared behind its text, and what is left of a longer picture below it.
        self._stream.write(up + "".join(f"\r{line}\x1b[K\n" for line in lines) + "\x1b[J")
        self._stream.flush()
        self._lines = len(lines)

    def lines(self, result: Result, width: int) -> list[str]:
        """Return the lines for a terminal of ``width`` columns."""
        from mien.video.times import format_time

        span = self._times[-1] - self._times[0] if len(self._times) > 1 else 0.0
        rate = f"{(len(self._times) - 1) / span:.1f} frames/s" if span else ""
        parts = [printable(self._title), format_time(result.time_s or 0.0), rate, "Ctrl-C ends"]
        head = shorten("  ".join(part for part in parts if part), max(8, width - 1))
        columns = [self._column(face) for face in result.faces]
        taken = 2 + display_width(max(self._labels, key=display_width)) + _BAR_COLUMNS + 6
        fitting = max(1, (width + len(_GAP) - 3) // (taken + len(_GAP)))
        left_out = len(columns) - fitting
        if left_out > 0:
            head += f"  (+{left_out})"
        rows = len(self._labels) + 1
        if not columns:
            return [head, "", "  no face", *[""] * (rows - 2)]
        body = [
            "  " + _GAP.join(column[row] for column in columns[:fitting]) for row in range(rows)
        ]
        return [head, *body]

    def _column(self, face: Face) -> list[str]:
        """Return a face's lines, all equally wide."""
        from mien.video.writing import shown

        seen = shown(face)
        names = max(display_width(label) for label in self._labels)
        width = names + 2 + _BAR_COLUMNS + 6
        person = "" if face.track_id is None else f"#{face.track_id}  "
        title = f"{person}{seen.emotion}{' ?' if face.uncertain else ''}"
        lines = [self._styled(title.ljust(width), _BOLD)]
        for label in self._labels:
            score = seen.scores.get(label, 0.0)
            drawn = self._styled(bar(score, _BAR_COLUMNS, plain=self._plain), self._colors[label])
            text = f"{label.rjust(names)}  {drawn} {score:4.0%} "
            lines.append(text if label == seen.emotion else self._styled(text, _DIM))
        return lines

    def _styled(self, text: str, style: str) -> str:
        return f"{style}{text}{_RESET}" if self._colored else text


class _Notes(logging.Handler):
    """Keeps what the library says from being drawn over."""

    def __init__(self, bars: LiveBars) -> None:
        super().__init__(logging.WARNING)
        self._bars = bars

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - its text is of no interest
        """See `logging.Handler`."""
        self._bars.start_below()


def _style(color: tuple[int, ...]) -> str:
    red, green, blue = color[:3]
    return f"\x1b[38;2;{red};{green};{blue}m"


def _takes(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _terminal_size(stream: TextIO) -> tuple[int, int]:
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):  # no terminal: a test's or a log's stream
        return (80, 24)
    return (size.columns or 80, size.lines or 24)
