"""A run's folder on disk: what stands in it, and writing there so that nothing is ever half there.

::

    outputs/<run>/
      config.toml         the recipe, every key spelled out
      environment.json    versions, machine, seed, data
      history.csv         one row an epoch
      curves.png          the same as a picture
      best.keras          the network of the best epoch (averaged weights, chosen on val)
      checkpoint.npz      everything that --resume needs
      summary.json        the best epoch's figures, once the run has ended
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien.core.errors import InputError, OutputError, UsageError

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


def create_run(path: Path) -> RunFolder:
    """Make a new run's folder.

    Raises:
        UsageError: if a run is there already.
        OutputError: if the folder cannot be made.
    """
    run = RunFolder(path)
    if run.config.exists():
        raise UsageError(f"{path} holds a run already: choose another --run, or --resume {path}")
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
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


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into one clear line."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; what was saved before is kept "
            "(free space or permission, then mien train --resume)"
        ) from error


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: whole or not at all.

    Raises:
        OutputError: if it cannot be written; an older file at ``path`` stays as it was.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    with writing(path):
        try:
            write(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; raises as `write_atomically`."""
    write_atomically(path, lambda file: _write_utf8(file, text))


def _write_utf8(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all; raises as `write_atomically`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the history as CSV, whole or not at all; raises as `write_atomically`."""

    def write(file: Path) -> None:
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    if rows:
        write_atomically(path, write)


def describe_environment() -> dict[str, Any]:
    """Return versions and machine as JSON-ready values."""
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
