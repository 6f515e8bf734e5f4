"""Files: atomic writes, a locked folder of mien's own, and the cache folder with its downloads."""

from __future__ import annotations

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
"""Written into pictures and videos, which mien recognises as its own and may replace."""

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30
_BINARY = getattr(os, "O_BINARY", 0)


def expand_home(path: Path | str) -> Path:
    """Return a path with ``~`` expanded; raises UsageError if there is no such home folder."""
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


# ---------------------------------------------------------------- atomic writes
def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, then rename it, making its folder if needed.

    Raises:
        OutputError: if it cannot be written; what stood there before is untouched.
    """
    with replace_atomically(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary file beside ``path``, with its suffix, and rename it to that at the end.

    For writers that take a path. The folder is made if needed; what a killed process left is
    removed.

    Raises:
        OutputError: if there is an OSError inside; what stood there before is untouched.
    """
    temporary: Path | None = None
    lock = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _locked_temporary(path)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if sys.platform == "win32":  # which moves no file that is open
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
    """Create a temporary file, locked as long as the returned descriptor is open.

    Its name is fixed, so that the next process finds what a killed one left, unless another process
    is writing there.
    """
    name = f".{path.name}.part{path.suffix}"
    while True:
        temporary = path.parent / name
        with suppress(OSError):
            _remove_leftover(temporary)
        name = f".{path.name}.{secrets.token_hex(4)}.part{path.suffix}"
        try:
            # 0o666: the umask decides who may read it, as for any new file.
            opened = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        except FileExistsError:
            continue
        # Another process may have removed it as a leftover before it was locked.
        with suppress(BlockingIOError):
            _lock(opened)
            if _is_same(opened, temporary):
                return temporary, opened
        os.close(opened)


def _remove_leftover(path: Path) -> None:
    """Remove this user's unlocked temporary file; raises OSError if there is none."""
    if sys.platform == "win32":  # which removes no file that is open
        path.unlink()
        return
    opened = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(opened)
        is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if is_ours and _lock(opened) and _is_same(opened, path):
            path.unlink()
    finally:
        os.close(opened)


def _lock(opened: int) -> bool:
    """Lock an open file for this process; False on a file system without locks.

    Raises BlockingIOError if another process has it.
    """
    if sys.platform != "win32":  # where an open file is neither moved nor removed
        import fcntl

        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            return False
    return True


def _is_same(opened: int, path: Path) -> bool:
    """Return whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(opened), path.lstat())
    except OSError:
        return False


# ---------------------------------------------------------------- a folder of mien's own
LOCK_NAME = "mien.lock"
"""The file that marks a folder as mien's and is locked; created before any other."""

_MARK = b"a folder of mien's, which removes its own files from it\n"


def claim_folder(folder: Path, *, option: str = "--output") -> IO[bytes]:
    """Create a folder, or take up one that mien created, and lock it for this process.

    ``option`` names it in errors. The lock lasts until the returned file is closed or the process
    ends.

    Raises:
        UsageError: if what is there is not mien's (a link never is), or another process has it.
        OutputError: if it cannot be made.
    """
    lock_path = folder / LOCK_NAME
    foreign = UsageError(
        f"{folder} is there and not a folder of mien's: move it away, or give another {option}"
    )
    try:
        if folder.is_symlink() or lock_path.is_symlink():
            raise foreign
        folder.mkdir(parents=True, exist_ok=True)
        if not lock_path.exists() and any(folder.iterdir()):
            raise foreign
        lock_path.touch()
        file = lock_path.open("r+b")
    except FileExistsError as error:
        raise foreign from error
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error_reason(error)}") from error
    try:
        mark = file.read(len(_MARK) + 1)
        if not mark:  # it is new, or a kill left it empty
            file.write(_MARK)
            file.flush()
        elif mark != _MARK:
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
            f"another process is writing {folder}: let it end, or give another {option}"
        ) from error
    return file


def release_folder(folder: Path, lock: IO[bytes]) -> None:
    """Unlock a claimed folder, and remove it if only its lock file is left in it."""
    with lock, suppress(OSError):
        if [path.name for path in folder.iterdir()] == [LOCK_NAME]:
            if sys.platform == "win32":  # which removes no file that is open
                lock.close()
            (folder / LOCK_NAME).unlink()
            folder.rmdir()


def _lock_folder(file: IO[bytes]) -> None:
    """Lock a folder's file; raises OSError if another process has it."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(1 << 20)  # past the mark: Windows keeps others from reading what is locked
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        _lock(file.fileno())


# ---------------------------------------------------------------- the cache folder
HOME_VARIABLE = "MIEN_HOME"
CACHE_HINT = f"set {HOME_VARIABLE} to a folder that you may write in"
"""The remedy where the cache folder cannot be used."""


def cache_folder() -> Path:
    """Return the folder for downloads: ``MIEN_HOME``, else ``mien`` in the platform's cache folder.

    It is not made here.

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
    except RuntimeError as error:  # pathlib's, where it finds no home
        raise OutputError(f"there is no home folder to keep downloads in: {CACHE_HINT}") from error


def write_obstacle(folder: Path) -> str | None:
    """Return what prevents writing into a folder, which need not exist; None if nothing does."""
    try:
        nearest = next(each for each in (folder, *folder.parents) if each.exists())
    except OSError:  # a folder on the way is another user's
        return f"{folder} cannot be looked into"
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} is read-only"


def redirect_library_caches() -> None:
    """Have Keras and Matplotlib keep their files in the cache folder, unless they are told where.

    Both would make folders in the user's home when imported. An existing ``~/.keras`` stays in use:
    ImageNet's weights may be in it. For mien's own programs alone, since Matplotlib then ignores a
    user's settings.
    """
    try:
        folder = cache_folder()
    except OutputError:  # they do without, too
        return
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    if not os.path.isdir(os.path.expanduser("~/.keras")):  # noqa: PTH111, PTH112 - never raise
        os.environ.setdefault("KERAS_HOME", str(folder / "keras"))


# ---------------------------------------------------------------- pinned files
@dataclass(frozen=True)
class PinnedFile:
    """A file to be downloaded into the cache folder, with its hash."""

    name: str
    url: str
    sha256: str
    size_bytes: int

    @property
    def path(self) -> Path:
        """Its path in the cache, existing or not; raises OutputError."""
        return cache_folder() / self.name

    def is_cached(self) -> bool:
        """Return whether it is in the cache and readable."""
        try:
            path = self.path
        except OutputError:
            return False
        # Path.is_file raises PermissionError below a folder that cannot be searched.
        return os.path.isfile(path) and os.access(path, os.R_OK)  # noqa: PTH113


def read_verified(file: PinnedFile, path: Path) -> bytes:
    """Return the content of a copy of a pinned file.

    Raises:
        ModelError: if it cannot be read or is not that file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"cannot read {path}: {error_reason(error)}; expected {file.name}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise ModelError(
            f"{path} does not match its hash: expected SHA-256 {file.sha256}, got {found}; "
            "delete it and download it again"
        )
    return content


def fetch(file: PinnedFile, *, offline: bool = False) -> Path:
    """Return a pinned file's path in the cache, downloading it unless it is there.

    Raises:
        ModelError: if it cannot be downloaded (or ``offline`` forbids it), or does not match its
            hash.
        OutputError: if it cannot be written into the cache.
    """
    path = file.path
    with suppress(OSError):  # missing, or not to be read
        if sha256_of(path) == file.sha256:
            return path
    trouble = write_obstacle(path.parent)
    by_hand = f"download {file.url} to {path} by hand"
    if trouble:
        by_hand = f"{trouble}: {CACHE_HINT}, and download {file.url} into it"
    if offline:
        if file.is_cached():
            read_verified(file, path)
        raise ModelError(f"{file.name} is not in the cache and this is offline: {by_hand}")
    if trouble:
        raise OutputError(f"{file.name} cannot be kept, {trouble}: {CACHE_HINT}")
    content = _downloaded(file, by_hand)
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise ModelError(
            f"{file.url} gave something else: expected SHA-256 {file.sha256} "
            f"({file.size_bytes} bytes), got {found} ({len(content)} bytes); nothing was kept"
        )
    write_atomically(path, content)
    return path


def _downloaded(file: PinnedFile, by_hand: str) -> bytes:
    # Imported here: they bring the whole of http and ssl with them. urllib uses the proxies of the
    # environment, which may be the only way out.
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    request = Request(file.url, headers={"User-Agent": "mien"})
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as reply:
            # One byte more than expected shows that it is another file.
            return bytes(reply.read(file.size_bytes + 1))
    except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
        raise ModelError(
            f"cannot download {file.name} ({error_reason(error)}): {by_hand}"
        ) from error
