"""A run's folder on disk: what stands in it, and writing there so that nothing is ever half there.

::

    outputs/<run>/
      config.toml         the recipe, every key spelled out
      environment.json    versions, machine, working folder, seed, data
      history.csv         one row an epoch
      curves.png          the same as a picture
      best.keras          the network of the best epoch (averaged weights, chosen on val)
      checkpoint.npz      everything that --resume needs
      summary.json        the best epoch's figures, once the run has ended
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien.core.errors import InputError, OutputError, UsageError
from mien.core.files import replacing

_PACKAGES = ("mien", "keras", "tensorflow", "tensorflow-cpu", "torch", "jax", "numpy")
_PACKAGES_OF_IMAGES = ("opencv-python-headless", "scikit-learn", "onnx", "onnxruntime")


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The recipe."""
        return self.path / "config.toml"

    @property
    def environment(self) -> Path:
        """Versions, machine and data."""
        return self.path / "environment.json"

    @property
    def history(self) -> Path:
        """One row an epoch."""
        return self.path / "history.csv"

    @property
    def curves(self) -> Path:
        """The history as a picture."""
        return self.path / "curves.png"

    @property
    def best(self) -> Path:
        """The network of the best epoch."""
        return self.path / "best.keras"

    @property
    def checkpoint(self) -> Path:
        """Everything that resuming needs."""
        return self.path / "checkpoint.npz"

    @property
    def summary(self) -> Path:
        """The best epoch's figures; there once the run has ended."""
        return self.path / "summary.json"


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
    """Return an existing run's folder.

    Raises:
        InputError: if there is no run at that path.
    """
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
        with replacing(path) as temporary:
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


# ---------------------------------------------------------------- where it ran
def begun_in(run: RunFolder) -> Path:
    """Return the folder in which a run was begun, from which its recipe's paths are meant.

    The present one if that is not known or there no more.

    Raises:
        InputError: if the run's ``environment.json`` is damaged.
    """
    folder = Path(str(read_json(run.environment).get("folder", "")))
    return folder if os.path.isdir(folder) else Path()  # noqa: PTH112 - may be another user's


def describe_environment() -> dict[str, Any]:
    """Return versions, machine and working folder as JSON-ready values."""
    versions = {}
    for package in (*_PACKAGES, *_PACKAGES_OF_IMAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
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
