"""Processes that the kit starts: their logs shown, their time limited, stopped politely."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mien.core.process import stderr

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 45.0
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


@dataclass(frozen=True)
class Command:
    """A module of Python's to run: the words after ``python -m``.

    Attributes:
        words: the module and its arguments.
        environment: what is special in its own.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


class OutOfTime(Exception):
    """The piece's time was over before its work; what could be saved is saved."""


def run_children(
    commands: Mapping[str, Command],
    *,
    logs: Path,
    environment: Mapping[str, str],
    is_late: Callable[[], bool],
    watch: Callable[[], None],
    parallel: int = 1,
) -> dict[str, int]:
    """Run ``python -m`` commands, some at a time, and return the exit code of each.

    Args:
        commands: by name.
        logs: folder of their output, NAME.log, which is also copied to stderr.
        environment: of the processes.
        is_late: tells that the time is over.
        watch: called again and again meanwhile.
        parallel: how many at once.

    Raises:
        OutOfTime: if the time was over; all were asked to stop by SIGTERM, and have.
    """
    waiting = list(commands)
    running: dict[str, _Child] = {}
    codes: dict[str, int] = {}
    try:
        while waiting or running:
            if is_late():
                raise OutOfTime
            while waiting and len(running) < parallel:
                name = waiting.pop(0)
                running[name] = _Child(commands[name], logs / f"{name}.log", environment)
            time.sleep(_POLL_SECONDS)
            watch()
            for name, child in list(running.items()):
                child.show()
                code = child.process.poll()
                if code is not None:
                    child.close()
                    codes[name] = code
                    del running[name]
    finally:
        _stop(list(running.values()))
    return codes


class _Child:
    def __init__(self, command: Command, log: Path, environment: Mapping[str, str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("a+b")
        self._log.seek(0, os.SEEK_END)
        self._shown = self._log.tell()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command.words],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**environment, **command.environment},
            preexec_fn=_die_with_parent,
            pass_fds=_lock_of(environment),
        )

    def show(self) -> None:
        """Copy what is new in the log to stderr."""
        data = os.pread(self._log.fileno(), 1 << 20, self._shown)
        if data:
            self._shown += len(data)
            stderr().write(data.decode(errors="replace"))
            stderr().flush()

    def close(self) -> None:
        self.show()
        self._log.close()


LOCK_VARIABLE = "MIEN_KIT_LOCK"
"""Names the descriptor of the kit's lock, which its processes share: it is free once all ended."""


def _lock_of(environment: Mapping[str, str]) -> tuple[int, ...]:
    lock = environment.get(LOCK_VARIABLE)
    return () if lock is None else (int(lock),)


def _die_with_parent() -> None:
    """Have the system ask this process to stop when the kit is killed, where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _stop(children: Sequence[_Child]) -> None:
    for child in children:
        child.process.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
        child.close()
