"""A run's folder on disk, and its records: each file is written whole or not at all.

::

    outputs/<run>/
      config.toml         the recipe, every key spelled out
      environment.json    versions, machine, working folder, seed, data, hashes of what goes in
      history.csv         one row a validation
      curves.png          the same as a picture, of mien train
      best.keras          the network of the best epoch (averaged weights, chosen on val)
      checkpoint.npz      everything that --resume needs
      summary.json        the best epoch's figures, once the run has ended
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import subprocess
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import mien
from mien.core.errors import InputError, OutputError, UsageError
from mien.core.files import replace_atomically
from mien.core.process import package_version, stderr
from mien.core.progress import format_duration

_PACKAGES = (
    *("keras", "tensorflow", "tensorflow-cpu", "torch", "jax", "numpy"),
    *("opencv-python-headless", "scikit-learn", "onnx", "onnxruntime"),
)


class _File:
    """The path of one of a run's files."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: RunFolder, _: type[RunFolder]) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run; see the module for what the files hold."""

    path: Path

    config = _File("config.toml")
    environment = _File("environment.json")
    history = _File("history.csv")
    curves = _File("curves.png")
    best = _File("best.keras")
    checkpoint = _File("checkpoint.npz")
    summary = _File("summary.json")

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        return self.path.name


def new_run(path: Path) -> RunFolder:
    """Return the folder of a run that is to be; it is not made here.

    Raises:
        UsageError: if a run is there already, or a file that a run would write over.
    """
    run = RunFolder(path)
    if run.config.exists():
        raise UsageError(f"{path} holds a run already: choose another --run, or --resume {path}")
    files = (run.environment, run.history, run.curves, run.best, run.checkpoint, run.summary)
    for file in files:
        if file.exists():
            raise UsageError(f"{file} is there already, and is no run's: choose another --run")
    return run


def open_run(path: Path) -> RunFolder:
    """Return an existing run's folder; raises InputError if there is no run at that path."""
    run = RunFolder(path)
    if not run.config.is_file():
        raise InputError(f"{path} is not a run: expected a folder with config.toml in it")
    return run


def remove_leftovers(run: RunFolder) -> None:
    """Remove what a killed run was just writing."""
    for path in run.path.glob(".*.part*"):
        path.unlink(missing_ok=True)


# ---------------------------------------------------------------- writing
@contextmanager
def saving(path: Path) -> Iterator[Path]:
    """Give a temporary file beside a run's file, to replace it at the end: whole or not at all.

    Raises:
        OutputError: if there is an OSError inside; an older file at ``path`` stays as it was.
    """
    try:
        with replace_atomically(path) as temporary:
            yield temporary
    except OutputError as error:
        raise OutputError(
            f"{error}; what was saved before is kept: free space, or mend the folder's "
            f"permissions, then mien train --resume {path.parent}"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file; raises as `saving`."""
    with saving(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file; raises as `saving`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the history as CSV, at least one row; raises as `saving`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def report_epoch(row: Mapping[str, Any], *, total: int, best: bool) -> None:
    """Write a row of the history on stderr, of so many epochs."""
    stderr().write(
        f"epoch {row['epoch']:>3}/{total}  {row['phase']:<9}  "
        f"{row['size']:>3} px  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}  "
        f"val_loss {row['val_loss']:.4f}  val_accuracy {row['val_accuracy']:.4f}  "
        f"val_macro_f1 {row['val_macro_f1']:.4f}  rate {row['learning_rate']:.1e}  "
        f"{format_duration(row['seconds'])}{'  best' if best else ''}\n"
    )
    stderr().flush()


# ---------------------------------------------------------------- reading
def read_json(path: Path) -> dict[str, Any]:
    """Return what a run's JSON file holds, {} if there is none; raises InputError if damaged."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is not JSON ({error})") from error
    return content if isinstance(content, dict) else {}


def begun_in(run: RunFolder) -> Path:
    """Return the folder in which a run was begun, which its recipe's paths are relative to.

    The present one if that is not known or no longer there; raises as `read_json`.
    """
    folder = Path(str(read_json(run.environment).get("folder", "")))
    return folder if os.path.isdir(folder) else Path()  # noqa: PTH112 - may be another user's


# ---------------------------------------------------------------- checkpoints
_STATE_KEY = "state"
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What NumPy may raise for an archive that is damaged."""


def write_checkpoint(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], state: Mapping[str, Any]
) -> None:
    """Write arrays by name and what else JSON can hold into one file; raises as `saving`."""
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    with saving(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **{**arrays, _STATE_KEY: text})  # type: ignore[arg-type]


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return what `write_checkpoint` wrote, the state first; raises InputError."""
    try:
        # Opened here, because NumPy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return json.loads(arrays.pop(_STATE_KEY).tobytes().decode()), arrays
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: this run has no checkpoint to resume from") from error
    except DAMAGED as error:
        message = f"{path} is damaged: restore it from a copy, or start the run anew"
        raise InputError(message) from error


# ---------------------------------------------------------------- environment
def describe_environment() -> dict[str, Any]:
    """Return versions, machine and working folder as JSON-ready values."""
    versions = {"mien": mien.__version__}  # of the code, whatever an editable install says
    for package in _PACKAGES:
        if version := package_version(package):
            versions[package] = version
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "folder": str(Path.cwd()),
        "packages": versions,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Return the commit of the checkout that the code stands in, if it is one."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
