"""A run as training leaves it, without the training: a small real network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from mien.core.emotions import EMOTIONS
from mien.training.recipe import Config, config_from_tables, config_to_toml

ROWS = (
    "epoch,phase,size,loss,accuracy,val_loss,val_accuracy,val_macro_f1,learning_rate,seconds\n"
    "1,head,32,1.9,0.2,1.8,0.25,0.2,0.001,1.0\n"
    "2,fine-tune,32,1.5,0.4,1.4,0.45,0.4,0.001,1.0\n"
    "3,fine-tune,32,1.4,0.5,1.5,0.41,0.38,0.001,1.0\n"
)
ENVIRONMENT = {
    "python": "3.11.7",
    "packages": {"keras": "3.10.0", "numpy": "2.0.0"},
    "commit": "abc1234",
    "data": {"train": dict.fromkeys(EMOTIONS, 12), "val": dict.fromkeys(EMOTIONS, 3)},
}


def tiny_config() -> Config:
    model = {
        "backbone": "Plain",
        "weights": "none",
        "input_size": 32,
        "plain_channels": [4, 8],
        "head_units": [16, 8],
        "head_dropout": [0.1, 0.1],
    }
    data = {"source": "some/where/faces.zip", "votes": "some/where/votes.csv"}
    distill = {"teachers": ["some/where/teacher"], "views": 2, "cache": "some/where/logits"}
    return config_from_tables({"data": data, "model": model, "distill": distill})


def tiny_network(*, seed: int = 0) -> Any:
    """A network whose answers differ clearly from face to face."""
    from mien.training.model import build_model

    network = build_model(tiny_config().model, size=32)
    random = np.random.default_rng(seed)
    for layer in network.layers:
        if type(layer).__name__ in ("Conv2D", "Dense"):
            values = [random.normal(0, 0.7, value.shape) for value in layer.get_weights()]
            layer.set_weights(values)
    return network


def write_tiny_run(
    folder: Path, *, ended: bool = True, seed: int = 0, targets: str = "labels"
) -> Path:
    """Write a run's folder; one that has not ended has no summary yet."""
    folder.mkdir(parents=True)
    config = tiny_config()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, targets=targets))
    (folder / "config.toml").write_text(config_to_toml(config))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (folder / "history.csv").write_text(ROWS)
    if ended:
        best = {"epoch": 2, "size": 32, "val_accuracy": 0.45, "val_macro_f1": 0.4, "val_loss": 1.4}
        summary = {"run": folder.name, "best": best, "epochs": 3}
        (folder / "summary.json").write_text(json.dumps(summary))
    tiny_network(seed=seed).save(folder / "best.keras")
    return folder
