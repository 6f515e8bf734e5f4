"""Several processes that share one port: started, started again when they die, ended together."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mien.core.errors import EXIT_INPUT, EXIT_MODEL, EXIT_USAGE, UsageError
from mien.service.metrics import SHARED_FOLDER
from mien.service.server import STOP_SECONDS

MOST = 256
"""There may be so many processes at most."""

_LOOK_SECONDS = 0.1
_LONGEST_WAIT = 30.0
_LIVES = 10.0  # who lived for so long did not die of its start
_FOR_GOOD = (EXIT_USAGE, EXIT_INPUT, EXIT_MODEL)
_READY = b"ready\n"


def check_count(count: int) -> None:
    """Raise UsageError where this system has no processes that share a port."""
    if count > 1 and not hasattr(os, "fork"):
        raise UsageError(
            "--processes needs Linux or macOS: on Windows run several services on different "
            "ports behind a proxy"
        )


# ---------------------------------------------------------------- the parent
@dataclass
class _Child:
    """One of the processes, and when it may be started again."""

    number: int
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)
    is_ready: bool = False
    failures: int = 0
    again_at: float | None = None

    def look(self) -> None:
        """Note whether it has said that it is ready."""
        assert self.process.stdout is not None
        if not self.is_ready:
            with suppress(BlockingIOError):
                self.is_ready = os.read(self.process.stdout.fileno(), len(_READY)) == _READY


def supervise(
    module: str, settings: object, fd: int, count: int, say: Callable[[str], None]
) -> int:
    """Keep so many processes running until an exception, such as that of a signal, ends them.

    The first one has to be ready before the others are started. One that dies is started again, at
    once if it had lived for a while, else after a wait that doubles.

    Args:
        module: is run by each (``python -m``), with the port's descriptor as its one word; it calls
            `received` first.
        settings: what that returns there; it is pickled.
        fd: the descriptor of a port that listens.
        count: how many.
        say: takes a line about what happens.

    Returns:
        The exit code of a process that could not start, since no other could either.
    """
    with tempfile.TemporaryDirectory(prefix="mien-metrics-") as folder:
        start = _Starter(module, pickle.dumps(settings), fd, folder)
        children = [start(0)]
        try:
            while True:
                for child in children:
                    child.look()
                    code = child.process.poll()
                    if code in _FOR_GOOD and not child.is_ready:
                        return code
                    if code is not None:
                        _revive(child, code, start, say)
                if children[0].is_ready and len(children) < count:
                    children += [start(number) for number in range(1, count)]
                time.sleep(_LOOK_SECONDS)
        finally:
            _end_all([child.process for child in children])


def _revive(child: _Child, code: int, start: _Starter, say: Callable[[str], None]) -> None:
    """Start a process that has died again, if it is time for that."""
    now = time.monotonic()
    if child.again_at is None:
        start.bury(child.process)
        child.failures = 0 if now - child.started > _LIVES else child.failures + 1
        wait = min(_LONGEST_WAIT, 2.0 ** (child.failures - 1)) if child.failures else 0.0
        child.again_at = now + wait
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        say(f"process {child.process.pid} died ({how}): another one starts in {wait:g} s")
    if now >= child.again_at:
        fresh = start(child.number)
        child.process, child.started = fresh.process, fresh.started
        child.is_ready, child.again_at = False, None


def _end_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Have processes finish what they took; end those for good that do not in time."""
    try:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS + 1
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
    finally:  # also where somebody asks again
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(OSError):
                    pipe.close()


class _Starter:
    """Starts processes, which get their settings by a pipe that ends when this process does."""

    def __init__(self, module: str, settings: bytes, fd: int, folder: str) -> None:
        self._command = [sys.executable, "-m", module, str(fd)]
        self._settings = settings
        self._fd = fd
        self._folder = folder

    def __call__(self, number: int) -> _Child:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
            bufsize=0,
            pass_fds=(self._fd,),
            env={**os.environ, SHARED_FOLDER: self._folder},
            start_new_session=True,  # Ctrl-C in a terminal is for the parent to hand on
        )
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        with suppress(BrokenPipeError):  # it died at once, which is noticed later
            process.stdin.write(len(self._settings).to_bytes(8, "big") + self._settings)
        return _Child(number, process)

    def bury(self, process: subprocess.Popen[bytes]) -> None:
        """Take what a dead process alone had out of the metrics."""
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(process.pid, self._folder)  # type: ignore[no-untyped-call]
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()


# ---------------------------------------------------------------- each of them
def received() -> Any:
    """Return the settings of this process; it ends as by SIGTERM once its parent has ended."""
    stdin = os.fdopen(os.dup(0), "rb")
    settings = pickle.loads(stdin.read(int.from_bytes(stdin.read(8), "big")))

    def watch() -> None:
        stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="mien-parent", daemon=True).start()
    return settings


def say_ready() -> None:
    """Tell the parent that this process answers."""
    with suppress(OSError):
        os.write(1, _READY)
