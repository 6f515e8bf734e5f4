"""Locks that survive a fork.

A forked child has the one thread that forked, and all locks as they were: one that another thread
held stays locked there for ever.
"""

from __future__ import annotations

import os
import sys
import threading
from types import TracebackType


class ForkLock:
    """A lock, used with ``with``, that is free in a forked child, whoever held it.

    It is for what lives as long as its module: it's never collected.
    """

    def __init__(self) -> None:
        """Make it, and have it made anew in each child."""
        self._renew()
        if sys.platform != "win32":  # which has no fork
            os.register_at_fork(after_in_child=self._renew)

    def __enter__(self) -> None:
        """Wait until it is free, and take it."""
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Set it free."""
        self._lock.release()

    def _renew(self) -> None:
        self._lock = threading.Lock()
