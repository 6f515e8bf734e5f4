"""Progress bar on stderr, drawn by rich, on terminals only and only for longer work."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, TypeVar

from mien.core.process import stderr

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

Item = TypeVar("Item")

SHOWN_AFTER_S = 1.0
"""Shorter work has no bar, and does not import rich."""

_REDRAW_S = 0.1


def format_duration(seconds: float) -> str:
    """Format a duration: ``8s``, ``3m05s``, ``1h02m``."""
    total = max(0, round(seconds))
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    return f"{total // 3600}h{total % 3600 // 60:02d}m"


class Progress:
    """Progress bar with a count, a rate and the remaining time; use as a context manager.

    Args:
        label: what is being done, in a word or two.
        total: number of steps, or None if unknown; ``progress.total`` may be set later.
        unit: name of a step ("img", "step", "file").
        quiet: never draw.
    """

    def __init__(
        self, label: str, total: int | None = None, *, unit: str = "", quiet: bool = False
    ) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.count = 0
        self._stream = stderr()
        self._is_shown = not quiet and self._stream.isatty()
        self._started = time.monotonic()
        self._drawn = 0.0
        self._note = ""
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self.total = self.total or self.count
            self._draw()
            self._bar.stop()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count ``steps`` more as done; ``note`` is shown at the end of the line."""
        self.count += steps
        self._note = note or self._note
        now = time.monotonic()
        if not self._is_shown or now - self._drawn < _REDRAW_S:
            return
        if now - self._started >= SHOWN_AFTER_S:
            self._drawn = now
            self._draw()

    def _text(self) -> str:
        """Return the text next to the bar: count, rate, time and note."""
        elapsed = time.monotonic() - self._started
        rate = self.count / elapsed if elapsed > 0 else 0.0
        parts = [f"{self.count:,}"]
        if self.total:
            parts = [f"{min(1.0, self.count / self.total):4.0%} {self.count:,}/{self.total:,}"]
        if rate > 0:
            parts.append(f"{rate:,.{1 if rate < 100 else 0}f} {self.unit}/s".replace(" /s", "/s"))
        if self.total and 0 < self.count < self.total and rate > 0:
            parts.append(f"{format_duration((self.total - self.count) / rate)} left")
        else:
            parts.append(format_duration(elapsed))
        return "  ".join([*parts, self._note] if self._note else parts)

    def _draw(self) -> None:
        if self._bar is None:
            self._bar = self._open_bar()
        self._bar.update(
            self._bar.task_ids[0],
            total=self.total,
            completed=self.count,
            text=self._text(),
            refresh=True,
        )

    def _open_bar(self) -> Bar:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[text]}", markup=False, style="none"),
            console=Console(file=self._stream),
            # No refreshing thread, since workers are forked. Notes on stderr appear above the bar.
            auto_refresh=False,
            redirect_stdout=False,
        )
        bar.add_task(self.label, total=self.total, completed=self.count, text=self._text())
        bar.start()
        # The cursor stays visible, since a killed process could not restore it.
        bar.console.show_cursor(True)
        return bar


def track(
    items: Iterable[Item], label: str, *, unit: str = "", quiet: bool = False
) -> Iterator[Item]:
    """Yield the items and draw progress."""
    total = len(items) if isinstance(items, Sized) else None
    with Progress(label, total, unit=unit, quiet=quiet) as progress:
        for item in items:
            yield item
            progress.advance()
