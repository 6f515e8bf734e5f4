from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.core.errors import InputError, OutputError
from mien.training.checkpoint import (
    all_variables,
    is_finite,
    read_state,
    restore_variables,
    save_checkpoint,
)
from mien.training.run_state import RunState
from mien.training.stages import Stage, compiled_model
from training_maker import tiny_config

STATE = RunState(epoch=2, step=1, loss_sum=0.1, history=[{"epoch": 1, "loss": 1 / 3}], data="ab")

pytestmark = pytest.mark.usefixtures("keras_ready")


def compiled(**changes: Any) -> Any:
    return compiled_model(tiny_config(**changes), Stage(-1, 32), initialise=True)


@pytest.fixture(scope="module")
def model(keras_ready: None) -> Any:
    """A compiled network whose every variable, the optimizer's too, has a value of its own."""
    model = compiled()
    random = np.random.default_rng(0)
    for variable in all_variables(model):
        value = variable.numpy()
        variable.assign(np.asarray(random.uniform(1, 100, value.shape)).astype(value.dtype))
    return model


def values(model: Any) -> list[np.ndarray[Any, Any]]:
    return [np.array(variable.numpy()) for variable in all_variables(model)]


def test_a_checkpoint_brings_every_variable_and_the_state_back(tmp_path: Path, model: Any) -> None:
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, model, STATE)
    other = compiled()
    assert not np.array_equal(values(other)[0], values(model)[0])
    restore_variables(path, other)
    for first, second in zip(values(other), values(model), strict=True):
        assert np.array_equal(first, second)
    assert read_state(path) == STATE
    # Weights, both seeds of dropout, moments, averages, the step and the rate.
    weights = len(model.weights)
    trained = len(model.trainable_variables)
    assert len(all_variables(model)) == weights + 1 + 3 * trained + 2
    faces = np.full((1, 48, 48, 1), 99, np.float32)
    assert np.array_equal(np.asarray(other(faces)), np.asarray(model(faces)))


def test_infinity_in_the_state_survives(tmp_path: Path, model: Any) -> None:
    save_checkpoint(tmp_path / "c.npz", model, RunState())
    assert math.isinf(read_state(tmp_path / "c.npz").plateau_loss)


def test_nan_anywhere_is_found() -> None:
    model = compiled()
    assert is_finite(model)
    variable = model.optimizer.variables[-1]
    value = np.array(variable.numpy())
    value.flat[-1] = np.nan
    variable.assign(value)
    assert not is_finite(model)


def test_a_missing_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        read_state(tmp_path / "checkpoint.npz")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_said(tmp_path: Path, model: Any, share: float) -> None:
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, model, STATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="is damaged"):
        read_state(path)


def test_damage_in_a_variable_is_said(tmp_path: Path, model: Any) -> None:
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, model, STATE)
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        restore_variables(path, model)


def test_a_checkpoint_of_another_recipe_is_said(tmp_path: Path, model: Any) -> None:
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, model, STATE)
    for changes in ({"model_plain_channels": [4, 9]}, {"training_ema": 0.0}):
        other = compiled(**changes)
        before = values(other)
        with pytest.raises(InputError, match="written by another recipe or version of Keras"):
            restore_variables(path, other)
        assert all(np.array_equal(a, b) for a, b in zip(values(other), before, strict=True))


def test_a_state_of_an_older_version_is_read_and_of_a_newer_one_refused(tmp_path: Path) -> None:
    def write(state: dict[str, Any]) -> Path:
        text = np.frombuffer(json.dumps(state).encode(), np.uint8)
        np.savez(tmp_path / "c.npz", state=text)
        return tmp_path / "c.npz"

    assert read_state(write({"epoch": 4, "step": 2})) == RunState(epoch=4, step=2)
    with pytest.raises(InputError, match="holds mood, which this version of mien does not know"):
        read_state(write({"epoch": 4, "mood": 1}))


def test_a_full_disk_leaves_the_older_checkpoint_whole(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, model, STATE)
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match=r"No space left.*saved before is kept.*--resume"):
        save_checkpoint(path, model, RunState())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_a_limit_that_the_system_sets_is_said_for_checkpoint_and_network(
    tmp_path: Path, model: Any
) -> None:
    """The real thing: the system refuses to let a file grow, in the middle of writing it."""
    resource = pytest.importorskip("resource")
    from mien.training.run_folder import saving

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 100, 5_000):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            with pytest.raises(OutputError, match="cannot write"):
                save_checkpoint(tmp_path / "checkpoint.npz", model, STATE)
            with (
                pytest.raises(OutputError, match="cannot write"),
                saving(tmp_path / "best.keras") as temporary,
            ):
                model.save(temporary)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
