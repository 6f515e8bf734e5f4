"""Files: atomic writes, locked output folders, and the cache folder with its downloads."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mien.core.errors import ModelError, OutputError, UsageError, error_reason

SOFTWARE = "mien (facial emotion recognition)"
"""Metadata of written pictures and videos; mien may overwrite files that have it."""

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30
_BINARY = getattr(os, "O_BINARY", 0)


def expand_home(path: Path | str) -> Path:
    """Return a path with ``~`` expanded; raises UsageError if there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no such home folder: give the full path") from error


MAX_TEXT_BYTES = 64 << 20
"""Limit on the texts that users give: recipes, tables of events, tokens, votes."""


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """Return the content of a text file, line ends included.

    Raises:
        OSError: as `open` does, also for more than `MAX_TEXT_BYTES`, as of an endless device.
        UnicodeDecodeError: if it is not text.
    """
    with path.open("rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise OSError(errno.EFBIG, f"expected {MAX_TEXT_BYTES >> 20} MiB of text at most")
    return content.decode(encoding)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in lower-case hexadecimal; raises OSError as `open` does."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


# ---------------------------------------------------------------- atomic writes
def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it; creates its folder if needed.

    Raises:
        OutputError: if it cannot be written; an existing file is unchanged.
    """
    with replace_atomically(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary file with the same suffix in the same folder, then rename it to ``path``.

    For writers that take a path. Creates the folder if needed, and removes temporary files left by
    killed processes.

    Raises:
        OutputError: on an OSError inside; an existing file is unchanged.
    """
    temporary: Path | None = None
    lock = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _locked_temporary(path)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if sys.platform == "win32":  # an open file cannot be renamed
            os.close(lock)
            lock = -1
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error_reason(error)}") from error
    finally:
        if lock >= 0:
            os.close(lock)
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _locked_temporary(path: Path) -> tuple[Path, int]:
    """Create a temporary file that is locked as long as the returned descriptor is open.

    Its name is fixed, so that the next process finds one left by a killed process. If another
    process is writing there, the name is random.
    """
    name = f".{path.name}.part{path.suffix}"
    while True:
        temporary = path.parent / name
        with suppress(OSError):
            _remove_leftover(temporary)
        name = f".{path.name}.{secrets.token_hex(4)}.part{path.suffix}"
        try:
            # 0o666: the umask sets the permissions, as for any new file.
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        except FileExistsError:
            continue
        # Another process may have removed it as a leftover before it was locked.
        with suppress(BlockingIOError):
            _lock(descriptor)
            if _is_same(descriptor, temporary):
                return temporary, descriptor
        os.close(descriptor)


def _remove_leftover(path: Path) -> None:
    """Remove an unlocked temporary file of this user; raises OSError if there is none."""
    if sys.platform == "win32":  # unlink fails for an open file
        path.unlink()
        return
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        is_own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        if is_own and _lock(descriptor) and _is_same(descriptor, path):
            path.unlink()
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file for this process; returns False on a file system without locks.

    Raises BlockingIOError if another process has locked it.
    """
    if sys.platform != "win32":  # Windows protects open files anyway
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            return False
    return True


def _is_same(descriptor: int, path: Path) -> bool:
    """Return True if the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


# ---------------------------------------------------------------- output folders
LOCK_NAME = "mien.lock"
"""The file that marks a folder as created by mien, and is locked; created before any other."""

_MARK = b"a folder of mien's, which removes its own files from it\n"


def claim_folder(folder: Path, *, option: str = "--output") -> IO[bytes]:
    """Create a folder, or take over one that mien created, and lock it for this process.

    Args:
        folder: its path.
        option: the option that sets it, for messages.

    Returns:
        The open lock file; closing it, or the end of the process, unlocks the folder.

    Raises:
        UsageError: if the path exists but was not created by mien (or is a link), or another
            process has locked it.
        OutputError: if it cannot be created.
    """
    lock_path = folder / LOCK_NAME
    foreign = UsageError(
        f"{folder} exists and was not created by mien: move it away, or give another {option}"
    )
    try:
        if folder.is_symlink() or lock_path.is_symlink():
            raise foreign
        folder.mkdir(parents=True, exist_ok=True)
        if not lock_path.exists() and any(folder.iterdir()):
            raise foreign
        lock_path.touch()
        file = lock_path.open("r+b", buffering=0)
    except FileExistsError as error:
        raise foreign from error
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error_reason(error)}") from error
    try:
        _mark(file)
    except OSError as error:  # a full disk
        release_folder(folder, file)
        raise OutputError(f"cannot write {folder}: {error_reason(error)}") from error
    try:
        file.seek(0)
        if file.read(len(_MARK) + 1) != _MARK:
            raise foreign
        _lock_folder(file)
        # Its previous owner may have removed it, and another process may have created it again.
        if not _is_same(file.fileno(), lock_path):
            raise BlockingIOError
    except UsageError:
        file.close()
        raise
    except OSError as error:
        file.close()
        raise UsageError(
            f"another process is writing {folder}: wait for it, or give another {option}"
        ) from error
    return file


def _mark(file: IO[bytes]) -> None:
    """Mark a lock file that is empty, since it is new or its process was killed."""
    if not file.read(1):
        file.write(_MARK)


def release_folder(folder: Path, lock: IO[bytes]) -> None:
    """Unlock a claimed folder, and remove it if it is empty but for its lock file."""
    with lock, suppress(OSError):
        if [path.name for path in folder.iterdir()] == [LOCK_NAME]:
            if sys.platform == "win32":  # an open file cannot be removed
                lock.close()
            (folder / LOCK_NAME).unlink()
            folder.rmdir()


def _lock_folder(file: IO[bytes]) -> None:
    """Lock a folder's lock file; raises OSError if another process has locked it."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(1 << 20)  # past the mark: Windows lets nobody else read locked bytes
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        _lock(file.fileno())


# ---------------------------------------------------------------- cache folder
HOME_VARIABLE = "MIEN_HOME"
CACHE_HINT = f"set {HOME_VARIABLE} to a writable folder"
"""How to fix a cache folder that cannot be used."""


def cache_folder() -> Path:
    """Return the folder for downloads: ``MIEN_HOME``, else ``mien`` in the platform's cache folder.

    It is not created here.

    Raises:
        OutputError: if there is no home folder, as in some containers.
    """
    try:
        if home := os.environ.get(HOME_VARIABLE):
            return Path(home).expanduser()
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            return (Path(local) if local else Path.home() / "AppData" / "Local") / "mien" / "Cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "mien"
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "mien"
    except RuntimeError as error:  # pathlib found no home folder
        raise OutputError(f"no home folder for downloads: {CACHE_HINT}") from error


def write_obstacle(folder: Path) -> str | None:
    """Return what prevents writing into a folder, which need not exist; None if nothing does."""
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    except OSError:  # a parent is another user's
        return f"{folder} cannot be accessed"
    if not existing.is_dir():
        return f"{existing} is not a folder"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"{existing} is read-only"


def redirect_library_caches() -> None:
    """Point Keras and Matplotlib to the cache folder, unless their variables are set.

    Both would create folders in the user's home when imported. An existing ``~/.keras`` stays in
    use, since it may hold ImageNet weights. Only for mien's own programs: Matplotlib then ignores
    the user's settings.
    """
    try:
        folder = cache_folder()
    except OutputError:  # both work without a cache
        return
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    if not os.path.isdir(os.path.expanduser("~/.keras")):  # noqa: PTH111, PTH112 - never raise
        os.environ.setdefault("KERAS_HOME", str(folder / "keras"))


# ---------------------------------------------------------------- pinned downloads
@dataclass(frozen=True)
class PinnedFile:
    """A file to download into the cache folder, and its hash."""

    name: str
    url: str
    sha256: str
    size_bytes: int

    @property
    def path(self) -> Path:
        """Path in the cache, existing or not; raises OutputError."""
        return cache_folder() / self.name

    def is_cached(self) -> bool:
        """Return True if it is in the cache and readable."""
        try:
            path = self.path
        except OutputError:
            return False
        # Path.is_file raises PermissionError below a folder that cannot be searched.
        return os.path.isfile(path) and os.access(path, os.R_OK)  # noqa: PTH113


def read_verified(file: PinnedFile, path: Path) -> bytes:
    """Return the content of a copy of a pinned file.

    Raises:
        ModelError: if it cannot be read, or its hash differs.
    """
    try:
        with path.open("rb") as stream:
            # One byte more than expected reveals a longer file, or an endless device.
            content = stream.read(file.size_bytes + 1)
    except OSError as error:
        reason = error_reason(error)
        raise ModelError(f"cannot read {path}: {reason}; expected {file.name}") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise ModelError(
            f"{path} does not match its hash: expected {file.name} of {file.size_bytes:,} bytes, "
            f"SHA-256 {file.sha256}; download it again"
        )
    return content


def fetch(file: PinnedFile, *, offline: bool = False) -> Path:
    """Return the path of a pinned file in the cache; downloads it if it is missing or damaged.

    Raises:
        ModelError: if it cannot be downloaded (or ``offline`` forbids it), or its hash differs.
        OutputError: if the cache cannot be written.
    """
    path = file.path
    with suppress(OSError):  # missing, or not readable
        if sha256_of(path) == file.sha256:
            return path
    obstacle = write_obstacle(path.parent)
    by_hand = f"download {file.url} to {path} by hand"
    if obstacle:
        by_hand = f"{obstacle}: {CACHE_HINT}, and download {file.url} into it"
    if offline:
        if file.is_cached():
            read_verified(file, path)
        raise ModelError(f"{file.name} is not in the cache and offline is set: {by_hand}")
    if obstacle:
        raise OutputError(f"{file.name} cannot be saved, {obstacle}: {CACHE_HINT}")
    content = _download(file, by_hand)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != file.sha256:
        raise ModelError(
            f"{file.url} returned another file: expected SHA-256 {file.sha256} "
            f"({file.size_bytes} bytes), got {sha256} ({len(content)} bytes); it was not saved"
        )
    write_atomically(path, content)
    return path


def _download(file: PinnedFile, by_hand: str) -> bytes:
    # urllib uses the proxies of the environment, which may be the only way out.
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    request = Request(file.url, headers={"User-Agent": "mien"})
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as reply:
            # One byte more than expected reveals a longer file.
            return bytes(reply.read(file.size_bytes + 1))
    except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
        reason = error_reason(error)
        raise ModelError(f"cannot download {file.name} ({reason}): {by_hand}") from error
