"""Being stopped: by Ctrl-C, by `kill`, by a terminal that is closed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mien.core.errors import EXIT_INTERRUPTED

TIDY_SECONDS = 8.0
"""After a stop the process ends by itself, or else it is ended."""

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise KeyboardInterrupt inside, once, for all that asks a process to end.

    From then on the process has `TIDY_SECONDS` to end, and hears no more of it, so that its tidying
    up is not interrupted. Signals that are ignored or handled otherwise (`nohup`) stay so, and
    outside of the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    default = (signal.SIG_DFL, signal.default_int_handler)
    known = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {one: signal.getsignal(one) for one in known if signal.getsignal(one) in default}
    stopped = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        threading.Thread(target=_end_late, daemon=True).start()
        raise KeyboardInterrupt

    for each in before:
        signal.signal(each, stop)
    try:
        yield
    finally:
        if not stopped:
            for each, handler in before.items():
                signal.signal(each, handler)


def _end_late() -> None:
    time.sleep(TIDY_SECONDS)
    os._exit(EXIT_INTERRUPTED)
