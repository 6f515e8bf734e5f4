"""The state of a run and its checkpoint: all that going on exactly needs, in one file."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mien.core.errors import InputError
from mien.training.model import refresh
from mien.training.run_folder import write_atomically

_STATE_KEY = "state"


@dataclass
class RunState:
    """Where a run stands. The one mutable record of the trainer.

    Attributes:
        epoch: the epoch that is under way, counted from 0 through both phases.
        step: steps of it that are done.
        best_accuracy: best validation accuracy so far, and `best_epoch` its epoch.
        stale_epochs: epochs since then.
        loss_sum: of the losses of this epoch's steps, and `accuracy_sum` of their accuracies.
        plateau_scale: what the "plateau" schedule multiplies the rate with.
        plateau_loss: lowest validation loss so far, and `plateau_wait` the epochs since.
        seconds: time spent training, of all sittings.
        epoch_seconds: of that, time spent in this epoch.
        stopped_early: early stopping has ended the run.
        history: one row an epoch.
    """

    epoch: int = 0
    step: int = 0
    best_accuracy: float = -1.0
    best_epoch: int = -1
    stale_epochs: int = 0
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    plateau_scale: float = 1.0
    plateau_loss: float = float("inf")
    plateau_wait: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    stopped_early: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)


def all_variables(model: Any) -> list[Any]:
    """Return every variable of a compiled model that training changes, in a fixed order.

    Weights, the states of dropout's generators, and the optimizer's moments and moving averages.
    """
    return [*model.variables, *model.optimizer.variables]


def save_checkpoint(path: Path, model: Any, state: RunState) -> None:
    """Write a checkpoint, whole or not at all; raises OutputError if there is no room."""
    arrays = {
        f"variable{index:04d}": np.asarray(variable.numpy())
        for index, variable in enumerate(all_variables(model))
    }
    text = json.dumps(dataclasses.asdict(state))
    arrays[_STATE_KEY] = np.frombuffer(text.encode(), np.uint8)

    def write(file: Path) -> None:
        with file.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    write_atomically(path, write)


def read_state(path: Path) -> RunState:
    """Read where a run stood.

    Raises:
        InputError: if the checkpoint is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return RunState(**json.loads(file[_STATE_KEY].tobytes().decode()))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: this run has no checkpoint to resume from") from error
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged: start the run anew") from error


def restore_variables(path: Path, model: Any) -> None:
    """Fill a compiled model with a checkpoint of the same recipe.

    Raises:
        InputError: if the checkpoint does not fit the model.
    """
    variables = all_variables(model)
    with np.load(path, allow_pickle=False) as file:
        names = sorted(name for name in file.files if name != _STATE_KEY)
        if len(names) != len(variables):
            raise InputError(
                f"{path} holds {len(names)} variables, this network and optimizer have "
                f"{len(variables)}: it was written by another recipe or version of Keras"
            )
        for variable, name in zip(variables, names, strict=True):
            variable.assign(file[name])
    refresh(model)


def copy_variables(source: list[Any], target: list[Any]) -> None:
    """Copy variables one to one."""
    for old, new in zip(source, target, strict=True):
        new.assign(old.numpy())
