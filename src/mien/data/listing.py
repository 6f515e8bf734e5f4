"""From the names of files to the data set's entries: which split and class each belongs to.

Three layouts are understood, below any one common top folder (``SPLIT/CLASS/FILE``):

- ``train|val|test``: as the folders say;
- Kaggle's: no ``val``, and the ``PublicTest_*`` files of ``test`` are ``val``;
- no ``val`` and names that do not tell: a seeded, stratified part of ``train`` becomes ``val``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from mien.core.emotions import EMOTIONS, find_emotion
from mien.core.file_types import IMAGE_SUFFIXES
from mien.data.dataset import SPLITS, Skipped

VAL_FRACTION = 0.125
"""Share of train that becomes val where names do not tell: FER-2013's own 3,589 of 28,709."""

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
_PUBLIC_PREFIX = "publictest"


@dataclass(frozen=True)
class Entry:
    """One image of a data set, not yet read.

    Attributes:
        split: "train", "val" or "test".
        label: index into `EMOTIONS`.
        file: its name in mien's layout, ``val/angry/PublicTest_1.jpg``.
        member: its name in the source, which may differ (``top/test/Angry/PublicTest_1.jpg``).
    """

    split: str
    label: int
    file: str
    member: str


@dataclass(frozen=True)
class Listing:
    """What a source holds, by the names of its files alone.

    Attributes:
        entries: the images, sorted by split (train, val, test) and file.
        skipped: for each split the files left out; a file whose split is unknown is with train.
        val_from: where val comes from: "folder", "names", "random", or "none".
        merged: what should be said of folders of one split that are one class, a line each.
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
        members: relative paths with forward slashes; leftovers of operating systems (hidden files,
            ``__MACOSX``) and files other than images outside ``SPLIT/CLASS/`` are no part of a data
            set and are passed over.
        seed: of the random val split, where one is needed.
        val_fraction: share of each class of train that it takes; 0 makes none.
    """
    paths = [PurePosixPath(name) for name in sorted(members) if not is_leftover(name)]
    root = _find_root(paths)
    skipped: dict[str, list[Skipped]] = {split: [] for split in SPLITS}
    entries: dict[str, Entry] = {}
    for path in paths:
        placed = _place(path, root)
        if placed is None:
            continue
        if isinstance(placed, Entry) and placed.file in entries:
            other = entries[placed.file].member
            placed = placed.split, f"has the same split, class and name as {other}"
        if isinstance(placed, Entry):
            entries[placed.file] = placed
        else:
            split, reason = placed
            skipped[split].append(Skipped(str(path), reason))
    merged = _merged(entries.values())
    settled, val_from = _settle_val(list(entries.values()), seed, val_fraction)
    ordered = sorted(settled, key=lambda entry: (SPLITS.index(entry.split), entry.file))
    return Listing(
        tuple(ordered), {split: tuple(files) for split, files in skipped.items()}, val_from, merged
    )


def choose_validation(files: Sequence[str], *, seed: int, fraction: float) -> frozenset[str]:
    """Choose ``round(fraction * len(files))`` of the files, the same ones for a seed always.

    The choice hangs on each file's name and the seed only: neither on the order of the files nor on
    the version of a random number generator.
    """

    def draw(file: str) -> bytes:
        return hashlib.sha256(f"{seed}/{file}".encode("utf-8", "surrogateescape")).digest()

    return frozenset(sorted(files, key=draw)[: round(fraction * len(files))])


def is_leftover(name: str) -> bool:
    """Say whether an operating system left this: hidden, or ``__MACOSX``."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or any(part.startswith(".") and part != ".." for part in parts)


def split_of(folder: str) -> str | None:
    """Return the split that a folder is named after ("training", "valid" ...), or None."""
    return _SPLIT_FOLDERS.get(folder.strip().lower())


def _find_root(paths: Sequence[PurePosixPath]) -> tuple[str, ...]:
    """Return the folders above the split folders: if there are several, those with most files."""
    roots = Counter(
        path.parts[:-3]
        for path in paths
        if len(path.parts) >= 3 and split_of(path.parts[-3]) is not None
    )
    return min(roots, key=lambda root: (-roots[root], root), default=())


def _place(path: PurePosixPath, root: tuple[str, ...]) -> Entry | tuple[str, str] | None:
    """Return the file's entry, or its split and why it is skipped, or None if it is no data."""
    is_image = path.suffix.lower() in IMAGE_SUFFIXES
    split = split_of(path.parts[-3]) if len(path.parts) >= 3 else None
    if split is None:
        return ("train", "is not in a folder train|val|test/CLASS/") if is_image else None
    if path.parts[:-3] != root:
        return (split, f"is outside the data set's folder {'/'.join(root) or '.'}")
    folder = path.parts[-2]
    emotion = find_emotion(folder)
    if emotion is None:
        return split, f"class folder {folder!r} is none of {', '.join(EMOTIONS)}"
    if not is_image:
        return split, f"is not an image file ({path.suffix or 'no ending'})"
    return Entry(split, EMOTIONS.index(emotion), f"{split}/{emotion}/{path.name}", str(path))


def _merged(entries: Iterable[Entry]) -> tuple[str, ...]:
    """Return a line for each class of a split whose images are in folders of several names."""
    folders: dict[tuple[str, int], set[str]] = {}
    for entry in entries:
        folder = str(PurePosixPath(entry.member).parent)
        folders.setdefault((entry.split, entry.label), set()).add(folder)
    return tuple(
        f"{', '.join(sorted(names))} are one class: {EMOTIONS[label]} of {split}"
        for (split, label), names in sorted(folders.items())
        if len(names) > 1
    )


def _settle_val(entries: list[Entry], seed: int, fraction: float) -> tuple[list[Entry], str]:
    """Decide where val comes from; return the entries with their final splits, and that."""
    if any(entry.split == "val" for entry in entries):
        return entries, "folder"
    public = {
        entry.file
        for entry in entries
        if entry.split == "test"
        and PurePosixPath(entry.file).name.lower().startswith(_PUBLIC_PREFIX)
    }
    if public:
        return [_to_val(entry) if entry.file in public else entry for entry in entries], "names"
    chosen: set[str] = set()
    for label in range(len(EMOTIONS)):
        files = [e.file for e in entries if e.split == "train" and e.label == label]
        chosen |= choose_validation(files, seed=seed, fraction=fraction)
    moved = [_to_val(entry) if entry.file in chosen else entry for entry in entries]
    return moved, "random" if chosen else "none"


def _to_val(entry: Entry) -> Entry:
    return replace(entry, split="val", file="val/" + entry.file.split("/", 1)[1])
