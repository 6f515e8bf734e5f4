"""Process-wide matters: standard streams, locks that survive a fork, cores, packages, telemetry."""

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
from typing import TextIO


# ---------------------------------------------------------------- standard streams
# A stream that was closed when the process started is None in Python: ``>&-`` in a script,
# ``pythonw``, a windowed PyInstaller program. Output to it is discarded.
def stderr() -> TextIO:
    """Return stderr, or a stream that leads nowhere if stderr is closed."""
    return io.StringIO() if sys.stderr is None or sys.stderr.closed else sys.stderr


def open_closed_streams() -> None:
    """Open the null device for each closed standard stream; call it first in a program.

    Descriptors are opened too. Otherwise the next file opened would get the number of a standard
    stream, and the output of native code would go into it. Child processes inherit them.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null == number:  # the lowest free number
                os.set_inheritable(number, True)
            else:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


@contextmanager
def discard_native_stderr() -> Iterator[None]:
    """Discard what native code writes to stderr, and keep what Python writes; for a program.

    libtiff, OpenCV and others report damaged files on descriptor 2. Redirecting it around each
    decoding would lose the output of other threads. So it is replaced once, before threads start:
    ``sys.stderr`` gets a new descriptor, and descriptor 2 becomes the null device, for child
    processes too. `faulthandler` still reports crashes.

    Does nothing if ``sys.stderr`` is not descriptor 2, as in a notebook or a test.
    """
    original = sys.stderr
    is_plain = original is sys.__stderr__ and isinstance(original, io.TextIOWrapper)
    if not is_plain or original.closed:
        yield
        return
    original.flush()
    saved = os.dup(2)
    stream = os.fdopen(saved, "w", buffering=1, encoding=original.encoding, errors=original.errors)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    enables_faulthandler = not faulthandler.is_enabled()
    if enables_faulthandler:
        faulthandler.enable(stream)
    sys.stderr = stream
    try:
        yield
    finally:
        sys.stderr = original
        if enables_faulthandler:
            faulthandler.disable()
        try:
            stream.flush()
        finally:
            os.dup2(saved, 2)
            stream.close()


# ---------------------------------------------------------------- locks and forks
class ForkLock:
    """A lock, used with ``with``, that is always free in a forked child.

    Only the forking thread exists in the child, so a lock held by another thread would stay locked
    for ever. For locks that live as long as their module: instances are never collected.
    """

    def __init__(self) -> None:
        self._renew()
        if sys.platform != "win32":  # Windows has no fork
            os.register_at_fork(after_in_child=self._renew)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _renew(self) -> None:
        self._lock = threading.Lock()


class _QuietPillow:
    """Context manager that silences Pillow's warnings and logs while any thread is inside.

    `warnings.catch_warnings` swaps a list shared by all threads, so overlapping threads could
    restore the wrong one. Here the first thread swaps it, and the last one restores it.
    """

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._inside = 0
        self._catcher: warnings.catch_warnings[None] | None = None
        self._null_handler = logging.NullHandler()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                # Without a handler, Python prints the logger's errors.
                logging.getLogger("PIL").addHandler(self._null_handler)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._catcher is not None:
                self._catcher.__exit__(None, None, None)
                self._catcher = None
                logging.getLogger("PIL").removeHandler(self._null_handler)


QUIET_PILLOW = _QuietPillow()
"""Silences Pillow's warnings and logs, in a ``with`` block of any thread."""


# ---------------------------------------------------------------- cores and packages
def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def package_version(name: str) -> str | None:
    """Return the version of an installed package, or None if it is not installed."""
    from importlib import metadata  # slow to import

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# ---------------------------------------------------------------- telemetry
# Some packages report usage to their makers unless an environment variable is set when they are
# imported. mien sets these variables before the import, unless the user has.
TELEMETRY_SWITCHES: Mapping[str, str] = {
    # ONNX Runtime from 1.29: a device number and an event queue in the home folder, and uploads to
    # Microsoft.
    "ORT_DISABLE_TELEMETRY": "1",
    # Ray: hourly reports to usage-stats.ray.io.
    "RAY_USAGE_STATS_ENABLED": "0",
    # TensorFlow: starts on import.
    "ENABLE_RUNTIME_UPTIME_TELEMETRY": "0",
}
"""Environment variables and the values that turn telemetry off."""


def disable_telemetry() -> None:
    """Turn telemetry off in this process and its children, unless a variable is set already."""
    for name, value in TELEMETRY_SWITCHES.items():
        os.environ[name] = os.environ.get(name) or value


def enabled_telemetry() -> list[str]:
    """Return the environment variables that turn telemetry on, as ``NAME=VALUE``."""
    return [
        f"{name}={os.environ[name]}"
        for name, value in TELEMETRY_SWITCHES.items()
        if os.environ.get(name) not in (None, "", value)
    ]
