"""The pack for a machine without a network: code, faces, starting weights and missing packages."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lab.gpu.codec import Faces, decode_faces, encode_faces
from mien.core.errors import DataError, InputError, OutputError, UsageError
from mien.core.faces import FACE_SIZE
from mien.core.files import replacing
from mien.data.dataset import Split
from mien.data.loading import load_dataset
from mien.training import lite0

DATA_NAME = "faces.pack.npz"
LITE0_NAME = "lite0.npz"
VOTES_NAME = "votes.zip"
WHEELS = "wheels"
MEGABYTE = 1_000_000

SPLITS = ("train", "val")
"""What a pack holds: of PrivateTest, which decides nothing, not one image."""

MISSING = ("keras", "namex", "optree")
"""Packages that a machine with JAX or torch may lack; all they need beside is there with those."""

_PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)
_CODE = ("src/mien", "configs", "lab", "Makefile", "pyproject.toml", "LICENSE")
_NOT_CODE = shutil.ignore_patterns("__pycache__", "models")
_MARK = ".mien-gpu-pack"
"""In a folder that may be emptied for another pack."""

_SHEET_COLUMNS = 160
_QUALITIES = (95, 92)


@dataclass(frozen=True)
class Packed:
    """What a pack came to.

    Attributes:
        sizes: bytes of each part, by name.
        quality: of the faces: "lossless" or JPEG's.
    """

    sizes: dict[str, int]
    quality: str

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.sizes.values())


def make_pack(
    root: Path,
    data: Path | str,
    target: Path,
    *,
    limit: int = 60 * MEGABYTE,
    votes: Path | None = None,
    python: str = "3.12",
    packages: Sequence[str] = MISSING,
    start: bool = True,
) -> Packed:
    """Make a pack in a folder, which is emptied first.

    The faces are packed without loss if that fits, else as JPEG of quality 95 or 92.

    Args:
        root: the project's folder.
        data: the data set, as `mien.data.loading.load_dataset` takes it.
        target: the pack's folder.
        limit: bytes at most.
        votes: a file of FER+ votes to take along.
        python: version that the packages are for, on Linux and x86-64.
        packages: to fetch with pip, each exactly as named.
        start: take Lite0's weights along.

    Raises:
        DataError: if the data cannot be used.
        InputError: if a package or the weights cannot be had.
        UsageError: if it cannot be made as small as the limit, or the folder is something else.
        OutputError: if it cannot be written.
    """
    splits = load_dataset(data, splits=SPLITS)
    _empty(target)
    _copy_code(root, target)
    _fetch(packages, target / WHEELS, python)
    if start:
        _write_lite0(target / LITE0_NAME)
    if votes is not None:
        _write_votes(votes, target / VOTES_NAME)
    left = limit - sum(_sizes(target).values())
    quality = write_faces(target / DATA_NAME, splits, limit=left)
    return Packed(_sizes(target), quality)


# ---------------------------------------------------------------- faces
def write_faces(path: Path, splits: dict[str, Split], *, limit: int) -> str:
    """Write faces, labels and names within a limit in bytes; return how the faces are packed.

    Raises:
        UsageError: if they do not fit.
    """
    images = np.concatenate([split.images for split in splits.values()])
    flat, places = np.unique(images.reshape(len(images), -1), axis=0, return_inverse=True)
    distinct = flat.reshape(-1, FACE_SIZE, FACE_SIZE)
    arrays: dict[str, npt.NDArray[Any]] = {"places": places.reshape(-1).astype(np.uint16)}
    if len(distinct) > np.iinfo(np.uint16).max:
        arrays["places"] = places.reshape(-1).astype(np.uint32)
    names = {name: split.files for name, split in splits.items()}
    arrays["names"] = np.frombuffer(json.dumps(names).encode(), np.uint8)
    for name, split in splits.items():
        arrays[f"{name}_labels"] = split.labels.astype(np.uint8)
    small = io.BytesIO()
    np.savez_compressed(small, **arrays)  # type: ignore[arg-type]
    room = limit - small.getbuffer().nbytes - 4096  # and a little for the archive itself
    quality, data = _pack_within(distinct, room)
    arrays["faces"] = np.frombuffer(data, np.uint8)
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    return quality


def _pack_within(faces: Faces, room: int) -> tuple[str, bytes]:
    data = encode_faces(faces)
    if len(data) <= room:
        return "lossless", data
    for quality in _QUALITIES:
        data = _encode_jpeg(faces, quality)
        if len(data) <= room:
            return f"JPEG {quality}", data
    raise UsageError(
        f"{len(faces)} faces take {len(data) / MEGABYTE:.1f} MB as JPEG {_QUALITIES[-1]}, "
        f"and {max(0, room) / MEGABYTE:.1f} MB are left: raise the limit"
    )


def read_faces(path: Path) -> dict[str, Split]:
    """Read what `write_faces` wrote.

    Raises:
        DataError: if it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            data = stored["faces"].tobytes()
            names = json.loads(stored["names"].tobytes().decode())
            places = stored["places"]
            labels = {name: stored[f"{name}_labels"].astype(np.int64) for name in names}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged: make the pack anew") from error
    distinct = _decode_jpeg(data) if data.startswith(b"\xff\xd8") else decode_faces(data)
    images, splits, start = distinct[places], {}, 0
    for name, files in names.items():
        end = start + len(files)
        splits[name] = Split(name, images[start:end].copy(), labels[name], tuple(files))
        start = end
    return splits


def _encode_jpeg(faces: Faces, quality: int) -> bytes:
    """Code a sheet of faces: each is six of JPEG's blocks wide, so none spoils its neighbour."""
    rows = -(-len(faces) // _SHEET_COLUMNS)
    whole = np.zeros((rows * _SHEET_COLUMNS, FACE_SIZE, FACE_SIZE), np.uint8)
    whole[: len(faces)] = faces
    tiles = whole.reshape(rows, _SHEET_COLUMNS, FACE_SIZE, FACE_SIZE)
    sheet = tiles.transpose(0, 2, 1, 3).reshape(rows * FACE_SIZE, _SHEET_COLUMNS * FACE_SIZE)
    options = (cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1)
    coded, data = cv2.imencode(".jpg", sheet, options)
    if not coded:
        raise DataError(f"{len(faces)} faces are too many for one JPEG sheet")
    return data.tobytes()


def _decode_jpeg(data: bytes) -> Faces:
    sheet = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if sheet is None:
        raise DataError("the packed faces are damaged: make the pack anew")
    rows = sheet.shape[0] // FACE_SIZE
    tiles = sheet.reshape(rows, FACE_SIZE, -1, FACE_SIZE).transpose(0, 2, 1, 3)
    return np.asarray(tiles.reshape(-1, FACE_SIZE, FACE_SIZE), np.uint8)


# ---------------------------------------------------------------- the rest
def _empty(target: Path) -> None:
    if target.exists():
        if any(target.iterdir()) and not (target / _MARK).is_file():
            raise UsageError(f"{target} holds other things: expected a new folder or an old pack")
        shutil.rmtree(target)
    try:
        target.mkdir(parents=True)
        (target / _MARK).touch()
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}") from error


def _copy_code(root: Path, target: Path) -> None:
    for name in _CODE:
        source, place = root / name, target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, ignore=_NOT_CODE)
        elif source.is_file():
            shutil.copy(source, place)
        else:
            raise InputError(f"{source} is missing: run this in the project's folder")


def _fetch(packages: Sequence[str], folder: Path, python: str) -> None:
    folder.mkdir()
    if not packages:
        return
    words = [*_pip(), "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    words += ["--disable-pip-version-check", "--implementation", "cp", "--python-version", python]
    words += [word for platform in _PLATFORMS for word in ("--platform", platform)]
    answer = subprocess.run(
        [*words, "--dest", str(folder), *packages], capture_output=True, text=True
    )
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"pip cannot fetch {', '.join(packages)}: {reason}")


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip3") or shutil.which("pip")
    if found is None:
        raise InputError("fetching packages takes pip: install it (python -m ensurepip)")
    return [found]


def _write_lite0(path: Path) -> None:
    """Write Lite0's backbone as float16: its rounding is far below what training changes."""
    arrays = lite0.read_legacy_checkpoint(lite0.lite0_file())
    kept = {
        name: array.astype(np.float16)
        for name, array in arrays.items()
        if array.ndim not in (0, 2)  # counters, and the classifier's matrix
    }
    order = np.frombuffer(json.dumps(list(kept)).encode(), np.uint8)
    with replacing(path) as temporary:
        np.savez_compressed(temporary, order=order, **kept)  # type: ignore[arg-type]


def _write_votes(source: Path, path: Path) -> None:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the votes {source}: {error.strerror}") from error
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr("votes.csv", content)


def _sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each part of a pack."""
    sizes: dict[str, int] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            top = path.relative_to(folder).parts[0]
            name = top if top in (DATA_NAME, LITE0_NAME, VOTES_NAME, WHEELS) else "code"
            sizes[name] = sizes.get(name, 0) + path.stat().st_size
    return sizes
