"""The data set in memory: images, labels and the names of the files they came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError
from mien.core.faces import FACE_SIZE

SPLITS: tuple[str, ...] = ("train", "val", "test")
"""Training, PublicTest and PrivateTest of the challenge."""


@dataclass(frozen=True)
class Skipped:
    """A file that was left out while reading, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        name: "train", "val" or "test".
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
        """Check that the parts fit together."""
        expected = (len(self.labels), FACE_SIZE, FACE_SIZE)
        if self.images.dtype != np.uint8 or self.images.shape != expected:
            raise DataError(
                f"expected images as uint8 {expected}, got {self.images.dtype} {self.images.shape}"
            )
        if len(self.files) != len(self.labels):
            raise DataError(f"{len(self.files)} file names for {len(self.labels)} labels")

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.labels)

    def class_counts(self) -> dict[str, int]:
        """Return how many images each class has, in the order of ``classes``."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def take(self, keep: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Split:
        """Return the images that a mask (N,) or an array of indices selects."""
        indices = np.flatnonzero(keep) if keep.dtype == np.bool_ else keep
        files = tuple(self.files[index] for index in indices)
        chosen = set(files)
        resized = tuple(file for file in self.resized if file in chosen)
        images, labels = self.images[indices], self.labels[indices]
        return Split(self.name, images, labels, files, self.skipped, resized, self.classes)


def clean_mask(split: Split, train: Split) -> npt.NDArray[np.bool_]:
    """Mark the images of ``split`` (N,) that have no pixel-identical copy in ``train``."""
    seen = {image.tobytes() for image in train.images}
    return np.array([image.tobytes() not in seen for image in split.images], dtype=np.bool_)
