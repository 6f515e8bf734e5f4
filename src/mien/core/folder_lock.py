"""A folder of mien's own beside the files of others, that one process alone may write in."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

from mien.core.errors import OutputError, UsageError

LOCK_NAME = "mien.lock"
"""The file that marks a folder as mien's, and that is locked; it is the first to come in."""

_MARK = b"a folder of mien's, which removes its own files from it\n"
_LOCKED_BYTE = 1 << 20  # past the mark, which others may read where a lock keeps them from reading


def claimed(folder: Path) -> IO[bytes]:
    """Make a folder or take up one that was made here, and lock it.

    Returns:
        Its lock file, locked until it is closed or the process ends, however.

    Raises:
        UsageError: if what is there is not mien's (a link never is), or another process has it.
        OutputError: if it cannot be made.
    """
    try:
        if folder.is_symlink():
            raise _foreign(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / LOCK_NAME).exists() and any(folder.iterdir()):
            raise _foreign(folder)
        file = _opened(folder)
    except FileExistsError as error:
        raise _foreign(folder) from error
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
    try:
        _check_mark(file, folder)
        _lock(file)
        # Whoever had it a moment ago may have removed it, and another may have made it anew.
        if not os.path.samestat(os.fstat(file.fileno()), (folder / LOCK_NAME).stat()):
            raise OSError
    except OSError as error:
        file.close()
        raise UsageError(
            f"another process is writing {folder}: let it end, or give another --output"
        ) from error
    except UsageError:
        file.close()
        raise
    return file


def give_up(folder: Path, lock: IO[bytes]) -> None:
    """Let a claimed folder go, and remove it where nothing but its lock is left in it."""
    with lock, suppress(OSError):
        if [path.name for path in folder.iterdir()] == [LOCK_NAME]:
            if sys.platform == "win32":  # which removes no file that is open
                lock.close()
            (folder / LOCK_NAME).unlink()
            folder.rmdir()


def _opened(folder: Path) -> IO[bytes]:
    # Neither what a link leads to nor a pipe, which would block, is opened.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    path = folder / LOCK_NAME
    if path.is_symlink():
        raise _foreign(folder)
    return os.fdopen(os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666), "r+b")


def _check_mark(file: IO[bytes], folder: Path) -> None:
    """Make sure that the lock file is mien's; one that a kill left empty is marked."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise _foreign(folder)
    found = file.read(len(_MARK) + 1)
    if not found:
        file.write(_MARK)
        file.flush()
    elif found != _MARK:
        raise _foreign(folder)


def _foreign(folder: Path) -> UsageError:
    return UsageError(
        f"{folder} is there and not a folder of mien's: move it away, or give another --output"
    )


def _lock(file: IO[bytes]) -> None:
    """Lock a file; raises OSError if another process has, unless locks are unknown there."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks, on which one has to work all the same
            pass
