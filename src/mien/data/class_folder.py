"""Image folders with any classes: ``FOLDER/[train|val|test/]CLASS/IMAGE``.

Mappings (``--map``) rename and merge classes. The caller chooses how a file becomes a face: as a
face crop, or by a detector.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mien.core.emotions import match_label, normalize_label
from mien.core.errors import DataError, UsageError, expected_one_of
from mien.core.file_types import IMAGE_SUFFIXES
from mien.core.files import read_text
from mien.core.progress import Progress
from mien.data.dataset import SPLITS, Skipped, Split, clean_mask
from mien.data.loading import collect_splits, decode_entries, decode_face
from mien.data.sources import (
    Entry,
    FolderSource,
    choose_validation,
    is_leftover,
    not_an_image,
    split_of,
)

UNSPLIT = "all"
"""Name of the only split of a folder without ``train|val|test``."""

FaceDecoder: TypeAlias = Callable[[bytes], npt.NDArray[np.uint8]]
"""From a file's bytes to its standard face, uint8 (48, 48); raises MienError without a face."""


@dataclass(frozen=True)
class ClassFolder:
    """The classes and files of a folder, listed by name.

    Attributes:
        folder: the folder.
        classes: class names, sorted; some may have no images.
        files: paths relative to the folder, by split ("train", "val", "test", or only "all") and
            class.
        skipped: files that are left out, and why.
        notes: remarks on classes that are spelt in several ways.
    """

    folder: Path
    classes: tuple[str, ...]
    files: Mapping[str, Mapping[str, tuple[str, ...]]]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have images."""
        return tuple(name for name, classes in self.files.items() if any(classes.values()))


# ---------------------------------------------------------------- listing
def list_class_folder(folder: Path) -> ClassFolder:
    """List the class folders and their files; links are followed.

    Names that mean the same to `mien.core.emotions.match_label`, as ``Angry`` in train and
    ``anger`` in val, are one class, named as in the first split. Within one split only spellings of
    the same word are merged: ``calm`` next to ``neutral`` is a deliberate distinction.

    Raises:
        DataError: if the folder does not exist, or has no class folders.
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
            split = split_folders[path.parts[0]] if depth else UNSPLIT
            found.setdefault(split, {}).setdefault(path.name, [])
    for member in sorted(source.members):
        path = PurePosixPath(member)
        if is_leftover(member):
            continue
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            skipped.append(Skipped(member, not_an_image(path)))
        elif len(path.parts) < depth + 2:
            skipped.append(Skipped(member, "is not in a class folder"))
        else:
            split = split_folders[path.parts[0]] if depth else UNSPLIT
            found[split][path.parts[depth]].append(member)
    classes, files, notes = _merge_spellings(found)
    if not classes:
        first_refused = "".join(f": {refused}" for refused in source.refused[:1])
        raise DataError(
            f"no class folders in {folder}: expected {folder / 'CLASS' / 'IMAGE'}, "
            f"or train, val and test with such folders in them{first_refused}"
        )
    return ClassFolder(folder, classes, files, tuple(skipped), notes)


def _split_folders(source: FolderSource) -> dict[str, str]:
    """Return the split of each top folder; empty unless all of them are named after splits."""
    paths = [PurePosixPath(name) for name in source.folders if not is_leftover(name)]
    splits = {path.name: split_of(path.name) for path in paths if len(path.parts) == 1}
    if None in splits.values() or not any(len(path.parts) > 1 for path in paths):
        return {}
    return {name: split for name, split in splits.items() if split is not None}


def _merge_spellings(
    found: Mapping[str, Mapping[str, list[str]]],
) -> tuple[tuple[str, ...], dict[str, dict[str, tuple[str, ...]]], tuple[str, ...]]:
    """Merge folders that spell one class; return classes, files by split and class, and notes."""
    classes: list[str] = []
    files: dict[str, dict[str, tuple[str, ...]]] = {}
    notes: list[str] = []
    for split in [name for name in (*SPLITS, UNSPLIT) if name in found]:
        earlier = tuple(classes)
        folders: dict[str, list[str]] = {}
        for folder in sorted(found[split]):
            name = match_label(folder, classes)
            same_word = name is not None and normalize_label(name) == normalize_label(folder)
            if name is None or not (name in earlier or same_word):
                if name is not None:
                    notes.append(
                        f"{name} and {folder} mean the same emotion but are two classes here: "
                        f"merge them with --map {folder}={name}"
                    )
                name = unicodedata.normalize("NFC", folder).strip() or folder
                classes.append(name)
            folders.setdefault(name, []).append(folder)
        where = "" if split == UNSPLIT else f" of {split}"
        notes += [
            f"the folders {', '.join(map(repr, spellings))}{where} are one class: {name}"
            for name, spellings in folders.items()
            if len(spellings) > 1
        ]
        files[split] = {
            name: tuple(member for folder in spellings for member in found[split][folder])
            for name, spellings in folders.items()
        }
    names = tuple(sorted(classes))
    complete = {
        split: {name: members.get(name, ()) for name in names} for split, members in files.items()
    }
    return names, complete, tuple(notes)


# ---------------------------------------------------------------- reading
def read_class_folder(
    listed: ClassFolder,
    *,
    splits: Sequence[str],
    classes: Mapping[str, str] | None = None,
    decoder: FaceDecoder = decode_face,
    quiet: bool = False,
) -> dict[str, Split]:
    """Read the images of splits into memory.

    Args:
        listed: the folder, see `list_class_folder`.
        splits: which of ``listed.splits`` to read.
        classes: the class of each class folder's images (default: its name), see
            `resolve_mapping`; folders that are missing are left out.
        decoder: how a file becomes a face; by default files are face crops.
        quiet: show no progress bar.

    Returns:
        The splits, all with the same classes, sorted by name. Unreadable files are in `skipped`.

    Raises:
        DataError: if no image can be read.
    """
    mapping = {name: name for name in listed.classes} if classes is None else dict(classes)
    labels = tuple(sorted(set(mapping.values())))
    entries = [
        Entry(split, labels.index(mapping[name]), member, member)
        for split in splits
        for name, members in listed.files[split].items()
        if name in mapping
        for member in members
    ]
    source, label = FolderSource(listed.folder), f"reading {listed.folder.name}"
    with Progress(label, len(entries), unit="img", quiet=quiet) as progress:
        decoded = decode_entries(source, entries, lambda data: (decoder(data), None), progress)
        loaded = collect_splits(decoded, dict.fromkeys(splits, ()), labels)
    if not any(len(split) for split in loaded.values()):
        skipped = [file for split in loaded.values() for file in split.skipped]
        first = f": {skipped[0]}" if skipped else ""
        raise DataError(f"no image in {listed.folder} can be used{first}")
    return loaded


def hold_out(split: Split, *, fraction: float, seed: int) -> tuple[Split, Split]:
    """Split images into "train" and "val".

    The choice is stratified and depends only on file names and seed. Of each class at least one
    image is held out and at least two are not. Copies of one image stay together, in train.
    """
    chosen: set[str] = set()
    for label in range(len(split.classes)):
        files = [split.files[index] for index in np.flatnonzero(split.labels == label)]
        count = min(max(1, round(fraction * len(files))), max(0, len(files) - 2))
        share = count / len(files) if files else 0.0
        chosen |= choose_validation(files, seed=seed, fraction=share)
    held_out = np.array([file in chosen for file in split.files], np.bool_)
    held_out &= clean_mask(split, split.take(~held_out))
    return (
        rename_split(split.take(~held_out), "train"),
        rename_split(split.take(held_out), "val"),
    )


def rename_split(split: Split, name: str) -> Split:
    """Return the images as a split of another name, without the lists of skipped and resized."""
    return replace(split, name=name, skipped=(), resized=())


# ---------------------------------------------------------------- mappings (--map)
def parse_mapping(text: str) -> dict[str, str]:
    """Parse ``--map`` into the new name of each renamed class.

    Args:
        text: ``a=b,c=d``, or a file with one ``a=b`` a line (``#`` begins a comment) or, named
            ``.json``, one object. An empty name (``a=``) leaves the class out.

    Raises:
        UsageError: if it is neither, or maps a class twice.
    """
    path = Path(text)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        is_file = False
    where = f"--map {text}" if is_file else "--map"
    if is_file:
        pairs = _read_pairs(path, where)
    elif "=" in text:
        pairs = _parse_pairs(text, where)
    else:
        raise UsageError(f"--map {text}: no such file, and not a=b,c=d")
    if not pairs:
        raise UsageError(f"{where}: expected CLASS=NEW, got an empty mapping")
    mapping: dict[str, str] = {}
    for name, new in pairs:
        if mapping.setdefault(name, new) != new:
            raise UsageError(f"{where}: {name} is mapped to {mapping[name]} and {new}: choose one")
    return mapping


def _read_pairs(path: Path, where: str) -> list[tuple[str, str]]:
    is_json = path.suffix.lower() == ".json"
    try:
        content = read_text(path, "utf-8")
        parsed = json.loads(content) if is_json else None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{where} cannot be read: {error}") from error
    if not is_json:
        lines = (line.partition("#")[0] for line in content.splitlines())
        return _parse_pairs(",".join(lines), where)
    if not isinstance(parsed, dict) or not all(isinstance(new, str) for new in parsed.values()):
        raise UsageError(f'{where}: expected one object of strings, as {{"a": "b"}}')
    return list(parsed.items())


def _parse_pairs(text: str, where: str) -> list[tuple[str, str]]:
    pairs = []
    for part in filter(str.strip, text.split(",")):
        name, equals, new = part.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{where}: expected CLASS=NEW, got {part.strip()!r}")
        pairs.append((name.strip(), new.strip()))
    return pairs


def resolve_mapping(classes: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Return the class of each class folder's images, without the folders that are left out.

    Args:
        classes: the class folders' names.
        mapping: see `parse_mapping`; its names may be synonyms (``anger`` for ``angry``).

    Raises:
        UsageError: if the mapping names a class that does not exist, or maps one twice.
    """
    resolved = {name: name for name in classes}
    spellings = {normalize_label(name): name for name in classes}
    chosen: dict[str, str] = {}
    for name, new in mapping.items():
        match = match_label(name, classes)
        if match is None:
            raise UsageError(
                f"--map {name}={new}: there is no class {name!r}: {expected_one_of(name, classes)}"
            )
        if chosen.setdefault(match, new) != new:
            raise UsageError(f"--map: {match} is mapped to {chosen[match]} and {new}: choose one")
        # A class is spelt like its folder, else like the first name mapped to it.
        resolved[match] = spellings.setdefault(normalize_label(new), new) if new else ""
    return {name: new for name, new in resolved.items() if new}


def merged_classes(resolved: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the class folders that each class is made of, from `resolve_mapping`."""
    parts: dict[str, list[str]] = {}
    for name, new in sorted(resolved.items()):
        parts.setdefault(new, []).append(name)
    return parts


# ---------------------------------------------------------------- a model's labels
def find_label(
    name: str, labels: Sequence[str], meanings: Mapping[str, Sequence[str]] | None = None
) -> str | None:
    """Return the label that a class belongs to, or None.

    Args:
        name: the label's own name, a synonym, or one of its meanings.
        labels: the labels to choose from.
        meanings: the classes that labels stand for (``{"negative": ["angry", "sad"]}``).
    """
    match = match_label(name, labels)
    if match is not None:
        return match
    for label, parts in (meanings or {}).items():
        if label in labels and match_label(name, parts) is not None:
            return label
    return None


def map_to_labels(
    split: Split, labels: Sequence[str], meanings: Mapping[str, Sequence[str]] | None = None
) -> tuple[Split, dict[str, int]]:
    """Translate a split's classes to a model's labels by name, see `find_label`.

    Returns:
        The split with the model's labels as classes, and the number of images left out of each
        class that the model lacks.

    Raises:
        DataError: if the model knows none of the classes that have images.
    """
    counts = {name: count for name, count in split.class_counts().items() if count}
    matches = {name: find_label(name, labels, meanings) for name in split.classes}
    left_out = {name: count for name, count in counts.items() if matches[name] is None}
    if len(left_out) == len(counts):
        raise DataError(
            f"none of the classes {', '.join(counts)} is one of the model's: "
            f"{', '.join(labels)}; rename them with --map"
        )
    indices = [-1 if label is None else list(labels).index(label) for label in matches.values()]
    translated = np.array(indices, np.int64)[split.labels]
    mapped = replace(split, labels=translated, classes=tuple(labels))
    return mapped.take(translated >= 0), left_out
