"""The kit's folder: one kit at a time works in it, and its processes find all they need there."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from lab.gpu.children import LOCK_VARIABLE
from mien.core.errors import InputError

_LOCK_SECONDS = 60.0


def take_lock(lock: int, work: Path) -> None:
    """Lock the kit's folder; a process of a killed piece may still hold it while it saves.

    Args:
        lock: descriptor of the open lock file; the lock lasts until it and all that it was passed
            on to are closed.
        work: the folder, for the message.

    Raises:
        InputError: if it is still held after a minute.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise InputError(f"the kit runs in {work} already: wait for it") from error
            time.sleep(0.5)


def environment_in(work: Path, lock: int) -> dict[str, str]:
    """Return what the processes of the kit in a folder find in their environment.

    Args:
        work: the kit's folder; packages, downloads and compiled programs are kept there.
        lock: descriptor of its lock, which the processes share.
    """
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), str(root / "src"), str(work / "site"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        LOCK_VARIABLE: str(lock),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "MIEN_HOME": str(work / "home"),
        # What one process compiled, the next finds.
        "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
