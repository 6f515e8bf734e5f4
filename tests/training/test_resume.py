"""Resuming a stopped, killed or damaged run: exact, or refused with a reason."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.core.errors import DataError, InputError, OutputError, UsageError
from mien.training import data, trainer
from mien.training.model import compiled_model
from mien.training.recipe import config_to_toml, load_config
from mien.training.run_folder import (
    RunFolder,
    describe_environment,
    saving,
    starting_directory,
    write_json,
    write_text,
)
from mien.training.trainer import (
    RunState,
    TrainingStopped,
    all_variables,
    restore_variables,
    resume,
    save_checkpoint,
    train,
    variable_arrays,
)
from training_maker import (
    mien_process,
    read_checkpoint,
    read_history,
    same_arrays,
    tiny_config,
    wait_for,
)

Hook = Callable[..., None]


class Killed(BaseException):
    """Simulates the end of the process; the trainer must not catch it."""


def kill(*_: Any) -> None:
    raise Killed


def networks_agree(first: RunFolder, second: RunFolder) -> bool:
    from mien.training.model import load_keras_model

    weights = [load_keras_model(run.best).get_weights() for run in (first, second)]
    return all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


def agree(first: RunFolder, second: RunFolder) -> bool:
    """Return True if two runs have equal histories, variables and best networks."""
    return (
        read_history(first) == read_history(second)
        and same_arrays(read_checkpoint(first), read_checkpoint(second))
        and networks_agree(first, second)
    )


def after(name: str, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call ``hook(state)`` after a method of the trainer, which may take a state or nothing."""
    original = getattr(trainer.Trainer, name)

    def method(self: Any, *given: Any) -> Any:
        answer = original(self, *given)
        hook(*given[:1])
        return answer

    monkeypatch.setattr(trainer.Trainer, name, method)


def at(epoch: int, step: int, act: Callable[[], None]) -> Hook:
    return lambda state: act() if (state.epoch, state.step) == (epoch, step) else None


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def test_a_run_stopped_four_times_ends_as_if_never_stopped(
    whole_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(whole_run.config)
    run = RunFolder(tmp_path / "run")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:  # Ctrl-C in the middle of the head's epoch
        after("_train_step", at(0, 1, send(signal.SIGINT)), patch)
        with pytest.raises(
            TrainingStopped,
            match=f"in epoch 1 of 3 after step 1 of 3, all saved; .*--resume {run.path}",
        ):
            train(config, run.path, quiet=True)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert not run.history.exists()
    with monkeypatch.context() as patch:  # killed between the head's phase and fine-tuning
        after("_save_checkpoint", at(1, 0, kill), patch)
        with pytest.raises(Killed):
            resume(run.path, quiet=True)
    assert not run.history.exists()
    with monkeypatch.context() as patch:  # a polite kill in the middle of fine-tuning
        after("_train_step", at(1, 2, send(signal.SIGTERM)), patch)
        with pytest.raises(TrainingStopped):
            resume(run.path, quiet=True)
    # What the kill before left undone is there now.
    assert len(read_history(run)) == 1
    with monkeypatch.context() as patch:  # killed between the smaller and the larger size
        after("_save_checkpoint", at(2, 0, kill), patch)
        with pytest.raises(Killed):
            resume(run.path, quiet=True)
    assert agree(resume(run.path, quiet=True), whole_run)
    assert {path.name for path in run.path.iterdir()} == {
        path.name for path in whole_run.path.iterdir()
    }


def test_after_a_kill_between_best_network_and_checkpoint_the_step_is_repeated(
    whole_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(whole_run.config, ["training.checkpoint_seconds=0"])
    run = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        after("_save_best", kill, patch)
        with pytest.raises(Killed):
            train(config, run.path, quiet=True)
    assert run.best.exists()
    resumed = resume(run.path, quiet=True)
    assert read_history(resumed) == read_history(whole_run)
    assert networks_agree(resumed, whole_run)


def test_a_run_killed_at_a_random_moment_is_resumed(whole_run: RunFolder, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    config = load_config(whole_run.config, ["training.checkpoint_seconds=0"])
    recipe.write_text(config_to_toml(config), encoding="utf-8")
    run = RunFolder(tmp_path / "run")
    process = mien_process("train", "--config", str(recipe), "--run", str(run.path))
    wait_for(run.checkpoint, process)
    time.sleep(waited := random.uniform(0, 3))
    process.kill()
    _, output = process.communicate()
    # A line an epoch, and nothing of TensorFlow's.
    assert all(line.startswith("epoch ") for line in output.splitlines()), output
    # What it was just writing may be left half written beside the whole files.
    (run.path / ".checkpoint.npz.abc.part.npz").write_bytes(b"half")
    again = mien_process("train", "--resume", str(run.path), "--json", "--quiet")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, f"killed {waited} s after the first checkpoint: {err}"
    # The figures alone on stdout, and nothing on stderr.
    assert json.loads(out)["epochs"] == 3
    assert err == ""
    assert agree(run, whole_run), f"killed {waited} s after the first checkpoint"
    assert not list(run.path.glob(".*"))


# ---------------------------------------------------------------- without a step of training
@pytest.fixture
def copy(whole_run: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the complete run, which the test may change."""
    return RunFolder(Path(shutil.copytree(whole_run.path, tmp_path / "whole")))


def test_for_a_finished_run_only_the_summary_is_rewritten(
    whole_run: RunFolder, copy: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "load_dataset", kill)
    monkeypatch.setattr(trainer, "prepare_backend", kill)
    copy.summary.unlink()
    copy.history.unlink()
    resume(copy.path, quiet=True)
    for file in ("summary.json", "history.csv", "best.keras", "checkpoint.npz"):
        assert (copy.path / file).read_bytes() == (whole_run.path / file).read_bytes(), file


def test_a_run_without_a_checkpoint_starts_again(
    copy: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy.checkpoint.unlink()
    copy.history.unlink()
    steps: list[tuple[int, int]] = []

    def step(_: Any, state: Any, *__: Any) -> float:
        steps.append((state.epoch, state.step))
        raise Killed

    monkeypatch.setattr(trainer.Trainer, "_train_step", step)
    with pytest.raises(Killed):
        resume(copy.path, quiet=True)
    assert steps == [(0, 0)]


def test_a_missing_checkpoint_is_an_error(copy: RunFolder) -> None:
    copy.checkpoint.unlink()
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        resume(copy.path, quiet=True)


def test_a_damaged_checkpoint_is_an_error_and_not_changed(copy: RunFolder) -> None:
    content = copy.checkpoint.read_bytes()[:-100]
    copy.checkpoint.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        resume(copy.path, quiet=True)
    assert copy.checkpoint.read_bytes() == content


def test_an_unknown_key_is_an_error(copy: RunFolder) -> None:
    text = copy.config.read_text(encoding="utf-8")
    copy.config.write_text(text.replace("[training]", "[training]\nmagic = 3"), encoding="utf-8")
    with pytest.raises(UsageError, match=r"config.toml: unknown key training.magic: expected"):
        resume(copy.path, quiet=True)


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run: expected a folder with config"):
        resume(tmp_path, quiet=True)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_run_is_resumed_from_any_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    began, run = tmp_path / "began", RunFolder(tmp_path / "run")
    if is_there:
        began.mkdir()
    write_text(run.config, config_to_toml(tiny_config("archive")))
    write_json(run.environment, {"folder": str(began)})
    monkeypatch.chdir(tmp_path)
    looked_for = began / "archive" if is_there else Path("archive")
    with pytest.raises(DataError, match=re.escape(str(looked_for))) as error:
        resume(run.path)
    assert (str(began) in str(error.value)) == is_there


def test_the_starting_folder_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    write_json(run.environment, describe_environment())
    monkeypatch.chdir("/")
    assert starting_directory(run) == tmp_path
    run.environment.unlink()
    assert starting_directory(run) == Path()


# ---------------------------------------------------------------- validating seldom
def test_rare_validation_gives_the_same_weights_and_means_over_epochs(
    tiny_data: Path, tmp_path: Path
) -> None:
    often = train(tiny_config(tiny_data, training_epochs=4), tmp_path / "often", quiet=True)
    config = tiny_config(tiny_data, training_epochs=4, training_validate_every=2)
    seldom = train(config, tmp_path / "seldom", quiet=True)
    assert same_arrays(read_checkpoint(seldom), read_checkpoint(often))
    each, few = read_history(often), read_history(seldom)
    # The head's phase ends after epoch 1, the run after epoch 5.
    assert [row["epoch"] for row in few] == ["1", "2", "4", "5"]
    for row in few:
        assert row["val_loss"] == each[int(row["epoch"]) - 1]["val_loss"]
    mean = (float(each[2]["loss"]) + float(each[3]["loss"])) / 2
    assert float(few[2]["loss"]) == pytest.approx(mean)
    assert float(few[3]["loss"]) == pytest.approx(float(each[4]["loss"]))


def test_a_run_stopped_between_two_validations_is_resumed(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_data, training_head_epochs=0, training_validate_every=2)
    whole = train(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        after("_train_step", at(1, 1, send(signal.SIGINT)), patch)
        with pytest.raises(TrainingStopped):
            train(config, tmp_path / "stopped", quiet=True)
    assert not RunFolder(tmp_path / "stopped").history.exists()
    resumed = resume(tmp_path / "stopped", quiet=True)
    assert read_history(resumed) == read_history(whole)
    assert same_arrays(read_checkpoint(resumed), read_checkpoint(whole))


# ---------------------------------------------------------------- the checkpoint
STATE = RunState(epoch=2, step=1, loss_sum=0.1, history=[{"epoch": 1, "loss": 1 / 3}])


def compiled(**changes: Any) -> Any:
    return compiled_model(tiny_config(**changes), blocks=-1, size=32, initialise=True)


@pytest.fixture(scope="module")
def model(keras_ready: None) -> Any:
    """A compiled network in which every variable, also the optimizer's, has a different value."""
    model = compiled()
    random = np.random.default_rng(0)
    for variable in all_variables(model):
        value = variable.numpy()
        variable.assign(np.asarray(random.uniform(1, 100, value.shape)).astype(value.dtype))
    return model


def values(model: Any) -> list[np.ndarray[Any, Any]]:
    return [np.array(variable.numpy()) for variable in all_variables(model)]


def test_a_checkpoint_restores_every_variable_and_the_state(tmp_path: Path, model: Any) -> None:
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, variable_arrays(model), STATE)
    other = compiled()
    assert not np.array_equal(values(other)[0], values(model)[0])
    state, arrays = trainer.read_checkpoint(path)
    restore_variables(other, arrays, path)
    for first, second in zip(values(other), values(model), strict=True):
        assert np.array_equal(first, second)
    assert state == STATE
    # Weights, both seeds of dropout, moments, averages, the step and the rate.
    weights = len(model.weights)
    trained = len(model.trainable_variables)
    assert len(all_variables(model)) == weights + 1 + 3 * trained + 2
    faces = np.full((1, 48, 48, 1), 99, np.float32)
    assert np.array_equal(np.asarray(other(faces)), np.asarray(model(faces)))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_an_error(tmp_path: Path, model: Any, share: float) -> None:
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, variable_arrays(model), STATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="is damaged"):
        trainer.read_checkpoint(path)


def test_damage_in_a_variable_is_an_error(tmp_path: Path, model: Any) -> None:
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, variable_arrays(model), STATE)
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        trainer.read_checkpoint(path)


def test_a_checkpoint_of_another_recipe_is_an_error(tmp_path: Path, model: Any) -> None:
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, variable_arrays(model), STATE)
    for changes in ({"model_plain_channels": [4, 9]}, {"training_ema": 0.0}):
        other = compiled(**changes)
        before = values(other)
        with pytest.raises(InputError, match="written by another recipe or version of Keras"):
            restore_variables(other, trainer.read_checkpoint(path)[1], path)
        assert all(np.array_equal(a, b) for a, b in zip(values(other), before, strict=True))


def test_a_state_of_an_older_version_is_read_and_of_a_newer_one_refused(tmp_path: Path) -> None:
    def write(state: dict[str, Any]) -> Path:
        text = np.frombuffer(json.dumps(state).encode(), np.uint8)
        np.savez(tmp_path / "c.npz", state=text)
        return tmp_path / "c.npz"

    old = {"epoch": 4, "step": 2, "best_accuracy": 0.5, "plateau_loss": math.inf, "seconds": 9.0}
    assert trainer.read_checkpoint(write(old)) == (RunState(epoch=4, step=2), {})
    with pytest.raises(InputError, match="holds mood, which this version of mien does not know"):
        trainer.read_checkpoint(write({"epoch": 4, "mood": 1}))


def test_a_full_disk_keeps_the_older_checkpoint(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, variable_arrays(model), STATE)
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match=r"No space left.*saved before is kept.*--resume"):
        save_checkpoint(path, variable_arrays(model), RunState())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_a_file_size_limit_is_an_error_for_checkpoint_and_network(
    tmp_path: Path, model: Any
) -> None:
    """A real limit: the system refuses to let a file grow while it is written."""
    resource = pytest.importorskip("resource")

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 100, 5_000):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            with pytest.raises(OutputError, match="cannot write"):
                save_checkpoint(tmp_path / "checkpoint.npz", variable_arrays(model), STATE)
            with (
                pytest.raises(OutputError, match="cannot write"),
                saving(tmp_path / "best.keras") as temporary,
            ):
                model.save(temporary)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
