"""A data set in memory and as one ``.npz`` file; the record of what a model was trained on."""

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
from mien.core.errors import DataError, reason_of
from mien.core.faces import FACE_SIZE
from mien.core.files import sha256_of, write_atomically

SPLITS: tuple[str, ...] = ("train", "val", "test")
"""Training, PublicTest and PrivateTest of the challenge."""

ARRAYS_SUFFIX = ".npz"
"""Of a data set in one file, as `save_splits` writes it."""

RECORD = "trained_on.json"
"""The file of a `TrainedOn`, in a run's folder and in that of the model exported from it."""

_RECORD_SCHEMA = "mien-trained-on/1"


@dataclass(frozen=True)
class Skipped:
    """A file that was left out while reading, and why."""

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
        resized: those of ``files`` that had another size than 48x48.
        classes: the names of the classes; the seven emotions unless they are one's own.
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

    @classmethod
    def of(
        cls,
        name: str,
        rows: Sequence[tuple[str, int, npt.NDArray[np.uint8]]],
        skipped: Sequence[Skipped],
        classes: tuple[str, ...] = EMOTIONS,
    ) -> Split:
        """Make a split of files, each with its label and image, in this order."""
        images = np.array([image for _, _, image in rows], np.uint8)
        return cls(
            name,
            images.reshape(-1, FACE_SIZE, FACE_SIZE),
            np.array([label for _, label, _ in rows], np.int64),
            tuple(file for file, _, _ in rows),
            tuple(skipped),
            classes=classes,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def class_counts(self) -> dict[str, int]:
        """Return the number of images of each class, in the order of ``classes``."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def take(self, keep: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Split:
        """Return the images that a mask (N,) or an array of indices selects."""
        indices = np.flatnonzero(keep) if keep.dtype == np.bool_ else keep
        files = tuple(self.files[index] for index in indices)
        chosen = set(files)
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            files=files,
            resized=tuple(file for file in self.resized if file in chosen),
        )


def clean_mask(split: Split, train: Split) -> npt.NDArray[np.bool_]:
    """Mark the images of ``split`` (N,) that have no pixel-identical copy in ``train``."""
    seen = {image.tobytes() for image in train.images}
    return np.array([image.tobytes() not in seen for image in split.images], dtype=np.bool_)


# ---------------------------------------------------------------- as one file
def save_splits(path: Path, splits: Mapping[str, Split]) -> None:
    """Write splits into one ``.npz`` file; raises OutputError."""
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
    """Read the named splits of a file that `save_splits` wrote, all unless given.

    Raises:
        DataError: if it is missing, damaged or another kind of file.
    """
    try:
        # Opened here because NumPy leaks a file that is not an npz.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            if names is None:
                keys = [key for key in arrays.files if key.endswith("_images")]
                names = [key.removesuffix("_images") for key in keys]
            return {name: _unpacked(name, arrays) for name in names}
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason_of(error)}") from error
    # Damage raises many kinds of errors (zip, zlib, npy header, JSON, shapes).
    except Exception as error:
        raise DataError(
            f"{path} is damaged or no data set of mien ({reason_of(error)}): make it again"
        ) from error


def _unpacked(name: str, arrays: np.lib.npyio.NpzFile) -> Split:
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


# ---------------------------------------------------------------- what a model was trained on
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

    Files that cannot be read in ``folder``, or all without it, have only the hash of their pixels.
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
    """Write the hashes of "train" and "val", added to those of the model that was started from.

    Raises:
        OutputError: if it cannot be written.
    """
    content: dict[str, object] = {"schema": _RECORD_SCHEMA}
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
        if content["schema"] != _RECORD_SCHEMA:
            raise ValueError(f"its schema is not {_RECORD_SCHEMA}")
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
