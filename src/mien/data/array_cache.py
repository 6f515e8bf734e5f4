"""The arrays of a data set as one file: in mien's cache folder, or as a data set of its own."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, OutputError
from mien.core.files import cache_folder, write_atomically
from mien.data.dataset import Skipped, Split

_log = logging.getLogger(__name__)

_FORMAT = "2"
"""Raise it when reading or the layout of the cache changes."""


def cache_path(source: Path, state: str) -> Path:
    """Return where the arrays of ``source`` are kept while it is in ``state`` (a digest)."""
    where = hashlib.sha256(str(source.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    what = hashlib.sha256(f"{_FORMAT}\0{state}".encode()).hexdigest()
    return cache_folder() / "datasets" / f"{where[:16]}-{what[:16]}.npz"


def read(path: Path, splits: Sequence[str]) -> dict[str, Split] | None:
    """Return the splits, or None if they are not there or damaged (which is logged)."""
    try:
        # The file is opened here since numpy forgets to close one that is no npz.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: _unpack(name, arrays) for name in splits}
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None  # not there, or in another user's folder: then writing says so
    # Damage shows in many ways (zip, zlib, npy header, JSON, shapes); each means: read it again.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        _log.warning("the cached data set %s is damaged (%s): reading it again", path, reason)
        return None


def write(path: Path, splits: dict[str, Split]) -> None:
    """Keep the splits, and drop what was kept of the same source in another state.

    A cache that cannot be written is logged, not raised: the data is in memory all the same.
    """
    try:
        save(path, splits)
        for stale in path.parent.glob(f"{path.name.split('-')[0]}-*.npz"):
            if stale != path:
                stale.unlink(missing_ok=True)
    except (OutputError, OSError) as error:
        _log.warning("the data set is not cached: %s", error)


def save(path: Path, splits: Mapping[str, Split]) -> None:
    """Write splits into one file, whole or not at all; raises OutputError."""
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
        # JSON escapes what is not ASCII, undecodable bytes of file names included.
        arrays[f"{name}_names"] = np.frombuffer(json.dumps(names).encode("ascii"), np.uint8)
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    write_atomically(path, stream.getvalue())


def load(path: Path) -> dict[str, Split]:
    """Read all splits of a file that `save` wrote.

    Raises:
        DataError: if it is missing, damaged or another kind of file.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            ending = "_images"
            names = [key.removesuffix(ending) for key in arrays.files if key.endswith(ending)]
            return {name: _unpack(name, arrays) for name in names}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # as above, damage shows in many ways
        raise DataError(f"{path} is damaged or no data set of mien: make it again") from error


def _unpack(name: str, arrays: np.lib.npyio.NpzFile) -> Split:
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
