"""A folder of classes, one's own: ``FOLDER/CLASS/IMAGE``, or with ``train|val|test`` between.

Class folders may have any names. How a file becomes a face, as a crop of one or as a photo in which
one is looked for, is for the caller to say.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from mien.core.emotions import match_label, plain_label
from mien.core.errors import DataError, MienError
from mien.core.faces import FACE_SIZE
from mien.core.file_types import IMAGE_SUFFIXES
from mien.core.progress import Progress
from mien.data.dataset import SPLITS, Skipped, Split
from mien.data.decoding import crop_face
from mien.data.listing import choose_validation, is_leftover, split_of
from mien.data.sources import FolderSource

WHOLE = "all"
"""The split that the images of a folder without ``train|val|test`` are in."""

FaceOf = Callable[[bytes], npt.NDArray[np.uint8]]
"""From a file's bytes to the standard face, uint8 (48, 48); raises MienError if there is none."""


@dataclass(frozen=True)
class ClassFolder:
    """What a folder of classes holds, by the names of its files alone.

    Attributes:
        folder: the folder.
        classes: the names of the classes, sorted; some may be without images.
        files: for each split ("train", "val", "test", or "all" alone) and class, the files'
            paths in the folder.
        skipped: files that are left out, and why.
        notes: what should be said of classes that are spelt in several ways, a line each.
    """

    folder: Path
    classes: tuple[str, ...]
    files: Mapping[str, Mapping[str, tuple[str, ...]]]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have any image."""
        return tuple(name for name, classes in self.files.items() if any(classes.values()))

    def count(self, split: str) -> int:
        """Return how many files a split has."""
        return sum(len(files) for files in self.files.get(split, {}).values())


# ---------------------------------------------------------------- listing
def list_class_folder(folder: Path) -> ClassFolder:
    """Look at what class folders there are and which files are in them, links followed.

    Folders whose names `mien.core.emotions.match_label` holds for one, as ``Angry`` in train and
    ``anger`` in val, are one class, called as the first split calls it. Within a split that goes
    for one word alone: ``calm`` beside ``neutral`` is somebody's own distinction.

    Raises:
        DataError: if there is no such folder, or no class folder in it.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: expected one with a folder of images for each class")
    source = FolderSource(folder)
    split_folders = _split_folders(source)
    depth = 1 if split_folders else 0
    skipped = list(source.refused())
    found: dict[str, dict[str, list[str]]] = {}
    for path in map(PurePosixPath, source.folders()):
        if len(path.parts) == depth + 1 and not is_leftover(str(path)):
            split = split_folders[path.parts[0]] if depth else WHOLE
            found.setdefault(split, {}).setdefault(path.name, [])
    for member in sorted(source.members()):
        path = PurePosixPath(member)
        if is_leftover(member):
            continue
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            skipped.append(Skipped(member, f"is not an image file ({path.suffix or 'no ending'})"))
        elif len(path.parts) < depth + 2:
            skipped.append(Skipped(member, "is not in a class's folder"))
        else:
            split = split_folders[path.parts[0]] if depth else WHOLE
            found[split][path.parts[depth]].append(member)
    classes, files, notes = _united(found)
    if not classes:
        unread = [f": {one.file} {one.reason}" for one in source.refused()]
        raise DataError(
            f"no class folders in {folder}: expected {folder / 'CLASS' / 'IMAGE'}, "
            f"or train, val and test with such folders in them{''.join(unread[:1])}"
        )
    return ClassFolder(folder, classes, files, tuple(skipped), notes)


def _split_folders(source: FolderSource) -> dict[str, str]:
    """Return the split of each top folder; none where one is named otherwise: that is a class."""
    paths = [PurePosixPath(name) for name in source.folders() if not is_leftover(name)]
    splits = {path.name: split_of(path.name) for path in paths if len(path.parts) == 1}
    if None in splits.values() or not any(len(path.parts) > 1 for path in paths):
        return {}
    return {name: split for name, split in splits.items() if split is not None}


def _united(
    found: Mapping[str, Mapping[str, list[str]]],
) -> tuple[tuple[str, ...], dict[str, dict[str, tuple[str, ...]]], tuple[str, ...]]:
    """Put folders together that spell one class.

    Args:
        found: the files of each split and folder.

    Returns:
        The classes, the files of each split and class, and what should be said of the folders.
    """
    classes: list[str] = []
    files: dict[str, dict[str, tuple[str, ...]]] = {}
    notes: list[str] = []
    for split in [name for name in (*SPLITS, WHOLE) if name in found]:
        earlier = tuple(classes)
        folders: dict[str, list[str]] = {}
        for folder in sorted(found[split]):
            name = match_label(folder, classes)
            is_word = name is not None and plain_label(name) == plain_label(folder)
            if name is None or not (name in earlier or is_word):
                if name is not None:
                    notes.append(
                        f"{name} and {folder} mean the same emotion and are two classes here: "
                        f"merge them with --map {folder}={name}"
                    )
                name = unicodedata.normalize("NFC", folder).strip() or folder
                classes.append(name)
            folders.setdefault(name, []).append(folder)
        where = "" if split == WHOLE else f" of {split}"
        notes += [
            f"the folders {', '.join(map(repr, spelt))}{where} are one class: {name}"
            for name, spelt in folders.items()
            if len(spelt) > 1
        ]
        files[split] = {
            name: tuple(member for folder in spelt for member in found[split][folder])
            for name, spelt in folders.items()
        }
    names = tuple(sorted(classes))
    in_all = {split: {name: each.get(name, ()) for name in names} for split, each in files.items()}
    return names, in_all, tuple(notes)


# ---------------------------------------------------------------- reading
def read_class_folder(
    listed: ClassFolder,
    *,
    splits: Sequence[str],
    classes: Mapping[str, str] | None = None,
    face_of: FaceOf = crop_face,
    quiet: bool = False,
) -> dict[str, Split]:
    """Read the images of splits into memory.

    Args:
        listed: see `list_class_folder`.
        splits: which of ``listed.splits`` to read.
        classes: what each class folder's images are called; those that are missing are left out.
            As the folders are called unless given.
        face_of: from a file's bytes to its face.
        quiet: draw no progress bar.

    Returns:
        Each split, its classes sorted by name and the same in all. What cannot be read is in its
        ``skipped``, with the reason.

    Raises:
        DataError: if there is not one image that can be read.
    """
    named = {name: name for name in listed.classes} if classes is None else dict(classes)
    labels = tuple(sorted(set(named.values())))
    source = FolderSource(listed.folder)
    total = sum(len(listed.files[split].get(name, ())) for split in splits for name in named)
    with Progress(f"reading {listed.folder.name}", total, unit="img", quiet=quiet) as progress:
        loaded = {}
        for split in splits:
            wanted = [
                (member, labels.index(named[name]))
                for name, members in listed.files[split].items()
                if name in named
                for member in members
            ]
            loaded[split] = _read(source, split, wanted, labels, face_of, progress)
    if not any(len(split) for split in loaded.values()):
        failed = [one for split in loaded.values() for one in split.skipped]
        why = f": {failed[0].file} {failed[0].reason}" if failed else ""
        raise DataError(f"no image in {listed.folder} can be used{why}")
    return loaded


def _read(
    source: FolderSource,
    split: str,
    wanted: Sequence[tuple[str, int]],
    classes: tuple[str, ...],
    face_of: FaceOf,
    progress: Progress,
) -> Split:
    images = np.empty((len(wanted), FACE_SIZE, FACE_SIZE), np.uint8)
    kept: list[tuple[str, int]] = []
    skipped: list[Skipped] = []
    for member, label in wanted:
        progress.advance()
        try:
            images[len(kept)] = face_of(source.read(member))
        except MienError as error:
            # Images from memory are called just that: here the file's name stands before it.
            skipped.append(Skipped(member, str(error).removeprefix("image ")))
            continue
        kept.append((member, label))
    labels = np.array([label for _, label in kept], np.int64)
    files = tuple(member for member, _ in kept)
    return Split(split, images[: len(kept)], labels, files, tuple(skipped), (), classes)


# ---------------------------------------------------------------- holding out
def hold_out(split: Split, *, fraction: float, seed: int) -> tuple[Split, Split]:
    """Part images into those to train on and those to validate on.

    The choice is stratified and hangs on the files' names and the seed alone. Of each class at
    least one image is held out and at least two are not. Copies of one image stay together, on
    the side of training.

    Returns:
        "train" and "val".
    """
    chosen: set[str] = set()
    for label in range(len(split.classes)):
        files = [split.files[place] for place in np.flatnonzero(split.labels == label)]
        least = min(max(1, round(fraction * len(files))), max(0, len(files) - 2))
        share = least / len(files) if files else 0.0
        chosen |= choose_validation(files, seed=seed, fraction=share)
    held = np.array([file in chosen for file in split.files], np.bool_)
    trained = {image.tobytes() for image in split.images[~held]}
    held &= np.array([image.tobytes() not in trained for image in split.images], np.bool_)
    return as_split(split.take(~held), "train"), as_split(split.take(held), "val")


def as_split(split: Split, name: str) -> Split:
    """Return the same images as a split of another name, and no word of what was skipped."""
    return Split(name, split.images, split.labels, split.files, (), (), split.classes)
