"""Pack for an offline machine: code, faces, votes, starting weights and Python packages.

Faces are stored as one lossless WebP image, duplicates once: 50 MB for FER-2013, 59 as ``.npz``.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mien.core.errors import DataError, InputError, UsageError
from mien.core.files import replace_atomically
from mien.core.images import FACE_SIZE
from mien.data.dataset import Split, save_splits
from mien.data.loading import load_dataset
from mien.training.backend import prepare_keras
from mien.training.recipe import Config

FACES, START, VOTES, SITE = "faces.pack.npz", "start.npz", "votes.csv", "site"

SPLITS = ("train", "val")
"""Splits in a pack; PrivateTest, which no decision depends on, is left out."""

PACKAGES = ("keras", "namex", "optree", "rich", "markdown-it-py", "mdurl", "pygments")
"""Packages that training needs besides torch and its dependencies."""

_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
_COLUMNS = 160


def make_pack(
    root: Path,
    data: Path | str,
    target: Path,
    *,
    start: Config | None,
    votes: Path | None = None,
    python: str = "3.12",
    packages: Sequence[str] = PACKAGES,
) -> int:
    """Make a pack in a new folder, with a zip next to it, and return the zip's size in bytes.

    Args:
        root: the checkout.
        data: the data set, as for `mien.data.loading.load_dataset`.
        target: folder of the pack; ``target.zip`` is the file to copy to the machine.
        start: recipe of the student whose starting weights are packed; None packs none.
        votes: a file of FER+ votes to include.
        python: Python version of the machine, which runs Linux on x86-64.
        packages: requirements to install with pip, without their dependencies.

    Raises:
        DataError: if the data cannot be used.
        InputError: if a package or the weights are unavailable.
        UsageError: if the folder exists.
    """
    if target.exists():
        raise UsageError(f"{target} exists: delete it, or name another folder")
    splits = load_dataset(data, splits=SPLITS)
    target.mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__", "models", "tests", "*.onnx", "*.png")
    for name in ("src", "lab"):
        shutil.copytree(root / name, target / name, ignore=ignored)
    shutil.copy(root / "Makefile", target)
    if packages:
        _install(packages, target / SITE, python)
    if start is not None:
        _write_start(start, target / START)
    if votes is not None:
        shutil.copy(votes, target / VOTES)
    write_faces(target / FACES, splits)
    return Path(shutil.make_archive(str(target), "zip", target)).stat().st_size


def write_faces(path: Path, splits: Mapping[str, Split]) -> None:
    """Write the images, labels and names of splits."""
    images = np.concatenate([split.images for split in splits.values()])
    flat, indices = np.unique(images.reshape(len(images), -1), axis=0, return_inverse=True)
    rows = -(-len(flat) // _COLUMNS)
    tiles = np.zeros((rows * _COLUMNS, FACE_SIZE, FACE_SIZE), np.uint8)
    tiles[: len(flat)] = flat.reshape(-1, FACE_SIZE, FACE_SIZE)
    sheet = tiles.reshape(rows, _COLUMNS, FACE_SIZE, FACE_SIZE).transpose(0, 2, 1, 3)
    webp = io.BytesIO()
    picture = Image.fromarray(sheet.reshape(rows * FACE_SIZE, _COLUMNS * FACE_SIZE))
    picture.convert("RGB").save(webp, "WEBP", lossless=True, method=3)
    names = json.dumps({name: split.files for name, split in splits.items()})
    arrays: dict[str, npt.NDArray[np.uint8] | npt.NDArray[np.int64]] = {
        "faces": np.frombuffer(webp.getvalue(), np.uint8),
        "places": indices.reshape(-1).astype(np.int64),
        "names": np.frombuffer(names.encode(), np.uint8),
    }
    arrays |= {f"{name}_labels": split.labels for name, split in splits.items()}
    with replace_atomically(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


def unpack_faces(pack: Path, target: Path) -> None:
    """Write a pack's images as a data set in one file, unless it exists.

    Raises:
        InputError: if there is no pack.
        DataError: if it is damaged.
    """
    if target.is_file():
        return
    try:
        with np.load(pack / FACES, allow_pickle=False) as stored:
            sheet = np.asarray(Image.open(io.BytesIO(stored["faces"].tobytes())).convert("L"))
            names = json.loads(stored["names"].tobytes().decode())
            indices = stored["places"]
            labels = {name: stored[f"{name}_labels"] for name in names}
    except FileNotFoundError as error:
        raise InputError(f"no pack in {pack}: expected the folder of make lab-pack") from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{pack / FACES} is damaged: make a new pack") from error
    tiles = sheet.reshape(-1, FACE_SIZE, _COLUMNS, FACE_SIZE).transpose(0, 2, 1, 3)
    images = tiles.reshape(-1, FACE_SIZE, FACE_SIZE)[indices]
    splits, first = {}, 0
    for name, files in names.items():
        last = first + len(files)
        splits[name] = Split(name, images[first:last].copy(), labels[name], tuple(files))
        first = last
    save_splits(target, splits)


def _install(packages: Sequence[str], folder: Path, python: str) -> None:
    """Install packages for another machine into a folder."""
    if importlib.util.find_spec("pip") is None:
        raise InputError("downloading packages needs pip: python -m ensurepip")
    options = [
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--only-binary=:all:",
        "--python-version",
        python,
    ]
    options += [part for platform in _PLATFORMS for part in ("--platform", platform)]
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), *packages],
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"pip cannot download {', '.join(packages)}: {reason}")


def prepare(seed: int) -> None:
    """Set up and seed Keras, which builds, reads and writes networks on the CPU."""
    os.environ.setdefault("KERAS_TORCH_DEVICE", "cpu")
    prepare_keras("torch")
    import keras

    keras.utils.set_random_seed(seed)


def _write_start(config: Config, path: Path) -> None:
    """Write a recipe's starting weights as float16; the rounding does not matter for training."""
    from mien.training.model import build_model

    prepare(config.training.seed)
    model = build_model(config.model, size=config.model.input_size)
    arrays = [np.asarray(array, np.float16) for array in model.get_weights()]
    with replace_atomically(path) as temporary:
        np.savez_compressed(temporary, *arrays)


def unpack_start(pack: Path, config: Config, target: Path) -> None:
    """Write the starting network of a recipe from a pack, unless it exists.

    Raises:
        InputError: if the pack has no such weights.
    """
    from mien.training.architectures import update_normalization
    from mien.training.model import build_model

    if target.is_file():
        return
    prepare(config.training.seed)
    model = build_model(config.model, size=config.model.input_size, initialise=False)
    try:
        with np.load(pack / START, allow_pickle=False) as stored:
            model.set_weights([stored[name].astype(np.float32) for name in stored.files])
    except (OSError, ValueError) as error:
        raise InputError(
            f"{pack / START} is missing or from another recipe: make a new pack"
        ) from error
    update_normalization(model)
    with replace_atomically(target) as temporary:
        model.save(temporary)
