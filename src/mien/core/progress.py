"""A progress line on stderr: shown on a terminal only, silent elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from typing import TextIO, TypeVar

from mien.core.process import stderr

Item = TypeVar("Item")

_BAR_WIDTH = 24
_REDRAW_SECONDS = 0.1


def format_duration(seconds: float) -> str:
    """Write a duration as people read it: ``8s``, ``3m05s``, ``1h02m``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Progress:
    """A bar with a count, a rate and the time left; use as a context manager.

    Args:
        label: what is being done, in a word or two.
        total: how many steps there are, or None if that is not known.
        unit: what one step is ("img", "step", "file").
        quiet: never draw.
        stream: where to draw; stderr unless given. Nothing is drawn unless it is a terminal.
    """

    def __init__(
        self,
        label: str,
        total: int | None = None,
        *,
        unit: str = "",
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        """See the class."""
        self.label = label
        self.total = total
        self.unit = unit
        self.count = 0
        self._stream = stderr() if stream is None else stream
        self._shown = not quiet and self._stream.isatty()
        self._started = time.monotonic()
        self._drawn = 0.0
        self._note = ""

    def __enter__(self) -> Progress:
        """Start the clock."""
        self._started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        """Draw the last state and end the line."""
        if self._shown:
            self._draw()
            self._stream.write("\n")
            self._stream.flush()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count ``steps`` more as done; ``note`` is shown at the end of the line."""
        self.count += steps
        self._note = note or self._note
        now = time.monotonic()
        if self._shown and now - self._drawn >= _REDRAW_SECONDS:
            self._drawn = now
            self._draw()

    def line(self) -> str:
        """Return the line as it would be drawn now."""
        elapsed = time.monotonic() - self._started
        rate = self.count / elapsed if elapsed > 0 else 0.0
        parts = [self.label]
        if self.total:
            share = min(1.0, self.count / self.total)
            filled = round(share * _BAR_WIDTH)
            parts.append("█" * filled + "░" * (_BAR_WIDTH - filled))
            parts.append(f"{share:4.0%} {self.count:,}/{self.total:,}")
        else:
            parts.append(f"{self.count:,}")
        if rate > 0:
            parts.append(f"{rate:,.{1 if rate < 100 else 0}f} {self.unit}/s".replace(" /s", "/s"))
        if self.total and 0 < self.count < self.total and rate > 0:
            parts.append(f"{format_duration((self.total - self.count) / rate)} left")
        else:
            parts.append(format_duration(elapsed))
        if self._note:
            parts.append(self._note)
        return "  ".join(parts)

    def _draw(self) -> None:
        self._stream.write("\r\x1b[2K" + self.line())
        self._stream.flush()


def track(
    items: Iterable[Item],
    label: str,
    *,
    total: int | None = None,
    unit: str = "",
    quiet: bool = False,
) -> Iterator[Item]:
    """Yield the items, drawing progress; ``total`` is ``len(items)`` where that is known."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(label, total, unit=unit, quiet=quiet) as progress:
        for item in items:
            yield item
            progress.advance()
