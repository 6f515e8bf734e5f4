"""Opening a data set's folder or zip: the names of its files, and their bytes."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol, TypeAlias

from mien.core.errors import DataError
from mien.data.dataset import Skipped

LAYOUT_HINT = (
    "expected a folder or zip with train|val|test/CLASS/IMAGE, or the challenge's CSV "
    "(emotion,pixels,Usage), packed or not"
)
MAX_FILE_BYTES = 64 * 2**20
"""A larger file is no face of a data set; it is skipped rather than unpacked into memory."""


CSV_SUFFIXES = frozenset({".bz2", ".csv", ".gz", ".tar", ".tbz2", ".tgz", ".txz", ".xz", ".zip"})
"""Endings of the files in a folder or a zip that may hold the challenge's CSV, packed or not."""

PACKING_BYTES = 512
"""How much of a file's beginning `packing_of` has to see."""

_MAGIC = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "zip": b"PK\x03\x04",
}

_Identity: TypeAlias = "tuple[int, int]"
"""A folder's file system and its number there: the same through every link."""


class Source(Protocol):
    """Where a data set's files come from."""

    def members(self) -> list[str]:
        """Return the relative paths of all files that may be read, with forward slashes."""
        ...

    def refused(self) -> list[Skipped]:
        """Return the files that are not to be touched, and why."""
        ...

    def read(self, member: str) -> bytes:
        """Return a file's bytes; raises DataError (with the reason only) if that fails."""
        ...


class FolderSource:
    """A folder on disk; links are followed, since they are the user's own."""

    def __init__(self, folder: Path) -> None:
        """List the files of ``folder``, hidden ones aside."""
        self.folder = folder
        self._stats: dict[str, tuple[int, int]] = {}
        self._folders: list[str] = []
        self._refused: list[Skipped] = []
        self._scan()

    def _scan(self) -> None:
        """Walk the folders; what cannot be looked at is refused, and what lies beside it is not.

        No folder is entered from below itself, nor twice within a class (the first two folders of
        a path), so that links end, however they are tied.
        """
        entered: set[tuple[object, ...]] = set()
        stack: list[tuple[str, frozenset[_Identity]]] = [("", frozenset())]
        while stack:
            name, above = stack.pop()
            try:
                status = (self.folder / name).stat()
                here = (status.st_dev, status.st_ino)
                items = sorted(os.scandir(self.folder / name), key=lambda item: item.name)
            except OSError as error:
                self._refuse(name, _unreadable(error))
                continue
            if here in above:
                self._refuse(name, "is a link to a folder above it")
                continue
            place = (*PurePosixPath(name).parts[:2], here)
            if place in entered:
                self._refuse(name, "is a link to a folder that is there already")
                continue
            entered.add(place)
            self._folders.append(name)
            prefix = f"{name}/" if name else ""
            below = [prefix + item.name for item in items if self._is_folder(prefix, item)]
            stack += [(each, above | {here}) for each in reversed(below)]

    def _is_folder(self, prefix: str, item: os.DirEntry[str]) -> bool:
        """Say whether this is a folder to look into; note a file, or why it is refused."""
        if item.name.startswith("."):
            return False
        try:
            status = item.stat()
        except OSError as error:
            self._refuse(prefix + item.name, _unreadable(error))
            return False
        if stat.S_ISREG(status.st_mode):
            self._stats[prefix + item.name] = (status.st_size, status.st_mtime_ns)
        elif not stat.S_ISDIR(status.st_mode):
            self._refuse(prefix + item.name, "is not a regular file")
        return stat.S_ISDIR(status.st_mode)

    def _refuse(self, name: str, reason: str) -> None:
        self._refused.append(Skipped(name or ".", reason))

    def members(self) -> list[str]:
        """See `Source`."""
        return list(self._stats)

    def folders(self) -> list[str]:
        """Return the relative paths of all folders below, with forward slashes."""
        return [name for name in self._folders if name]

    def refused(self) -> list[Skipped]:
        """See `Source`."""
        return list(self._refused)

    def digest(self) -> str:
        """Return a hash of all files' names, sizes and times."""
        state = hashlib.sha256()
        for name, (size, time) in sorted(self._stats.items()):
            state.update(f"{name}\0{size}\0{time}\n".encode("utf-8", "surrogateescape"))
        return state.hexdigest()

    def read(self, member: str) -> bytes:
        """See `Source`."""
        if self._stats[member][0] > MAX_FILE_BYTES:
            raise DataError(f"is larger than {MAX_FILE_BYTES >> 20} MB")
        try:
            return (self.folder / member).read_bytes()
        except OSError as error:
            raise DataError(_unreadable(error)) from error


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror or type(error).__name__})"


class ZipSource:
    """A zip; entries that point outside it, links and encrypted entries are refused."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        """Sort the entries into those to read and those to refuse."""
        self._archive = archive
        self._infos: dict[str, zipfile.ZipInfo] = {}
        self._refused: list[Skipped] = []
        for info in archive.infolist():
            reason = _refusal(info)
            if reason is None and info.filename in self._infos:
                reason = "is in the zip twice"
            if reason is not None:
                self._refused.append(Skipped(info.filename, reason))
            elif not info.is_dir():
                self._infos[info.filename] = info

    def members(self) -> list[str]:
        """See `Source`."""
        return list(self._infos)

    def refused(self) -> list[Skipped]:
        """See `Source`."""
        return list(self._refused)

    def read(self, member: str) -> bytes:
        """See `Source`."""
        info = self._infos[member]
        if info.file_size > MAX_FILE_BYTES:
            raise DataError(f"is larger than {MAX_FILE_BYTES >> 20} MB")
        try:
            with self._archive.open(info) as stream:
                # To the size that it says: asked for all, zipfile unpacks whatever there is first.
                return stream.read(info.file_size)
        # Each of the zip's compressions meets damage with errors of its own.
        except Exception as error:
            raise DataError("is damaged inside the zip") from error


def _refusal(info: zipfile.ZipInfo) -> str | None:
    """Return why a zip entry is not to be touched, or None."""
    # orig_filename still has what the zip said: ZipInfo cuts at a NUL and turns "\" on Windows.
    name = info.orig_filename
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or name.startswith("\\"):
        return "has an absolute path"
    if ".." in PurePosixPath(name.replace("\\", "/")).parts:
        return "has a path that leads outside ('..')"
    if "\\" in name or "\0" in name:
        return "has a backslash or a NUL in its path"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link"
    if info.flag_bits & 0x1:
        return "is encrypted"
    # The challenge's CSV has 300 MB; it is read a line at a time.
    if info.file_size > MAX_FILE_BYTES and PurePosixPath(name).suffix.lower() not in CSV_SUFFIXES:
        return f"is larger than {MAX_FILE_BYTES >> 20} MB"
    return None


def source_kind(path: Path) -> str:
    """Return "folder", "csv" (packed or not, see `mien.data.csv_archive`) or "zip".

    Raises:
        DataError: if the path does not exist or is none of them.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"no data set at {path}: {LAYOUT_HINT}; `mien data download` fetches one"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise DataError(f"{path} cannot be read ({_reason(error)})") from error
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is not a regular file: {LAYOUT_HINT}")
    try:
        is_zip = zipfile.is_zipfile(path)
        with path.open("rb") as stream:
            packing = packing_of(stream.read(PACKING_BYTES))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({_reason(error)})") from error
    suffix = path.suffix.lower()
    if is_zip and suffix != ".csv":
        return "zip"
    if suffix == ".csv" or packing not in (None, "zip"):
        return "csv"
    if suffix == ".zip":
        raise DataError(f"{path} is damaged or not a zip: download it again")
    raise DataError(f"{path} is no data set: {LAYOUT_HINT}")


def packing_of(head: bytes) -> str | None:
    """Return "gzip", "bzip2", "xz", "zip" or "tar" by how a file begins, else None."""
    if head[257:262] == b"ustar":
        return "tar"
    return next((name for name, magic in _MAGIC.items() if head.startswith(magic)), None)


def _reason(error: Exception) -> str:
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or " ".join(str(error).split())[:100] or type(error).__name__


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a folder or a zip.

    Raises:
        DataError: if it is neither, or a damaged zip.
    """
    if source_kind(path) == "folder":
        yield FolderSource(path)
        return
    with open_zip(path) as archive:
        yield ZipSource(archive)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip; raises DataError, whatever zipfile stumbles over."""
    try:
        return zipfile.ZipFile(path)
    # BadZipFile, and for a directory of nonsense NotImplementedError, UnicodeDecodeError, ...
    except Exception as error:
        raise DataError(
            f"{path} cannot be opened as a zip ({_reason(error)}): download it again"
        ) from error


def source_state(path: Path) -> str:
    """Return what changes when the source does: its size and time, or those of all its files."""
    if source_kind(path) == "folder":
        return FolderSource(path).digest()
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"
