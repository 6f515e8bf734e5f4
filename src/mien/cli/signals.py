"""Ends a command after Ctrl-C or SIGTERM in time, whatever the library that it waits for does."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from mien.core.errors import EXIT_INTERRUPTED

_CHECKED = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether a command is to stop."""

    def __init__(self) -> None:
        """Begin without a signal."""
        self.heard = threading.Event()

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came: some libraries lose the one it raised."""
        if self.heard.is_set():
            raise KeyboardInterrupt


@contextmanager
def interruptible(patience_s: float, *, for_good: bool = False) -> Iterator[Stop]:
    """Make SIGTERM a KeyboardInterrupt, as Ctrl-C is, and end the process if it is not heard of.

    Python raises it when a library gives the word back to it, which one that waits for a pipe or
    decodes something odd may never do. Only signals that nobody else listens to are taken, and none
    outside the main thread.

    Args:
        patience_s: how long a library may take, in seconds.
        for_good: a terminal that is closed (SIGHUP) counts, too; what is asked again is not heard,
            so that nothing interrupts the tidying up, and the process ends after ``patience_s`` in
            any case.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Stop()
        return
    stop = Stop()
    stopped = False

    def on_signal(_number: int, _frame: FrameType | None) -> NoReturn:
        nonlocal stopped
        stopped = True
        stop.heard.set()
        if for_good:
            for one in before:
                signal.signal(one, signal.SIG_IGN)
            # Not left to the thread below: it may come too late to hear of the signal.
            threading.Thread(target=_end_after, args=(patience_s,), daemon=True).start()
        raise KeyboardInterrupt

    free = (signal.default_int_handler, signal.SIG_DFL)
    checked = (*_CHECKED, signal.SIGHUP) if for_good and sys.platform != "win32" else _CHECKED
    before = {one: signal.getsignal(one) for one in checked if signal.getsignal(one) in free}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        was_woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(
            target=_watch, args=(ours, set(before), stop.heard, patience_s), daemon=True
        ).start()
        for one in before:
            signal.signal(one, on_signal)
        try:
            yield stop
        finally:
            for one, handler in before.items() if not (stopped and for_good) else ():
                signal.signal(one, handler)
            signal.set_wakeup_fd(was_woken)
            stop.heard.set()


def _watch(
    wakings: socket.socket,
    signals: set[signal.Signals],
    heard: threading.Event,
    patience_s: float,
) -> None:
    """Wait for a signal, and end the process if the main thread does not hear of it in time."""
    with suppress(OSError):  # closed: the command has ended
        while number := wakings.recv(1):
            if number[0] not in signals:
                continue
            if not heard.wait(patience_s):
                os.write(2, b"mien: interrupted\n")
                os._exit(EXIT_INTERRUPTED)


def _end_after(seconds: float) -> None:
    """End the process, which has said why already."""
    time.sleep(seconds)
    os._exit(EXIT_INTERRUPTED)


# ---------------------------------------------------------------- of the service


class Terminated(BaseException):
    """SIGTERM: somebody has asked the service to end, which is no failure."""


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Make SIGTERM raise `Terminated`; outside the main thread nothing can.

    While the server runs it handles signals itself, ends what is in flight, and raises them anew.
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
