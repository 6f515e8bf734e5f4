"""Tiny recipes for tests of the training room: a network that learns the tiny data in seconds."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from data_maker import make_tiny_splits
from mien.training.data import TrainingData
from mien.training.recipe import Config, config_from_tables
from mien.training.run import RunFolder

BATCH = 8
PER_CLASS = 4
"""Images a class: 28 in all, three batches of eight."""
STEPS = 3
RUN_FILES = {
    "config.toml",
    "environment.json",
    "history.csv",
    "curves.png",
    "best.keras",
    "checkpoint.npz",
    "summary.json",
}
"""What a run that has ended leaves in its folder."""

_TABLES: dict[str, dict[str, Any]] = {
    "model": {
        "backbone": "Plain",
        "weights": "none",
        "input_size": 32,
        "head_units": [8],
        "head_dropout": [0.2],
        "batch_norm_momentum": 0.8,
        "plain_channels": [4, 8],
    },
    "augmentation": {"flip": 0.0},
    "training": {
        "seed": 3,
        "batch_size": BATCH,
        "head_epochs": 1,
        "epochs": 2,
        "learning_rate": 0.02,
        "ema": 0.5,
        "checkpoint_seconds": 1e9,
    },
}


def tiny_config(source: Path | str = "unused", **changes: Any) -> Config:
    """Return a recipe of a tiny network; change it by ``training_epochs=3`` and the like."""
    tables = {section: dict(table) for section, table in _TABLES.items()}
    tables["data"] = {"source": str(source)}
    tables["training"]["threads"] = threads()
    for name, value in changes.items():
        section, _, key = name.partition("_")
        tables.setdefault(section, {})[key] = value
    return config_from_tables(tables)


def tiny_training_data(per_class: int = PER_CLASS) -> TrainingData:
    """Return tiny images in memory, as a run takes them."""
    splits = make_tiny_splits(per_class=per_class)
    return TrainingData(splits["train"], splits["val"])


def threads() -> int:
    """Return how many threads TensorFlow runs with already (it can't be changed), else 1."""
    if "tensorflow" not in sys.modules:
        return 1
    import tensorflow

    return int(tensorflow.config.threading.get_intra_op_parallelism_threads())


def read_history(run: RunFolder | Path) -> list[dict[str, str]]:
    """Return the rows of a run's history, but for the seconds, which no two runs share."""
    path = run.history if isinstance(run, RunFolder) else run / "history.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"]
    return rows


def read_checkpoint(run: RunFolder | Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the variables in a run's checkpoint, by name."""
    path = run.checkpoint if isinstance(run, RunFolder) else run / "checkpoint.npz"
    with np.load(path) as file:
        return {name: file[name] for name in file.files if name != "state"}


def same_arrays(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Tell whether two dictionaries of arrays are equal bit for bit."""
    return list(first) == list(second) and all(
        np.array_equal(first[name], second[name]) for name in first
    )


def mien_process(*words: str, **environment: str) -> subprocess.Popen[str]:
    """Start ``mien`` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mien", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def wait_for(path: Path, process: subprocess.Popen[Any], *, seconds: float = 300) -> None:
    """Wait until a process has written a file; fails if it ends before that, or takes longer."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, f"ended without {path}: {process.communicate()}"
        assert time.monotonic() < deadline, f"no {path} after {seconds} s"
        time.sleep(0.05)
