"""What classes are called: renaming and merging with ``--map``, and matching a model's labels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mien.core.emotions import match_label, plain_label
from mien.core.errors import DataError, UsageError
from mien.data.dataset import Split


def parse_map(text: str) -> dict[str, str]:
    """Read what ``--map`` says: which class becomes which.

    Args:
        text: ``a=b,c=d``, or a file with one ``a=b`` a line (``#`` begins a comment) or, named
            ``.json``, one object. An empty name (``a=``) leaves the class out.

    Raises:
        UsageError: if it is neither, or a class is mapped twice.
    """
    path = Path(text)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        is_file = False
    if not is_file:
        if "=" not in text:
            raise UsageError(f"--map {text}: no such file, and not a=b,c=d")
        return _pairs(text.split(","), "--map")
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            return _from_json(json.loads(content), text)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--map {text} cannot be read: {error}") from error
    lines = [line.partition("#")[0] for line in content.splitlines()]
    return _pairs([part for line in lines for part in line.split(",")], f"--map {text}")


def _from_json(content: object, text: str) -> dict[str, str]:
    if not isinstance(content, dict) or not all(isinstance(one, str) for one in content.values()):
        raise UsageError(f'--map {text}: expected one object of texts, as {{"a": "b"}}')
    return _checked([(key, value) for key, value in content.items()], f"--map {text}")


def _pairs(parts: Iterable[str], where: str) -> dict[str, str]:
    pairs = []
    for part in parts:
        if not part.strip():
            continue
        name, equals, target = part.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{where}: {part.strip()!r} is not as CLASS=NEW")
        pairs.append((name.strip(), target.strip()))
    return _checked(pairs, where)


def _checked(pairs: Sequence[tuple[str, str]], where: str) -> dict[str, str]:
    if not pairs:
        raise UsageError(f"{where}: maps nothing, expected CLASS=NEW")
    mapped: dict[str, str] = {}
    for name, target in pairs:
        if name in mapped and mapped[name] != target:
            raise UsageError(f"{where}: {name} becomes {mapped[name]} and {target}: choose one")
        mapped[name] = target
    return mapped


def named_classes(classes: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Return what each class folder's images are called; a class that is left out is missing.

    Args:
        classes: the folders' names.
        mapping: see `parse_map`; its names may be synonyms (``anger`` for a folder ``angry``).

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
                f"--map {name}={target}: there is no class {name!r}, "
                f"expected one of {', '.join(classes)}"
            )
        if chosen.setdefault(found, target) != target:
            raise UsageError(f"--map: {found} becomes {chosen[found]} and {target}: choose one")
        # A class is spelt as its folder is, or as the first that becomes it.
        named[found] = spelt.setdefault(plain_label(target), target) if target else ""
    return {name: target for name, target in named.items() if target}


def meanings_of(named: Mapping[str, str]) -> dict[str, list[str]]:
    """Return of which class folders each class is made, from `named_classes`."""
    meanings: dict[str, list[str]] = {}
    for name, target in sorted(named.items()):
        meanings.setdefault(target, []).append(name)
    return meanings


def label_for(
    name: str, labels: Sequence[str], meanings: Mapping[str, Sequence[str]] | None = None
) -> str | None:
    """Return the label that a class belongs to, or None: the same name or emotion, or part of it.

    Args:
        name: of the class.
        labels: to choose from.
        meanings: names of which labels are made (``{"negative": ["angry", "sad"]}``).
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
    """Give a split a model's labels.

    Args:
        split: its classes are translated by name, as `label_for`.
        labels: the model's.
        meanings: see `label_for`.

    Returns:
        The split with the model's classes, and how many images of each class that the model lacks
        were left out.

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
    known = split.take(translated >= 0)
    return (
        Split(
            known.name,
            known.images,
            translated[translated >= 0],
            known.files,
            known.skipped,
            known.resized,
            tuple(labels),
        ),
        left_out,
    )
