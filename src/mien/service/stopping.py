"""How the process of the service ends: politely, and at last whatever its threads do."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from mien.core.errors import EXIT_DONE, EXIT_INTERRUPTED

STOP_SECONDS = 10.0
"""So long after a signal the process is gone."""


class Terminated(BaseException):
    """SIGTERM: someone has politely asked the service to end."""


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM raise `Terminated`, in the main thread; elsewhere nobody can listen to it.

    While the server runs it hears signals itself, ends what is in flight, and raises them anew.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(*_: object) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(number: int) -> int:
    """Return the exit code of an end by a signal."""
    return EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_DONE


def leave_now(code: int, line: str) -> NoReturn:
    """End the process at once, with a line on stderr if there is one.

    Python waits for nothing here, since a thread inside a decoder cannot be made to stop, and the
    libraries' own cleaning up while it runs may crash.
    """
    with contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more
        print(line, end="\n" if line else "", file=sys.stderr, flush=True)
    os._exit(code)
