"""A folder of one's own classes: ``FOLDER/CLASS/IMAGE``, or with ``train|val|test`` between.

Class folders may have any names; ``--map`` renames and merges them. Whether a file is a face crop
or a photo in which a face is looked for is the caller's to say.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from mien.core.emotions import match_label, plain_label
from mien.core.errors import DataError, MienError, UsageError, expectation
from mien.core.file_types import IMAGE_SUFFIXES
from mien.core.progress import Progress
from mien.data.dataset import SPLITS, Skipped, Split
from mien.data.loading import crop_face
from mien.data.sources import FolderSource, choose_validation, is_leftover, split_of

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
        files: for each split ("train", "val", "test", or "all" alone) and class, the files' paths
            in the folder.
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
    """List the class folders and their files, links followed.

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
    skipped = list(source.refused)
    found: dict[str, dict[str, list[str]]] = {}
    for path in map(PurePosixPath, source.folders):
        if len(path.parts) == depth + 1 and not is_leftover(str(path)):
            split = split_folders[path.parts[0]] if depth else WHOLE
            found.setdefault(split, {}).setdefault(path.name, [])
    for member in sorted(source.members):
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
    classes, files, notes = _merged_classes(found)
    if not classes:
        unread = [f": {one}" for one in source.refused]
        raise DataError(
            f"no class folders in {folder}: expected {folder / 'CLASS' / 'IMAGE'}, "
            f"or train, val and test with such folders in them{''.join(unread[:1])}"
        )
    return ClassFolder(folder, classes, files, tuple(skipped), notes)


def _split_folders(source: FolderSource) -> dict[str, str]:
    """Return the split of each top folder; none where one has another name: it is a class."""
    paths = [PurePosixPath(name) for name in source.folders if not is_leftover(name)]
    splits = {path.name: split_of(path.name) for path in paths if len(path.parts) == 1}
    if None in splits.values() or not any(len(path.parts) > 1 for path in paths):
        return {}
    return {name: split for name, split in splits.items() if split is not None}


def _merged_classes(
    found: Mapping[str, Mapping[str, list[str]]],
) -> tuple[tuple[str, ...], dict[str, dict[str, tuple[str, ...]]], tuple[str, ...]]:
    """Return the classes that the folders spell, the files of each split and class, and notes."""
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
        classes: what each class folder's images are called (by default, as the folder); those that
            are missing are left out.
        face_of: from a file's bytes to its face.
        quiet: draw no progress bar.

    Returns:
        Each split, its classes sorted by name and the same in all. What cannot be read is in its
        ``skipped``, with the reason.

    Raises:
        DataError: if no image can be read.
    """
    named = {name: name for name in listed.classes} if classes is None else dict(classes)
    labels = tuple(sorted(set(named.values())))
    source = FolderSource(listed.folder)
    total = sum(len(listed.files[split].get(name, ())) for split in splits for name in named)
    loaded = {}
    with Progress(f"reading {listed.folder.name}", total, unit="img", quiet=quiet) as progress:
        for split in splits:
            rows: list[tuple[str, int, npt.NDArray[np.uint8]]] = []
            skipped: list[Skipped] = []
            for name, members in listed.files[split].items():
                for member in members if name in named else ():
                    progress.advance()
                    try:
                        face = face_of(source.read(member))
                    except MienError as error:
                        # Errors about bytes begin with "image"; here the file's name does.
                        skipped.append(Skipped(member, str(error).removeprefix("image ")))
                        continue
                    rows.append((member, labels.index(named[name]), face))
            loaded[split] = Split.of(split, rows, skipped, labels)
    if not any(len(split) for split in loaded.values()):
        failed = [one for split in loaded.values() for one in split.skipped]
        why = f": {failed[0]}" if failed else ""
        raise DataError(f"no image in {listed.folder} can be used{why}")
    return loaded


def hold_out(split: Split, *, fraction: float, seed: int) -> tuple[Split, Split]:
    """Split images into "train" and "val".

    The choice is stratified and depends on the files' names and the seed alone. Of each class at
    least one image is held out and at least two are not. Copies of one image stay together, in
    train.
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
    """Return the same images as a split of another name, without what was skipped."""
    return replace(split, name=name, skipped=(), resized=())


# ---------------------------------------------------------------- renaming (--map)
def parse_map(text: str) -> dict[str, str]:
    """Parse ``--map``: which class becomes which.

    Args:
        text: ``a=b,c=d``, or a file with one ``a=b`` a line (``#`` begins a comment) or, named
            ``.json``, one object. An empty name (``a=``) leaves the class out.

    Raises:
        UsageError: if it is neither, or a class is mapped twice.
    """
    path, where = Path(text), f"--map {text}"
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        is_file = False
    if not is_file:
        if "=" not in text:
            raise UsageError(f"{where}: no such file, and not a=b,c=d")
        return _checked(_pairs(text.split(","), "--map"), "--map")
    try:
        content = path.read_text(encoding="utf-8")
        parsed = json.loads(content) if path.suffix.lower() == ".json" else None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{where} cannot be read: {error}") from error
    if path.suffix.lower() != ".json":
        lines = [line.partition("#")[0] for line in content.splitlines()]
        return _checked(_pairs([part for line in lines for part in line.split(",")], where), where)
    if not isinstance(parsed, dict) or not all(isinstance(one, str) for one in parsed.values()):
        raise UsageError(f'{where}: expected one object of texts, as {{"a": "b"}}')
    return _checked(list(parsed.items()), where)


def _pairs(parts: Iterable[str], where: str) -> list[tuple[str, str]]:
    pairs = []
    for part in filter(str.strip, parts):
        name, equals, target = part.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{where}: {part.strip()!r} is not as CLASS=NEW")
        pairs.append((name.strip(), target.strip()))
    return pairs


def _checked(pairs: Sequence[tuple[str, str]], where: str) -> dict[str, str]:
    if not pairs:
        raise UsageError(f"{where}: maps nothing, expected CLASS=NEW")
    mapped: dict[str, str] = {}
    for name, target in pairs:
        if mapped.setdefault(name, target) != target:
            raise UsageError(f"{where}: {name} becomes {mapped[name]} and {target}: choose one")
    return mapped


def named_classes(classes: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Return what each class folder's images are called; a class that is left out is missing.

    ``mapping`` is as `parse_map` returns it; its names may be synonyms (``anger`` for ``angry``).

    Raises:
        UsageError: if the mapping names a class that is not there.
    """
    named = {name: name for name in classes}
    spelt = {plain_label(name): name for name in classes}
    chosen: dict[str, str] = {}
    for name, target in mapping.items():
        found = match_label(name, classes)
        if found is None:
            raise UsageError(
                f"--map {name}={target}: there is no class {name!r}: {expectation(name, classes)}"
            )
        if chosen.setdefault(found, target) != target:
            raise UsageError(f"--map: {found} becomes {chosen[found]} and {target}: choose one")
        # A class is spelt as its folder, else as the first name mapped to it.
        named[found] = spelt.setdefault(plain_label(target), target) if target else ""
    return {name: target for name, target in named.items() if target}


def meanings_of(named: Mapping[str, str]) -> dict[str, list[str]]:
    """Return which class folders each class is made of, from `named_classes`."""
    meanings: dict[str, list[str]] = {}
    for name, target in sorted(named.items()):
        meanings.setdefault(target, []).append(name)
    return meanings


# ---------------------------------------------------------------- a model's labels
def label_for(
    name: str, labels: Sequence[str], meanings: Mapping[str, Sequence[str]] | None = None
) -> str | None:
    """Return the label of the same name or emotion as a class, or that it is part of; else None.

    ``meanings`` says which names labels are made of (``{"negative": ["angry", "sad"]}``).
    """
    found = match_label(name, labels)
    if found is not None:
        return found
    for label, parts in (meanings or {}).items():
        if label in labels and match_label(name, parts) is not None:
            return label
    return None


def fit_labels(
    split: Split, labels: Sequence[str], meanings: Mapping[str, Sequence[str]] | None = None
) -> tuple[Split, dict[str, int]]:
    """Translate a split's classes to a model's labels by name, as `label_for`.

    Returns:
        The split with the model's classes, and how many images were left out of each class that the
        model lacks.

    Raises:
        DataError: if the model knows no class of which there are images.
    """
    counts = {name: count for name, count in split.class_counts().items() if count}
    places = {name: label_for(name, labels, meanings) for name in split.classes}
    left_out = {name: count for name, count in counts.items() if places[name] is None}
    if len(left_out) == len(counts):
        raise DataError(
            f"none of the classes {', '.join(counts)} is one of the model's: "
            f"{', '.join(labels)}; rename them with --map"
        )
    indices = [-1 if place is None else list(labels).index(place) for place in places.values()]
    translated = np.array(indices, np.int64)[split.labels]
    renamed = replace(split, labels=translated, classes=tuple(labels))
    return renamed.take(translated >= 0), left_out
