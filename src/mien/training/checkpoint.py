"""A run's checkpoint: all that going on exactly needs, in one file."""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import InputError
from mien.training.model import refresh
from mien.training.run_folder import saving
from mien.training.run_state import RunState

_STATE_KEY = "state"
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def all_variables(model: Any) -> list[Any]:
    """Return every variable of a compiled model that training changes, in a fixed order.

    Weights, the states of dropout's generators, and the optimizer's moments and moving averages.
    """
    return [*model.variables, *model.optimizer.variables]


def is_finite(model: Any) -> bool:
    """Tell whether no variable of a compiled model holds NaN or infinity."""
    return all(np.isfinite(variable.numpy()).all() for variable in all_variables(model))


def save_checkpoint(path: Path, model: Any, state: RunState) -> None:
    """Write a checkpoint, whole or not at all; raises OutputError if there is no room."""
    variables = enumerate(all_variables(model))
    arrays = {f"variable{index:04d}": np.asarray(variable.numpy()) for index, variable in variables}
    save_arrays(path, arrays, state)


def save_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]], state: RunState) -> None:
    """Write a checkpoint of arrays by name; otherwise as `save_checkpoint`."""
    text = json.dumps(dataclasses.asdict(state))
    everything = {**arrays, _STATE_KEY: np.frombuffer(text.encode(), np.uint8)}
    with saving(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **everything)  # type: ignore[arg-type]


def read_state(path: Path) -> RunState:
    """Read where a run stood.

    Raises:
        InputError: if the checkpoint is missing, damaged, or of a newer version.
    """
    try:
        # Opened here, because NumPy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            values = json.loads(file[_STATE_KEY].tobytes().decode())
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: this run has no checkpoint to resume from") from error
    except _DAMAGED as error:
        raise _damaged(path) from error
    known = {item.name for item in dataclasses.fields(RunState)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(
            f"{path} holds {', '.join(unknown)}, which this version of mien does not know: "
            "resume with the version that wrote it"
        )
    return RunState(**values)


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a checkpoint by name; raises InputError if it is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if name != _STATE_KEY}
    except _DAMAGED as error:
        raise _damaged(path) from error


def restore_variables(path: Path, model: Any) -> None:
    """Fill a compiled model with a checkpoint of the same recipe.

    Raises:
        InputError: if the checkpoint is damaged or does not fit the model.
    """
    variables = all_variables(model)
    arrays = read_arrays(path)
    values = [arrays[name] for name in sorted(arrays)]
    expected = [tuple(variable.shape) for variable in variables]
    if [value.shape for value in values] != expected:
        raise InputError(
            f"{path} holds {len(values)} variables that are not the {len(expected)} of this "
            "network and its optimizer: it was written by another recipe or version of Keras"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    refresh(model)


def copy_variables(source: Sequence[Any], target: Sequence[Any]) -> None:
    """Copy variables one to one."""
    for old, new in zip(source, target, strict=True):
        new.assign(old.numpy())


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged: restore it from a copy, or start the run anew")
