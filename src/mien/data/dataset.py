"""An in-memory data set split, its ``.npz`` file, and the record of a model's training images."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, error_reason
from mien.core.files import sha256_of, write_atomically
from mien.core.images import FACE_SIZE

SPLITS: tuple[str, ...] = ("train", "val", "test")
"""Training, PublicTest and PrivateTest of the challenge."""

ARRAYS_SUFFIX = ".npz"
"""Suffix of the files that `save_splits` writes."""

RECORD = "trained_on.json"
"""Name of the `TrainedOn` file in the folders of a run and of its exported model."""

_RECORD_SCHEMA = "mien-trained-on/1"


@dataclass(frozen=True)
class Skipped:
    """A file that could not be used, and the reason."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file} {self.reason}"


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        name: "train", "val" or "test"; "all" for a class folder without splits.
        images: uint8 (N, 48, 48), grey.
        labels: int64 (N,), indices into ``classes``.
        files: N paths relative to the data set's root, as ``train/angry/Training_1.png``.
        skipped: files that could not be used.
        resized: the entries of ``files`` whose images were not 48x48.
        classes: class names; the seven emotions by default.

    Raises:
        DataError: if the arrays have another type or do not match in length.
    """

    name: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    files: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    resized: tuple[str, ...] = ()
    classes: tuple[str, ...] = EMOTIONS

    def __post_init__(self) -> None:
        expected = (len(self.labels), FACE_SIZE, FACE_SIZE)
        if self.images.dtype != np.uint8 or self.images.shape != expected:
            raise DataError(
                f"expected images as uint8 {expected}, got {self.images.dtype} {self.images.shape}"
            )
        if len(self.files) != len(self.labels):
            raise DataError(f"{len(self.files)} file names for {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def class_counts(self) -> dict[str, int]:
        """Return the number of images of each class, in the order of ``classes``."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def take(self, keep: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Split:
        """Select images by a boolean mask (N,) or an array of indices."""
        indices = np.flatnonzero(keep) if keep.dtype == np.bool_ else keep
        files = tuple(self.files[index] for index in indices)
        kept = set(files)
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            files=files,
            resized=tuple(file for file in self.resized if file in kept),
        )


def clean_mask(split: Split, train: Split) -> npt.NDArray[np.bool_]:
    """Mark the images (N,) of ``split`` that have no pixel-identical copy in ``train``."""
    train_images = {image.tobytes() for image in train.images}
    return np.array([image.tobytes() not in train_images for image in split.images], np.bool_)


# ---------------------------------------------------------------- .npz files
def save_splits(path: Path, splits: Mapping[str, Split]) -> None:
    """Write splits to one ``.npz`` file; raises OutputError."""
    arrays: dict[str, npt.NDArray[np.uint8] | npt.NDArray[np.int64]] = {}
    for name, split in splits.items():
        names = {
            "files": split.files,
            "skipped": [(skipped.file, skipped.reason) for skipped in split.skipped],
            "resized": split.resized,
            "classes": split.classes,
        }
        arrays[f"{name}_images"] = split.images
        arrays[f"{name}_labels"] = split.labels
        # JSON escapes non-ASCII characters, undecodable bytes of file names included.
        arrays[f"{name}_names"] = np.frombuffer(json.dumps(names).encode("ascii"), np.uint8)
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    write_atomically(path, stream.getvalue())


def load_splits(path: Path, names: Sequence[str] | None = None) -> dict[str, Split]:
    """Read the named splits (default: all) of a file written by `save_splits`.

    Raises:
        DataError: if the file is missing, damaged or of another kind.
    """
    try:
        # Opened here because NumPy leaks a file that is not an npz.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            if names is None:
                keys = [key for key in arrays.files if key.endswith("_images")]
                names = [key.removesuffix("_images") for key in keys]
            return {name: _unpack_split(name, arrays) for name in names}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error_reason(error)}") from error
    # Damage raises many kinds of errors (zip, zlib, npy header, JSON, shapes).
    except Exception as error:
        raise DataError(
            f"{path} is damaged or not a data set of mien ({error_reason(error)}): create it again"
        ) from error


def _unpack_split(name: str, arrays: np.lib.npyio.NpzFile) -> Split:
    names = json.loads(arrays[f"{name}_names"].tobytes())
    return Split(
        name,
        arrays[f"{name}_images"],
        arrays[f"{name}_labels"],
        tuple(names["files"]),
        tuple(Skipped(file, reason) for file, reason in names["skipped"]),
        tuple(names["resized"]),
        tuple(names.get("classes", EMOTIONS)),
    )


# ---------------------------------------------------------------- training images of a model
@dataclass(frozen=True)
class TrainedOn:
    """SHA-256 hashes (hexadecimal) of the images that a model was trained on.

    Each image has two: of its 48x48 grey pixels, which finds copies in other formats, and of its
    file's bytes, which finds a photo whatever face was cropped from it.

    Attributes:
        train: hashes of the training images.
        val: hashes of the images that the best epoch was chosen on.
    """

    train: frozenset[str]
    val: frozenset[str]


def image_hashes(split: Split, folder: Path | None = None) -> list[tuple[str, ...]]:
    """Return the hashes of each image of a split, see `TrainedOn`.

    Without ``folder``, and for files that cannot be read in it, only the pixels are hashed.
    """
    hashes: list[tuple[str, ...]] = []
    for image, file in zip(split.images, split.files, strict=True):
        pixels = hashlib.sha256(image.tobytes()).hexdigest()
        try:
            hashes.append((pixels,) if folder is None else (pixels, sha256_of(folder / file)))
        except (OSError, ValueError):
            hashes.append((pixels,))
    return hashes


def write_record(
    path: Path,
    splits: Mapping[str, Split],
    folder: Path | None = None,
    *,
    before: TrainedOn | None = None,
) -> None:
    """Write the hashes of the splits "train" and "val"; raises OutputError.

    Args:
        path: the file to write.
        splits: at least "train" and "val".
        folder: where the splits' files are, see `image_hashes`.
        before: the record of the model that training started from, whose hashes are included.
    """
    content: dict[str, object] = {"schema": _RECORD_SCHEMA}
    for name in ("train", "val"):
        earlier: frozenset[str] = frozenset() if before is None else getattr(before, name)
        content[name] = sorted(earlier.union(*image_hashes(splits[name], folder)))
    write_atomically(path, (json.dumps(content, indent=0) + "\n").encode())


def find_record(*folders: str | Path | None) -> TrainedOn | None:
    """Return the record in the first of the folders that has one, or None.

    Bundled models, which are given by name (a string), have no record.

    Raises:
        DataError: if the record cannot be read or is damaged.
    """
    paths = [folder / RECORD for folder in folders if isinstance(folder, Path)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != _RECORD_SCHEMA:
            raise ValueError(f"its schema is not {_RECORD_SCHEMA}")
        return TrainedOn(*(frozenset(map(str, content[name])) for name in ("train", "val")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} is not a readable record of a model's training images ({error}): "
            "restore it, or delete it to continue without"
        ) from error


def seen_masks(
    split: Split, record: TrainedOn, folder: Path | None = None
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Mark the images (N,) of a split that a model was trained on, and validated on.

    An image in both is only marked as trained on. ``folder`` is as in `image_hashes`.
    """
    hashes = image_hashes(split, folder)
    trained = np.array([not record.train.isdisjoint(own) for own in hashes], np.bool_)
    validated = np.array([not record.val.isdisjoint(own) for own in hashes], np.bool_)
    return trained, validated & ~trained
