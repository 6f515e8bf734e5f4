"""Folder of a training run: its files and how they are written, each one atomically.

::

    outputs/<run>/
      config.toml         the recipe, with every key
      environment.json    versions, machine, working directory, seed, data, hashes of the inputs
      history.csv         one row per validation
      curves.png          the history as a plot, drawn by mien train
      best.keras          the network of the best epoch (averaged weights, chosen on val)
      checkpoint.npz      everything that --resume needs
      summary.json        figures of the best epoch, once the run has ended
"""

from __future__ import annotations

import csv
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

import mien
from mien.core.errors import InputError, OutputError, UsageError
from mien.core.files import replace_atomically
from mien.core.process import package_version, stderr
from mien.core.progress import format_duration

ARCHIVE_ERRORS = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What NumPy may raise when it reads a damaged ``.npz`` file."""

_PACKAGES = (
    *("keras", "tensorflow", "tensorflow-cpu", "torch", "jax", "numpy"),
    *("opencv-python-headless", "scikit-learn", "onnx", "onnxruntime"),
)


class _RunFile:
    """Descriptor: the path of a file in the run's folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: RunFolder, _: type[RunFolder]) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files; the module's docstring says what they hold."""

    path: Path

    config = _RunFile("config.toml")
    environment = _RunFile("environment.json")
    history = _RunFile("history.csv")
    curves = _RunFile("curves.png")
    best = _RunFile("best.keras")
    checkpoint = _RunFile("checkpoint.npz")
    summary = _RunFile("summary.json")

    @property
    def name(self) -> str:
        """Name of the run: that of its folder."""
        return self.path.name


def new_run(path: Path) -> RunFolder:
    """Return the folder of a new run, without creating it.

    Raises:
        UsageError: if the folder holds a run, or a file that a run would overwrite.
    """
    run = RunFolder(path)
    if run.config.exists():
        raise UsageError(f"{path} holds a run already: choose another --run, or --resume {path}")
    files = (run.environment, run.history, run.curves, run.best, run.checkpoint, run.summary)
    for file in files:
        if file.exists():
            raise UsageError(f"{file} exists and belongs to no run: choose another --run")
    return run


def open_run(path: Path) -> RunFolder:
    """Return the folder of an existing run; raises InputError if there is none at that path."""
    run = RunFolder(path)
    if not run.config.is_file():
        raise InputError(f"{path} is not a run: expected a folder with config.toml in it")
    return run


def remove_partial_files(run: RunFolder) -> None:
    """Remove the temporary files that a killed process left behind."""
    for path in run.path.glob(".*.part*"):
        path.unlink(missing_ok=True)


# ---------------------------------------------------------------- writing
@contextmanager
def saving(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces ``path`` at the end, or is removed on an exception.

    Raises:
        OutputError: on an OSError inside; an existing file at ``path`` is left unchanged.
    """
    try:
        with replace_atomically(path) as temporary:
            yield temporary
    except OutputError as error:
        raise OutputError(
            f"{error}; what was saved before is kept: free space, or fix the folder's "
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
    """Write the history, at least one row, as CSV; raises as `saving`."""
    with saving(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def report_epoch(row: Mapping[str, Any], *, total: int, best: bool) -> None:
    """Print a row of the history on stderr; ``total`` is the number of epochs."""
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
    """Read one of a run's JSON files, {} if it is missing; raises InputError if it is damaged."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is not JSON ({error})") from error
    return content if isinstance(content, dict) else {}


def starting_directory(run: RunFolder) -> Path:
    """Return the working directory a run was started in, to which its relative paths refer.

    The current one if that is unknown or no longer exists; raises as `read_json`.
    """
    folder = Path(str(read_json(run.environment).get("folder", "")))
    return folder if os.path.isdir(folder) else Path()  # noqa: PTH112 - may be another user's


# ---------------------------------------------------------------- environment
def describe_environment() -> dict[str, Any]:
    """Return versions, machine and working directory as JSON-serialisable values."""
    versions = {"mien": mien.__version__}  # the code's own: an editable install's may be outdated
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
    """Return the Git commit of the code, None outside a checkout."""
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
