"""Hashes of the images that a model was trained on, so that an evaluation leaves them out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mien.core.errors import DataError
from mien.core.files import sha256_of, write_atomically
from mien.data.dataset import Split

RECORD = "trained_on.json"
"""The file's name, in a run's folder and in that of the model that is exported from it."""

SCHEMA = "mien-trained-on/1"


@dataclass(frozen=True)
class TrainedOn:
    """SHA-256 in hexadecimal, two of each image: of its 48x48 grey pixels and of its file's bytes.

    The first finds copies in other formats, the second a photo whatever face was cut out of it.

    Attributes:
        train: of the images that the model was trained on.
        val: of those that its best epoch was chosen on.
    """

    train: frozenset[str]
    val: frozenset[str]


def hashes(split: Split, folder: Path | None = None) -> list[tuple[str, ...]]:
    """Return the hashes of each image of a split, see `TrainedOn`.

    Args:
        split: the images.
        folder: where its files are; those that cannot be read, or all without it, have only the
            hash of their pixels.
    """
    found: list[tuple[str, ...]] = []
    for image, file in zip(split.images, split.files, strict=True):
        pixels = hashlib.sha256(image.tobytes()).hexdigest()
        try:
            found.append((pixels,) if folder is None else (pixels, sha256_of(folder / file)))
        except (OSError, ValueError):
            found.append((pixels,))
    return found


def write_record(
    path: Path,
    splits: Mapping[str, Split],
    folder: Path | None = None,
    *,
    before: TrainedOn | None = None,
) -> None:
    """Write the hashes of "train" and "val".

    Args:
        path: the record's.
        splits: what the model is trained on, and chosen on.
        folder: as `hashes` has it.
        before: the record of the model that the training starts from.

    Raises:
        OutputError: if it cannot be written.
    """
    content: dict[str, object] = {"schema": SCHEMA}
    for name in ("train", "val"):
        known: set[str] = set() if before is None else set(getattr(before, name))
        content[name] = sorted(known.union(*hashes(splits[name], folder)))
    write_atomically(path, (json.dumps(content, indent=0) + "\n").encode())


def find_record(*folders: str | Path | None) -> TrainedOn | None:
    """Return the record in the first of the folders that has one; a bundled model's name has none.

    Raises:
        DataError: if it cannot be read or is damaged.
    """
    paths = [folder / RECORD for folder in folders if isinstance(folder, Path)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        return TrainedOn(*(frozenset(map(str, content[name])) for name in ("train", "val")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} does not tell which images the model was trained on ({error}): "
            "restore it, or delete it to do without"
        ) from error


def seen_masks(
    split: Split, record: TrainedOn, folder: Path | None = None
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Mark the images (N,) of a split that a model was trained on, and that it was chosen on."""
    each = hashes(split, folder)
    trained = np.array([not record.train.isdisjoint(one) for one in each], np.bool_)
    chosen = np.array([not record.val.isdisjoint(one) for one in each], np.bool_)
    return trained, chosen & ~trained
