"""Tiny recipes, a network that learns the tiny data in seconds, and runs made without training."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from data_maker import make_tiny_splits
from mien.core.emotions import EMOTIONS
from mien.training.data import TrainingData
from mien.training.recipe import Config, config_from_tables, config_to_toml
from mien.training.run_folder import RunFolder

BATCH = 8
PER_CLASS = 4
"""Images a class: 28 in all, three batches of eight."""
STEPS = 3
RUN_FILES = {
    "config.toml",
    "environment.json",
    "history.csv",
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


# ---------------------------------------------------------------- a run without the training
HISTORY = (
    "epoch,phase,size,loss,accuracy,val_loss,val_accuracy,val_macro_f1,learning_rate,seconds\n"
    "1,head,32,1.9,0.2,1.8,0.25,0.2,0.001,1.0\n"
    "2,fine-tune,32,1.5,0.4,1.4,0.45,0.4,0.001,1.0\n"
    "3,fine-tune,32,1.4,0.5,1.5,0.41,0.38,0.001,1.0\n"
)
BEST = {"epoch": 2, "size": 32, "val_accuracy": 0.45, "val_macro_f1": 0.4, "val_loss": 1.4}
ENVIRONMENT = {
    "python": "3.11.7",
    "packages": {"keras": "3.10.0", "numpy": "2.0.0"},
    "commit": "abc1234",
    "data": {"train": dict.fromkeys(EMOTIONS, 12), "val": dict.fromkeys(EMOTIONS, 3)},
}


def run_config(targets: str = "labels") -> Config:
    """Return the recipe of a run that `write_tiny_run` writes."""
    return tiny_config(
        "some/where/faces.zip",
        data_votes="some/where/votes.csv",
        data_targets=targets,
        distill_teachers=["some/where/teacher"],
        distill_views=2,
        distill_cache="some/where/logits",
        model_head_units=[16, 8],
        model_head_dropout=[0.1, 0.1],
    )


def tiny_network(*, seed: int = 0) -> Any:
    """A network whose answers differ clearly from face to face."""
    from mien.training.model import build_model

    network = build_model(run_config().model, size=32)
    random = np.random.default_rng(seed)
    for layer in network.layers:
        if type(layer).__name__ in ("Conv2D", "Dense"):
            values = [random.normal(0, 0.7, value.shape) for value in layer.get_weights()]
            layer.set_weights(values)
    return network


def write_tiny_run(folder: Path, *, seed: int = 0, targets: str = "labels") -> Path:
    """Write the folder of a run that has ended."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(config_to_toml(run_config(targets)))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (folder / "history.csv").write_text(HISTORY)
    summary = {"run": folder.name, "best": BEST, "epochs": 3}
    (folder / "summary.json").write_text(json.dumps(summary))
    tiny_network(seed=seed).save(folder / "best.keras")
    return folder
