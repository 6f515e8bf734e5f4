"""A folder that one process alone may write in, however it ends."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO

from mien.core.errors import OutputError, UsageError

LOCK_NAME = "lock"
"""The file in the folder that is locked; it stays there."""


def locked(folder: Path) -> IO[bytes]:
    """Return the folder's lock file, locked until it is closed or the process ends, however.

    Raises:
        UsageError: if another process holds it.
        OutputError: if it cannot be made.
    """
    try:
        file = (folder / LOCK_NAME).open("ab")
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
    try:
        _lock(file)
    except OSError as error:
        file.close()
        raise UsageError(
            f"another process is writing {folder}: let it end, or give another --output"
        ) from error
    return file


def _lock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
