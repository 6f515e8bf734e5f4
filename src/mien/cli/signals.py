"""SIGINT, SIGTERM and SIGHUP: a command ends in time, even while a library blocks."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from mien.core.errors import EXIT_INTERRUPTED


class StopRequest:
    """Records whether a signal has requested the command to stop."""

    def __init__(self) -> None:
        self.received = threading.Event()

    def check(self) -> None:
        """Raise KeyboardInterrupt after a signal; some libraries swallow the first one."""
        if self.received.is_set():
            raise KeyboardInterrupt


@contextmanager
def interruptible(grace_period_s: float, *, final: bool = False) -> Iterator[StopRequest]:
    """Make SIGTERM raise KeyboardInterrupt, and end the process if that does not happen in time.

    Python runs signal handlers only between its own instructions. A library that waits for a pipe
    or decodes damaged data may not return to it, so a thread watches the signals as well. Signals
    that already have a handler are left alone, and so are all outside the main thread.

    Args:
        grace_period_s: seconds between the signal and the end of the process.
        final: also handle SIGHUP (a closed terminal), ignore further signals, so that cleaning up
            is not interrupted, and end the process after the grace period in any case.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(_number: int, _frame: FrameType | None) -> NoReturn:
        stop.received.set()
        if final:
            for number in previous:
                signal.signal(number, signal.SIG_IGN)
            # The watching thread may run only once `received` has been set, and do nothing.
            timer = threading.Timer(grace_period_s, os._exit, (EXIT_INTERRUPTED,))
            timer.daemon = True
            timer.start()
        raise KeyboardInterrupt

    handled = [signal.SIGINT, signal.SIGTERM]
    if final and sys.platform != "win32":
        handled.append(signal.SIGHUP)
    defaults = (signal.default_int_handler, signal.SIG_DFL)
    previous = {
        number: handler for number in handled if (handler := signal.getsignal(number)) in defaults
    }
    receiving, sending = socket.socketpair()
    with receiving, sending:
        sending.setblocking(False)
        previous_fd = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
        watched = (receiving, set(previous), stop.received, grace_period_s)
        threading.Thread(target=_exit_if_blocked, args=watched, daemon=True).start()
        for number in previous:
            signal.signal(number, on_signal)
        try:
            yield stop
        finally:
            if not (final and stop.received.is_set()):
                for number, handler in previous.items():
                    signal.signal(number, handler)
            signal.set_wakeup_fd(previous_fd)
            stop.received.set()


def _exit_if_blocked(
    receiving: socket.socket,
    watched: set[signal.Signals],
    received: threading.Event,
    grace_period_s: float,
) -> None:
    """End the process if a signal's handler does not run within the grace period."""
    with suppress(OSError):  # the socket is closed when the command ends
        while number := receiving.recv(1):
            if number[0] in watched and not received.wait(grace_period_s):
                os.write(2, b"mien: interrupted\n")
                os._exit(EXIT_INTERRUPTED)


class Terminated(BaseException):
    """SIGTERM, which stops the service without a failure."""


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Make SIGTERM raise `Terminated`; does nothing outside the main thread.

    While the server runs, its own handlers replace this one. It raises the signals again once it
    has finished the requests in flight.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(*_: object) -> NoReturn:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
