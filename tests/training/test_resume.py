"""A run that is stopped, killed or damaged goes on as if nothing had been, or says why not."""

from __future__ import annotations

import json
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

from mien.core.errors import DataError, InputError, UsageError
from mien.training import sitting, training_data
from mien.training.config import config_to_toml, load_config
from mien.training.run_folder import (
    RunFolder,
    begun_in,
    describe_environment,
    write_json,
    write_text,
)
from mien.training.stopping import TrainingStopped
from mien.training.trainer import resume, train
from training_maker import (
    mien_process,
    read_checkpoint,
    read_history,
    same_arrays,
    tiny_config,
    wait_for,
)

Hook = Callable[[Any, Any], None]


class Killed(BaseException):
    """Stands for the end of the process: nothing in the trainer may catch it."""


def kill(*_: Any) -> None:
    raise Killed


def networks_agree(first: RunFolder, second: RunFolder) -> bool:
    from mien.training.model import load_keras_model

    weights = [load_keras_model(run.best).get_weights() for run in (first, second)]
    return all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


def agree(first: RunFolder, second: RunFolder) -> bool:
    """Tell whether two runs came to the same: history, all variables, and the best network."""
    return (
        read_history(first) == read_history(second)
        and same_arrays(read_checkpoint(first), read_checkpoint(second))
        and networks_agree(first, second)
    )


def after(name: str, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call ``hook(run, state)`` after a method of the trainer's run."""
    original = getattr(sitting.Sitting, name)

    def method(self: Any, state: Any, *rest: Any) -> Any:
        answer = original(self, state, *rest)
        hook(self, state)
        return answer

    monkeypatch.setattr(sitting.Sitting, name, method)


def at(epoch: int, step: int, act: Callable[[], None]) -> Hook:
    return lambda _, state: act() if (state.epoch, state.step) == (epoch, step) else None


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def test_a_run_stopped_four_times_ends_as_if_never_stopped(
    whole_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(whole_run.config)
    run = RunFolder(tmp_path / "run")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:  # Ctrl-C in the middle of the head's epoch
        after("_step", at(0, 1, send(signal.SIGINT)), patch)
        with pytest.raises(
            TrainingStopped,
            match=f"in epoch 1 of 3 after step 1 of 3, all saved; .*--resume {run.path}",
        ):
            train(config, run.path, quiet=True)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert not run.history.exists()
    with monkeypatch.context() as patch:  # killed between the head's phase and fine-tuning
        after("_save", at(1, 0, kill), patch)
        with pytest.raises(Killed):
            resume(run.path, quiet=True)
    assert not run.history.exists()
    with monkeypatch.context() as patch:  # a polite kill in the middle of fine-tuning
        after("_step", at(1, 2, send(signal.SIGTERM)), patch)
        with pytest.raises(TrainingStopped):
            resume(run.path, quiet=True)
    # What the kill before left undone is there now.
    assert len(read_history(run)) == 1
    with monkeypatch.context() as patch:  # killed between the smaller and the larger size
        after("_save", at(2, 0, kill), patch)
        with pytest.raises(Killed):
            resume(run.path, quiet=True)
    assert agree(resume(run.path, quiet=True), whole_run)
    assert {path.name for path in run.path.iterdir()} == {
        path.name for path in whole_run.path.iterdir()
    }


def test_a_kill_between_best_network_and_checkpoint_is_done_again(
    whole_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(whole_run.config, ["training.checkpoint_seconds=0"])
    run = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        after("_keep_best", kill, patch)
        with pytest.raises(Killed):
            train(config, run.path, quiet=True)
    assert run.best.exists()
    resumed = resume(run.path, quiet=True)
    assert read_history(resumed) == read_history(whole_run)
    assert networks_agree(resumed, whole_run)


def test_a_run_killed_by_the_system_at_a_random_moment_goes_on(
    whole_run: RunFolder, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.toml"
    config = load_config(whole_run.config, ["training.checkpoint_seconds=0"])
    recipe.write_text(config_to_toml(config), encoding="utf-8")
    run = RunFolder(tmp_path / "run")
    process = mien_process("train", "--config", str(recipe), "--run", str(run.path))
    wait_for(run.checkpoint, process)
    time.sleep(waited := random.uniform(0, 3))
    process.kill()
    _, said = process.communicate()
    # A line an epoch, and nothing of TensorFlow's.
    assert all(line.startswith("epoch ") for line in said.splitlines()), said
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
    """The whole run again, to do what one likes with."""
    return RunFolder(Path(shutil.copytree(whole_run.path, tmp_path / "whole")))


def test_an_ended_run_is_drawn_and_summed_up_again_and_no_more(
    whole_run: RunFolder, copy: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_data, "load_dataset", kill)
    monkeypatch.setattr(sitting, "prepare_backend", kill)
    copy.curves.unlink()
    copy.summary.unlink()
    copy.history.unlink()
    resume(copy.path, quiet=True)
    for file in ("summary.json", "curves.png", "history.csv", "best.keras", "checkpoint.npz"):
        assert (copy.path / file).read_bytes() == (whole_run.path / file).read_bytes(), file


def test_a_run_that_never_came_to_a_checkpoint_starts_again(
    copy: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy.checkpoint.unlink()
    copy.history.unlink()
    steps: list[tuple[int, int]] = []

    def step(_: Any, state: Any, *__: Any) -> float:
        steps.append((state.epoch, state.step))
        raise Killed

    monkeypatch.setattr(sitting.Sitting, "_step", step)
    with pytest.raises(Killed):
        resume(copy.path, quiet=True)
    assert steps == [(0, 0)]


def test_a_checkpoint_that_is_gone_is_said(copy: RunFolder) -> None:
    copy.checkpoint.unlink()
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        resume(copy.path, quiet=True)


def test_a_damaged_checkpoint_is_said_and_left_alone(copy: RunFolder) -> None:
    content = copy.checkpoint.read_bytes()[:-100]
    copy.checkpoint.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        resume(copy.path, quiet=True)
    assert copy.checkpoint.read_bytes() == content


def test_a_key_of_the_future_is_said(copy: RunFolder) -> None:
    text = copy.config.read_text(encoding="utf-8")
    copy.config.write_text(text.replace("[training]", "[training]\nmagic = 3"), encoding="utf-8")
    with pytest.raises(UsageError, match=r"config.toml: unknown key training.magic: expected"):
        resume(copy.path, quiet=True)


def test_a_folder_without_a_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run: expected a folder with config"):
        resume(tmp_path, quiet=True)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_run_goes_on_from_any_folder(
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


def test_where_a_run_began_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    write_json(run.environment, describe_environment())
    monkeypatch.chdir("/")
    assert begun_in(run) == tmp_path
    run.environment.unlink()
    assert begun_in(run) == Path()
