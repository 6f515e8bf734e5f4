"""Opening a data set's folder or zip: the names of its files, and their bytes."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from mien.core.errors import DataError
from mien.data.dataset import Skipped

LAYOUT_HINT = (
    "expected a folder or zip with train|val|test/CLASS/IMAGE, or the challenge's CSV "
    "(emotion,pixels,Usage)"
)
MAX_FILE_BYTES = 64 * 2**20
"""A larger file is no face of a data set; it is skipped rather than unpacked into memory."""


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
        self._refused: list[Skipped] = []
        self._scan(folder, "", ())

    def _scan(self, folder: Path, prefix: str, above: tuple[Path, ...]) -> None:
        try:
            here = folder.resolve()
            if here in above:
                self._refused.append(Skipped(prefix, "is a link to a folder above it"))
                return
            for item in sorted(os.scandir(folder), key=lambda item: item.name):
                if item.name.startswith("."):
                    continue
                if item.is_dir():
                    self._scan(Path(item.path), f"{prefix}{item.name}/", (*above, here))
                else:
                    self._add_file(prefix + item.name, item)
        except OSError as error:
            self._refused.append(Skipped(prefix or ".", f"cannot be read ({error.strerror})"))

    def _add_file(self, name: str, item: os.DirEntry[str]) -> None:
        try:
            status = item.stat()
        except OSError as error:
            self._refused.append(Skipped(name, f"cannot be read ({error.strerror})"))
            return
        if stat.S_ISREG(status.st_mode):
            self._stats[name] = (status.st_size, status.st_mtime_ns)
        else:
            self._refused.append(Skipped(name, "is not a regular file"))

    def members(self) -> list[str]:
        """See `Source`."""
        return list(self._stats)

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
            raise DataError(f"cannot be read ({error.strerror})") from error


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
        try:
            return self._archive.read(self._infos[member])
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
    if info.file_size > MAX_FILE_BYTES:
        return f"is larger than {MAX_FILE_BYTES >> 20} MB"
    return None


def source_kind(path: Path) -> str:
    """Return "folder", "csv" or "zip".

    Raises:
        DataError: if the path does not exist or is none of them.
    """
    if path.is_dir():
        return "folder"
    if not path.exists():
        raise DataError(f"no data set at {path}: {LAYOUT_HINT}; `mien data download` fetches one")
    if path.suffix.lower() == ".csv":
        return "csv"
    if zipfile.is_zipfile(path):
        return "zip"
    if path.suffix.lower() == ".zip":
        raise DataError(f"{path} is damaged or not a zip: download it again")
    raise DataError(f"{path} is no data set: {LAYOUT_HINT}")


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a folder or a zip.

    Raises:
        DataError: if it is neither, or a damaged zip.
    """
    if source_kind(path) == "folder":
        yield FolderSource(path)
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} cannot be opened as a zip ({error}): download it again") from error
    with archive:
        yield ZipSource(archive)


def source_state(path: Path) -> str:
    """Return what changes when the source does: its size and time, or those of all its files."""
    if source_kind(path) == "folder":
        return FolderSource(path).digest()
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"
