"""Where FER-2013 comes from (folder, zip, CSV), and the layout of its image files.

Image files are expected as ``SPLIT/CLASS/FILE`` below any one common top folder. ``val`` is

- the folder of that name;
- without one, the ``PublicTest_*`` files of ``test``, as in Kaggle's copy;
- without these, a seeded, stratified part of ``train``.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeAlias

from mien.core.emotions import EMOTIONS, find_emotion
from mien.core.errors import DataError, error_reason
from mien.core.file_types import IMAGE_SUFFIXES
from mien.data.dataset import SPLITS, Skipped

LAYOUT_HINT = (
    "expected a folder or zip with train|val|test/CLASS/IMAGE, or the challenge's CSV "
    "(emotion,pixels,Usage), packed or not"
)
MAX_FILE_BYTES = 64 * 2**20
"""Largest image file that is read into memory."""

CSV_SUFFIXES = frozenset({".bz2", ".csv", ".gz", ".tar", ".tbz2", ".tgz", ".txz", ".xz", ".zip"})
"""Suffixes of the files in a folder or a zip that may hold the challenge's CSV, packed or not."""

VAL_FRACTION = 0.125
"""Share of train that becomes a random val: FER-2013's own 3,589 of 28,709."""

HEAD_BYTES = 512
"""Number of leading bytes that `packing_of` inspects."""

_MAGIC = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0", "zip": b"PK\x03\x04"}
_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "publictest": "val",
    "test": "test",
    "testing": "test",
    "privatetest": "test",
}


# ---------------------------------------------------------------- folders and zips
class FolderSource:
    """A folder on disk without its hidden files; links are followed.

    Attributes:
        members: relative paths of all readable files, with forward slashes.
        refused: entries that are not read, and why.
        folders: relative paths of all subfolders.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folders: list[str] = []
        self.refused: list[Skipped] = []
        self._stats: dict[str, tuple[int, int]] = {}
        self._scan()
        self.members = list(self._stats)

    def _scan(self) -> None:
        """Walk the folder tree.

        Links to a parent folder, or to a folder already visited in the same class (the first two
        parts of a path), are not entered, so the walk ends.
        """
        visited: set[tuple[object, ...]] = set()
        stack: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
        while stack:
            name, parents = stack.pop()
            try:
                status = (self.folder / name).stat()
                items = sorted(os.scandir(self.folder / name), key=lambda item: item.name)
            except OSError as error:
                self._refuse(name, _unreadable(error))
                continue
            identity = (status.st_dev, status.st_ino)
            key = (*PurePosixPath(name).parts[:2], identity)
            if identity in parents or key in visited:
                target = "one of its parents" if identity in parents else "read already"
                self._refuse(name, f"is a link to a folder that is {target}")
                continue
            visited.add(key)
            if name:
                self.folders.append(name)
            prefix = f"{name}/" if name else ""
            subfolders = [prefix + item.name for item in items if self._is_folder(prefix, item)]
            stack += [(subfolder, parents | {identity}) for subfolder in reversed(subfolders)]

    def _is_folder(self, prefix: str, item: os.DirEntry[str]) -> bool:
        """Return True for a folder to enter; record files, and why other items are refused."""
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
        self.refused.append(Skipped(name or ".", reason))

    def digest(self) -> str:
        """Return a hash of all files' names, sizes and modification times."""
        state = hashlib.sha256()
        for name, (size, time) in sorted(self._stats.items()):
            state.update(f"{name}\0{size}\0{time}\n".encode("utf-8", "surrogateescape"))
        return state.hexdigest()

    def read(self, member: str) -> bytes:
        """Return a file's bytes; raises DataError with the reason only ("is damaged ...")."""
        _check_size(self._stats[member][0])
        try:
            return (self.folder / member).read_bytes()
        except OSError as error:
            raise DataError(_unreadable(error)) from error


class ZipSource:
    """A zip, as a `FolderSource`; unsafe paths, links and encrypted entries are refused."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._infos: dict[str, zipfile.ZipInfo] = {}
        self.refused: list[Skipped] = []
        for info in archive.infolist():
            reason = _refusal_reason(info)
            if reason is None and info.filename in self._infos:
                reason = "is in the zip twice"
            if reason is not None:
                self.refused.append(Skipped(info.filename, reason))
            elif not info.is_dir():
                self._infos[info.filename] = info
        self.members = list(self._infos)

    def read(self, member: str) -> bytes:
        """See `FolderSource.read`."""
        info = self._infos[member]
        _check_size(info.file_size)
        try:
            with self._archive.open(info) as stream:
                # Up to the declared size: read() without one unpacks everything first.
                return stream.read(info.file_size)
        # Each compression method raises its own exceptions.
        except Exception as error:
            raise DataError("is damaged inside the zip") from error


Source: TypeAlias = FolderSource | ZipSource


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise DataError(f"is larger than {MAX_FILE_BYTES >> 20} MB")


def _refusal_reason(info: zipfile.ZipInfo) -> str | None:
    """Return why a zip entry must not be read, or None."""
    # The name as stored: `filename` is cut at a NUL, and has "\" replaced on Windows.
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
    # The challenge's CSV is 300 MB; it is streamed line by line.
    if info.file_size > MAX_FILE_BYTES and PurePosixPath(name).suffix.lower() not in CSV_SUFFIXES:
        return f"is larger than {MAX_FILE_BYTES >> 20} MB"
    return None


def source_kind(path: Path) -> str:
    """Return "folder", "zip", or "csv" for the challenge's CSV, packed or not.

    Raises:
        DataError: if the path does not exist or is none of these.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return "folder"
        if not stat.S_ISREG(mode):
            raise DataError(f"{path} is not a regular file: {LAYOUT_HINT}")
        is_zip = zipfile.is_zipfile(path)
        with path.open("rb") as stream:
            packing = packing_of(stream.read(HEAD_BYTES))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"no data set at {path}: {LAYOUT_HINT}; `mien data download` fetches one"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise DataError(f"{path} {_unreadable(error)}") from error
    suffix = path.suffix.lower()
    if is_zip and suffix != ".csv":
        return "zip"
    if suffix == ".csv" or packing not in (None, "zip"):
        return "csv"
    if suffix == ".zip":
        raise DataError(f"{path} is damaged or not a zip: download it again")
    raise DataError(f"{path} is not a data set: {LAYOUT_HINT}")


def packing_of(head: bytes) -> str | None:
    """Return "gzip", "bzip2", "xz", "zip" or "tar" by a file's leading bytes, else None."""
    if head[257:262] == b"ustar":
        return "tar"
    return next((name for name, magic in _MAGIC.items() if head.startswith(magic)), None)


def _unreadable(error: Exception) -> str:
    return f"cannot be read ({error_reason(error)})"


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
    # BadZipFile, and for a damaged directory NotImplementedError, UnicodeDecodeError, ...
    except Exception as error:
        raise DataError(
            f"{path} cannot be opened as a zip ({error_reason(error)}): download it again"
        ) from error
    with archive:
        yield ZipSource(archive)


def source_state(path: Path) -> str:
    """Return a fingerprint of the size and modification time of a file, or of all in a folder."""
    if source_kind(path) == "folder":
        return FolderSource(path).digest()
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


# ---------------------------------------------------------------- splits and classes
@dataclass(frozen=True)
class Entry:
    """An image file of a data set.

    Attributes:
        split: "train", "val" or "test"; "all" for a class folder without splits.
        label: class index.
        file: its name in the loaded data set, ``val/angry/PublicTest_1.jpg``.
        member: its name in the source, ``top/test/Angry/PublicTest_1.jpg``.
    """

    split: str
    label: int
    file: str
    member: str


@dataclass(frozen=True)
class Listing:
    """The image files of a source, found by name.

    Attributes:
        entries: the images, sorted by split (train, val, test) and file.
        skipped: the files left out of each split; those of an unknown split are under train.
        val_from: origin of val: "folder", "names", "random", "none", or "usage" for a CSV.
        merged: a note for each class of a split that several folders were merged into.
    """

    entries: tuple[Entry, ...]
    skipped: dict[str, tuple[Skipped, ...]]
    val_from: str
    merged: tuple[str, ...] = ()


def list_entries(
    members: Iterable[str], *, seed: int = 0, val_fraction: float = VAL_FRACTION
) -> Listing:
    """Sort a source's files into splits and classes by their names.

    Args:
        members: relative paths with forward slashes; hidden files, ``__MACOSX`` and files other
            than images outside ``SPLIT/CLASS/`` are ignored.
        seed: seed of the random val split, where one is needed.
        val_fraction: share of each class of train that the random val takes; 0 disables it.
    """
    paths = [PurePosixPath(name) for name in sorted(members) if not is_leftover(name)]
    root = _find_root(paths)
    skipped: dict[str, list[Skipped]] = {split: [] for split in SPLITS}
    entries: dict[str, Entry] = {}
    for path in paths:
        entry = _classify(path, root)
        if isinstance(entry, Entry) and entry.file in entries:
            other = entries[entry.file].member
            entry = entry.split, f"has the same split, class and name as {other}"
        if isinstance(entry, Entry):
            entries[entry.file] = entry
        elif entry is not None:
            split, reason = entry
            skipped[split].append(Skipped(str(path), reason))
    merged = _merge_notes(entries.values())
    assigned, val_from = _assign_val(list(entries.values()), seed, val_fraction)
    ordered = sorted(assigned, key=lambda entry: (SPLITS.index(entry.split), entry.file))
    return Listing(
        tuple(ordered), {split: tuple(files) for split, files in skipped.items()}, val_from, merged
    )


def choose_validation(files: Sequence[str], *, seed: int, fraction: float) -> frozenset[str]:
    """Choose ``round(fraction * len(files))`` of the files by a hash of seed and name.

    The choice does not depend on the files' order or the version of a random number generator.
    """

    def rank(file: str) -> bytes:
        return hashlib.sha256(f"{seed}/{file}".encode("utf-8", "surrogateescape")).digest()

    return frozenset(sorted(files, key=rank)[: round(fraction * len(files))])


def is_leftover(name: str) -> bool:
    """Return True for hidden files and those in ``__MACOSX``."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or any(part.startswith(".") and part != ".." for part in parts)


def split_of(folder: str) -> str | None:
    """Return the split that a folder name stands for ("training", "valid", ...), or None."""
    return _SPLIT_FOLDERS.get(folder.strip().lower())


def _find_root(paths: Sequence[PurePosixPath]) -> tuple[str, ...]:
    """Return the folder that holds the split folders; of several, the one with most files."""
    roots = Counter(
        path.parts[:-3]
        for path in paths
        if len(path.parts) >= 3 and split_of(path.parts[-3]) is not None
    )
    return min(roots, key=lambda root: (-roots[root], root), default=())


def _classify(path: PurePosixPath, root: tuple[str, ...]) -> Entry | tuple[str, str] | None:
    """Return a file's entry; or its split and why it is skipped; or None if it is not data."""
    is_image = path.suffix.lower() in IMAGE_SUFFIXES
    split = split_of(path.parts[-3]) if len(path.parts) >= 3 else None
    if split is None:
        return ("train", "is not in a folder train|val|test/CLASS/") if is_image else None
    if path.parts[:-3] != root:
        return split, f"is outside the data set's folder {'/'.join(root) or '.'}"
    folder = path.parts[-2]
    emotion = find_emotion(folder)
    if emotion is None:
        return split, f"class folder {folder!r} is none of {', '.join(EMOTIONS)}"
    if not is_image:
        return split, not_an_image(path)
    return Entry(split, EMOTIONS.index(emotion), f"{split}/{emotion}/{path.name}", str(path))


def not_an_image(path: PurePosixPath) -> str:
    """Return the reason for skipping a file whose suffix is not that of an image."""
    return f"is not an image file ({path.suffix or 'no suffix'})"


def _merge_notes(entries: Iterable[Entry]) -> tuple[str, ...]:
    folders: dict[tuple[str, int], set[str]] = {}
    for entry in entries:
        folder = str(PurePosixPath(entry.member).parent)
        folders.setdefault((entry.split, entry.label), set()).add(folder)
    return tuple(
        f"{', '.join(sorted(names))} are one class: {EMOTIONS[label]} of {split}"
        for (split, label), names in sorted(folders.items())
        if len(names) > 1
    )


def _assign_val(entries: list[Entry], seed: int, fraction: float) -> tuple[list[Entry], str]:
    """Return the entries with their final splits, and the origin of val."""
    if any(entry.split == "val" for entry in entries):
        return entries, "folder"
    chosen = {
        entry.file
        for entry in entries
        if entry.split == "test" and PurePosixPath(entry.file).name.lower().startswith("publictest")
    }
    val_from = "names"
    if not chosen:
        for label in range(len(EMOTIONS)):
            files = [
                entry.file for entry in entries if (entry.split, entry.label) == ("train", label)
            ]
            chosen |= choose_validation(files, seed=seed, fraction=fraction)
        val_from = "random" if chosen else "none"
    moved = [
        replace(entry, split="val", file="val/" + entry.file.split("/", 1)[1])
        if entry.file in chosen
        else entry
        for entry in entries
    ]
    return moved, val_from
