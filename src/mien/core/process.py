"""The process: closed standard streams, locks that survive a fork, packages, telemetry off."""

from __future__ import annotations

import faulthandler
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO, cast


# ---------------------------------------------------------------- standard streams
# A stream that was closed when the process started is None in Python: ``>&-`` in a script,
# ``pythonw``, a windowed program of PyInstaller's. Output to it is discarded.
class _NullStream(io.TextIOBase):
    """A stream that discards its output."""

    def write(self, text: str) -> int:
        """Discard a text."""
        return len(text)


def stderr() -> TextIO:
    """Return the stream for messages, which discards them if stderr is closed."""
    if sys.stderr is None or sys.stderr.closed:
        return cast(TextIO, _NullStream())
    return sys.stderr


def open_closed_streams() -> None:
    """Open the null device for each standard stream that is closed; for a program at its start.

    The descriptors as well: else the next file opened gets the number of one, and what native code
    prints ends up in it. Child processes inherit them.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere == number:  # the lowest number that is free
                os.set_inheritable(number, True)
            else:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


@contextmanager
def discard_native_stderr() -> Iterator[None]:
    """Keep stderr for what Python writes, and drop what C libraries write there; for a program.

    libtiff, OpenCV and others print what is damaged in a file on descriptor 2. To redirect that
    around each decoding would lose what other threads write meanwhile, so it is exchanged once,
    before there are threads: ``sys.stderr`` gets a descriptor of its own, and 2 becomes the null
    device, for child processes, too. Crashes are still reported, by `faulthandler`.

    Nothing is done where ``sys.stderr`` is not descriptor 2, as in a notebook or a test.
    """
    before = sys.stderr
    if before is not sys.__stderr__ or not isinstance(before, io.TextIOWrapper) or before.closed:
        yield
        return
    before.flush()
    kept = os.dup(2)
    own = os.fdopen(kept, "w", buffering=1, encoding=before.encoding, errors=before.errors)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    says_crashes = not faulthandler.is_enabled()
    if says_crashes:
        faulthandler.enable(own)
    sys.stderr = own
    try:
        yield
    finally:
        sys.stderr = before
        if says_crashes:
            faulthandler.disable()
        try:
            own.flush()
        finally:
            os.dup2(kept, 2)
            own.close()


# ---------------------------------------------------------------- locks over a fork
class ForkLock:
    """A lock, used with ``with``, that is free in a forked child, whoever held it.

    A forked child has only the thread that forked, so a lock held by another thread would stay
    locked for ever. For locks that live as long as their module: never collected.
    """

    def __init__(self) -> None:
        self._renew()
        if sys.platform != "win32":  # which has no fork
            os.register_at_fork(after_in_child=self._renew)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _renew(self) -> None:
        self._lock = threading.Lock()


class _QuietPillow:
    """Silence Pillow's warnings and logs (large images, odd metadata) while any thread decodes.

    `warnings.catch_warnings` swaps a list that all threads share, so two threads that overlap can
    leave the wrong list behind. Here the first to come swaps it and the last to go restores it.
    """

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._inside = 0
        self._catcher: warnings.catch_warnings[None] | None = None
        self._nowhere = logging.NullHandler()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                # Without a handler, Python prints the logger's errors.
                logging.getLogger("PIL").addHandler(self._nowhere)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._catcher is not None:
                self._catcher.__exit__(None, None, None)
                self._catcher = None
                logging.getLogger("PIL").removeHandler(self._nowhere)


QUIET_PILLOW = _QuietPillow()
"""A context manager, for all threads."""


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def package_version(name: str) -> str | None:
    """Return the version of an installed package, None if it is not installed."""
    from importlib import metadata  # slow to import

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# ---------------------------------------------------------------- telemetry
# Some packages report usage to their maker unless an environment variable says otherwise when they
# are loaded. mien sets it before it loads one of them, and respects what the user has set.
TELEMETRY_SWITCHES: Mapping[str, str] = {
    # ONNX Runtime, from 1.29 on: a device's number and a queue of events below the user's home, and
    # an upload to Microsoft.
    "ORT_DISABLE_TELEMETRY": "1",
    # Ray: reports to usage-stats.ray.io, once an hour.
    "RAY_USAGE_STATS_ENABLED": "0",
    # TensorFlow turns this on as it is imported.
    "ENABLE_RUNTIME_UPTIME_TELEMETRY": "0",
}
"""Environment variables and the values that turn reports off."""


def disable_telemetry() -> None:
    """Turn reports off in this process and those that it starts, unless a variable is set."""
    for name, value in TELEMETRY_SWITCHES.items():
        os.environ[name] = os.environ.get(name) or value


def enabled_telemetry() -> list[str]:
    """Return the variables that turn reports on, as ``NAME=VALUE``."""
    return [
        f"{name}={os.environ[name]}"
        for name, value in TELEMETRY_SWITCHES.items()
        if os.environ.get(name) not in (None, "", value)
    ]
