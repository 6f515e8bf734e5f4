"""Tiny data sets for tests: each class has a pattern that a small network learns fast."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS, FER2013_CSV_ORDER
from mien.data.dataset import Split

PREFIXES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
USAGES = PREFIXES


def pattern(label: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return a noisy 48x48 image: a bright disc whose place on a circle tells the class."""
    angle = 2 * np.pi * label / len(EMOTIONS)
    rows, columns = np.mgrid[0:48, 0:48]
    row, column = 24 + 14 * np.sin(angle), 24 + 14 * np.cos(angle)
    disc = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 6.0**2))
    noisy = 40 + 160 * disc + rng.normal(0, 12, (48, 48))
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def make_tiny_split(name: str, *, per_class: int = 4, seed: int = 0) -> Split:
    """Return a split in memory with ``per_class`` images of each emotion."""
    rng = np.random.default_rng([seed, list(PREFIXES).index(name)])
    labels = np.repeat(np.arange(len(EMOTIONS)), per_class).astype(np.int64)
    images = np.stack([pattern(int(label), rng) for label in labels])
    files = tuple(
        f"{name}/{EMOTIONS[label]}/{PREFIXES[name]}_{1000 * label + place % per_class}.png"
        for place, label in enumerate(labels)
    )
    return Split(name, images, labels, files)


def make_tiny_splits(*, per_class: int = 4, seed: int = 0) -> dict[str, Split]:
    """Return train (``per_class`` images a class), val and test (half as many, at least one)."""
    fewer = max(1, per_class // 2)
    sizes = {"train": per_class, "val": fewer, "test": fewer}
    return {name: make_tiny_split(name, per_class=n, seed=seed) for name, n in sizes.items()}


def write_tiny_dataset(
    folder: Path, *, per_class: int = 4, seed: int = 0, kaggle: bool = False
) -> Path:
    """Write ``make_tiny_splits`` as files below ``folder`` and return it.

    ``train|val|test/CLASS/*.png``; with ``kaggle`` JPEGs, no ``val``, and its files in ``test``.
    """
    ending = ".jpg" if kaggle else ".png"
    for split in make_tiny_splits(per_class=per_class, seed=seed).values():
        for image, file in zip(split.images, split.files, strict=True):
            name = file.replace("val/", "test/", 1) if kaggle else file
            path = (folder / name).with_suffix(ending)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv2.imencode(ending, image)[1].tobytes())
    return folder


def zip_folder(folder: Path, target: Path, *, top: str = "") -> Path:
    """Zip the files below ``folder``, their names after ``top``, and return ``target``."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{top}{path.relative_to(folder).as_posix()}")
    return target


def write_tiny_csv(path: Path, *, per_class: int = 2, seed: int = 0) -> Path:
    """Write ``make_tiny_splits`` as the challenge's CSV, train, val, test; return ``path``."""
    with path.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(["emotion", "pixels", "Usage"])
        for name, split in make_tiny_splits(per_class=per_class, seed=seed).items():
            for image, label in zip(split.images, split.labels, strict=True):
                code = FER2013_CSV_ORDER.index(EMOTIONS[label])
                writer.writerow([code, " ".join(map(str, image.ravel())), USAGES[name]])
    return path
