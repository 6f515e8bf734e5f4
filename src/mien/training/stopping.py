"""Stopping a run politely: a signal is heard between two steps, when all can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class TrainingStopped(KeyboardInterrupt):
    """Ctrl-C or a polite kill stopped the run between two steps; all is saved."""


@contextmanager
def stop_signals(folder: Path) -> Iterator[threading.Event]:
    """Turn SIGINT (Ctrl-C) and SIGTERM into an event that the trainer looks at after each step.

    The second signal stops at once; then the time since the last checkpoint is lost. Outside the
    main thread, where Python lets nobody listen to signals, the event is never set.

    Args:
        folder: the run's, for the message.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt(
                f"stopped at once; to go on from the last checkpoint: mien train --resume {folder}"
            )
        stop.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, on_signal) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
