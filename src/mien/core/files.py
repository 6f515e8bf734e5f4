"""Whole files: their hash, and writing them so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mien.core.errors import OutputError, UsageError

PICTURE_SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".webp")
"""How the name of a picture that is written may end."""

SOFTWARE = "mien (facial emotion recognition)"
"""Written into pictures and videos, by which mien knows them for its own and may replace them."""

_CHUNK_BYTES = 1 << 20
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def expanded(path: Path | str) -> Path:
    """Return a path in which ``~`` is written out.

    Raises:
        UsageError: if there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no such home folder: write its path out") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in lower-case hexadecimal; raises OSError as `open` does."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, then rename it, making its folder if needed.

    Raises:
        OutputError: if it cannot be written; what stood there before is untouched.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file beside ``path``, with its ending, and rename it to that at the end.

    For writers that take a path; its folder is made if needed. What a killed process left of the
    same file is removed.

    Raises:
        OutputError: if there is an OSError inside; what stood there before is untouched.
    """
    temporary: Path | None = None
    lock = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _temporary_beside(path)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if sys.platform == "win32":  # which moves no file that is open
            os.close(lock)
            lock = -1
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"cannot write {path}: {reason}") from error
    finally:
        if lock >= 0:
            os.close(lock)
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _temporary_beside(path: Path) -> tuple[Path, int]:
    """Make a temporary file and lock it for as long as the descriptor that comes with it is open.

    It has one name, by which the next process finds it again, unless another is writing there.
    """
    name = f".{path.name}.part{path.suffix}"
    while True:
        temporary = path.parent / name
        with suppress(OSError):
            _remove_leftover(temporary)
        name = f".{path.name}.{secrets.token_hex(4)}.part{path.suffix}"
        try:
            # Made as any new file is, so that who may read it follows from the user's own settings.
            opened = os.open(temporary, _NEW, 0o666)
        except FileExistsError:
            continue
        if _is_mine(opened, temporary):
            return temporary, opened
        os.close(opened)


def _remove_leftover(path: Path) -> None:
    """Remove a temporary file of this user's that nobody has locked; OSError if there is none."""
    if sys.platform == "win32":  # which removes no file that is open
        path.unlink()
        return
    opened = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(opened)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            _lock(opened)
            if _is_at(opened, path):
                path.unlink()
    finally:
        os.close(opened)


def _is_mine(opened: int, path: Path) -> bool:
    """Lock a file that was just made; False if another process took it for a leftover meanwhile."""
    try:
        _lock(opened)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, where no leftover is removed either
        return True
    return _is_at(opened, path)


def _lock(opened: int) -> None:
    """Lock an open file; raises OSError, a BlockingIOError if another process has."""
    if sys.platform != "win32":  # where an open file is neither moved nor removed
        import fcntl

        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(opened: int, path: Path) -> bool:
    """Say whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(opened), path.lstat())
    except OSError:
        return False
