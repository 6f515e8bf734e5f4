"""Whole files: their hash, and writing them so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mien.core.errors import OutputError, UsageError

_CHUNK_BYTES = 1 << 20


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

    For writers that take a path; its folder is made if needed.

    Raises:
        OutputError: if there is an OSError inside; what stood there before is untouched.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.part{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Made as any new file is, so that who may read it follows from the user's own settings.
        temporary.open("xb").close()
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"cannot write {path}: {reason}") from error
    finally:
        with suppress(OSError):  # the folder may be a file, or may not be there
            temporary.unlink()
