"""A complete run: its files, its schedule, and its errors."""

from __future__ import annotations

import dataclasses
import errno
import io
import itertools
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_maker import make_tiny_splits
from mien.core.errors import (
    DataError,
    InputError,
    ModelError,
    OutputError,
    TrainingDiverged,
    UsageError,
)
from mien.data.dataset import Split
from mien.training import data, trainer
from mien.training.data import BatchSource
from mien.training.model import compiled_model, predict
from mien.training.recipe import load_config
from mien.training.run_folder import RunFolder
from mien.training.trainer import (
    RunState,
    Stage,
    Trainer,
    resume,
    stop_signals,
    train,
    validation_metrics,
)
from training_maker import (
    BATCH,
    RUN_FILES,
    STEPS,
    read_checkpoint,
    read_history,
    tiny_config,
    tiny_training_data,
)
from waiting import PATIENCE_S, until

VAL = make_tiny_splits(per_class=4)["val"]


def load(path: Path) -> Any:
    from mien.training.model import load_keras_model

    return load_keras_model(path)


# ---------------------------------------------------------------- what a run leaves
def test_a_run_writes_its_recipe_history_network_and_summary(whole_run: RunFolder) -> None:
    assert {file.name for file in whole_run.path.iterdir()} == RUN_FILES


def test_the_history_has_a_row_per_epoch(whole_run: RunFolder) -> None:
    rows = read_history(whole_run)
    assert [(row["epoch"], row["phase"], row["size"]) for row in rows] == [
        ("1", "head", "32"),
        ("2", "fine-tune", "32"),
        ("3", "fine-tune", "40"),
    ]
    # The head's rate, the peak after an epoch of warm-up, and the end of the cosine.
    assert [float(row["learning_rate"]) for row in rows] == [0.001, 0.02, 0.0]
    for row in rows:
        assert 0 < float(row["loss"]) < 4
        for name in ("accuracy", "val_accuracy", "val_macro_f1"):
            assert 0 <= float(row[name]) <= 1
    assert float(rows[0]["accuracy"]) * STEPS * BATCH == pytest.approx(
        round(float(rows[0]["accuracy"]) * STEPS * BATCH)
    )


def test_the_summary_is_that_of_the_first_best_epoch(whole_run: RunFolder) -> None:
    summary = json.loads(whole_run.summary.read_text(encoding="utf-8"))
    rows = read_history(whole_run)
    accuracies = [float(row["val_accuracy"]) for row in rows]
    best = rows[int(np.argmax(accuracies))]
    assert {name: str(value) for name, value in summary["best"].items() if name in best} == best
    assert (summary["run"], summary["epochs"]) == ("whole", 3)
    assert summary["stopped_early"] is False
    assert summary["seconds"] > 0


def test_the_recipe_and_the_environment_are_saved(whole_run: RunFolder, tiny_data: Path) -> None:
    expected = tiny_config(tiny_data, training_large_size=40, training_large_epochs=1)
    assert load_config(whole_run.config) == expected
    environment = json.loads(whole_run.environment.read_text(encoding="utf-8"))
    assert {"keras", "numpy"} <= set(environment["packages"])
    assert (environment["backend"], environment["seed"]) == ("tensorflow", 3)
    assert environment["data"]["train"] == dict.fromkeys(environment["data"]["train"], 4)
    assert set(environment) >= {"python", "system", "cores", "commit"}


def test_the_saved_network_is_the_validated_one(whole_run: RunFolder) -> None:
    summary = json.loads(whole_run.summary.read_text(encoding="utf-8"))
    figures = validation_metrics(predict(load(whole_run.best), VAL.images), VAL.labels)
    assert {name: summary["best"][name] for name in figures} == pytest.approx(figures, rel=1e-5)


def test_the_saved_network_has_statistics_for_its_averaged_weights(
    whole_run: RunFolder,
) -> None:
    import keras

    best = json.loads(whole_run.summary.read_text(encoding="utf-8"))["best"]
    network, config = load(whole_run.best), load_config(whole_run.config)
    # The first norm whose statistics were free; chance has no part in what comes before it.
    before, norm = (
        ("head1_dense", "head1_bn") if best["phase"] == "head" else ("block1_conv", "block1_bn")
    )
    part = keras.Model(network.input, network.get_layer(before).output)
    batches = list(BatchSource(tiny_training_data(), config).plain_batches())
    outputs = [np.asarray(part(batch.faces, training=False)) for batch in batches]
    means = [output.reshape(-1, output.shape[-1]).mean(axis=0) for output in outputs]
    assert np.allclose(
        network.get_layer(norm).moving_mean.numpy(), np.mean(means, axis=0), atol=1e-4
    )


def grey_splits() -> dict[str, Split]:
    """Splits whose classes are grey levels, which the tiny network can tell apart."""
    random = np.random.default_rng(0)
    return {
        name: dataclasses.replace(
            split,
            images=np.clip(
                20 + 35 * split.labels[:, None, None] + random.normal(0, 8, split.images.shape),
                0,
                255,
            ).astype(np.uint8),
        )
        for name, split in make_tiny_splits(per_class=8).items()
    }


def test_a_run_learns_and_saves_the_averages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = grey_splits()
    monkeypatch.setattr(data, "load_dataset", lambda *_, **__: splits)
    kept: list[bool] = []
    original = Trainer._save_best

    def keep(self: Any) -> None:
        original(self)
        averages = [v.numpy() for v in self.model.optimizer.variables if "average" in v.name]
        there = load(self.run.best).trainable_weights
        kept.append(all(np.array_equal(a, w) for a, w in zip(averages, there, strict=True)))

    monkeypatch.setattr(Trainer, "_save_best", keep)
    config = tiny_config(
        training_head_epochs=0,
        training_epochs=12,
        training_learning_rate=0.05,
        augmentation_enabled=False,
    )
    rows = read_history(train(config, tmp_path / "run", quiet=True))
    assert max(float(row["val_accuracy"]) for row in rows) > 0.7
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert kept
    assert all(kept)


def test_the_result_depends_only_on_the_seed(
    whole_run: RunFolder, tiny_data: Path, tmp_path: Path
) -> None:
    def first_epoch(seed: int) -> dict[str, str]:
        config = tiny_config(tiny_data, training_epochs=0, training_seed=seed)
        return read_history(train(config, tmp_path / str(seed), quiet=True))[0]

    expected = read_history(whole_run)[0]
    assert first_epoch(3) == expected
    other = first_epoch(4)
    assert other["loss"] != expected["loss"]
    assert other["val_loss"] != expected["val_loss"]


# ---------------------------------------------------------------- with the training left out
class Recorder:
    """Fake training step: records its arguments and returns prepared results."""

    def __init__(self, answer: Callable[[Any], float] = lambda _: 1.0) -> None:
        self.answer = answer
        self.steps: list[dict[str, Any]] = []

    def attach(self, model: Any) -> Any:
        def train_on_batch(faces: Any, targets: Any, weights: Any, return_dict: bool) -> Any:
            assert return_dict
            rate = float(np.asarray(model.optimizer.learning_rate))
            self.steps.append(
                {"faces": faces, "targets": targets, "weights": weights, "rate": rate}
            )
            return {"loss": self.answer(model), "accuracy": 0.25}

        model.train_on_batch = train_on_batch
        return model


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, keras_ready: None) -> Recorder:
    """Fake training steps and predictions; everything else in the trainer is real."""
    recorder = Recorder()
    build = compiled_model
    monkeypatch.setattr(data, "load_dataset", lambda *_, **__: make_tiny_splits(per_class=4))
    monkeypatch.setattr(
        trainer, "compiled_model", lambda *given, **named: recorder.attach(build(*given, **named))
    )
    monkeypatch.setattr(Trainer, "_validate", lambda run: np.full((len(run.val), 7), 1 / 7))
    return recorder


def validated(
    monkeypatch: pytest.MonkeyPatch, losses: list[float], accuracies: list[float]
) -> None:
    """Make the epochs return these validation metrics, one after the other."""
    figures: Iterator[dict[str, float]] = (
        {"val_loss": loss, "val_accuracy": accuracy, "val_macro_f1": accuracy}
        for loss, accuracy in zip(losses, accuracies, strict=True)
    )
    monkeypatch.setattr(trainer, "validation_metrics", lambda *_: next(figures))


def test_each_step_has_its_batch_and_rate(tmp_path: Path, recorder: Recorder) -> None:
    config = tiny_config(training_head_epochs=1, training_epochs=2, training_class_weights=True)
    train(config, tmp_path / "run", quiet=True)
    source = BatchSource(tiny_training_data(), config)
    expected = list(itertools.chain.from_iterable(source.epoch(epoch) for epoch in range(3)))
    assert len(recorder.steps) == len(expected) == 3 * STEPS
    for step, batch in zip(recorder.steps, expected, strict=True):
        assert np.array_equal(step["faces"], batch.faces)
        assert np.array_equal(step["targets"], batch.targets)
        assert np.array_equal(step["weights"], batch.weights)
    warm_up = [0.02 * 1e-3, 0.02 / 3, 0.04 / 3]
    cosine = [0.02, 0.015, 0.005]
    rates = [step["rate"] for step in recorder.steps]
    assert rates == pytest.approx([0.001] * 3 + warm_up + cosine, rel=1e-5)


def test_early_stopping_applies_to_each_phase(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated(monkeypatch, [1.0] * 6, [0.3, 0.2, 0.2, 0.4, 0.3, 0.3])
    config = tiny_config(training_head_epochs=4, training_epochs=6, training_early_stopping=2)
    run = train(config, tmp_path / "run", quiet=True)
    rows = read_history(run)
    phases = [(row["epoch"], row["phase"]) for row in rows]
    assert phases == [
        ("1", "head"),
        ("2", "head"),
        ("3", "head"),
        ("5", "fine-tune"),
        ("6", "fine-tune"),
        ("7", "fine-tune"),
    ]
    summary = json.loads(run.summary.read_text(encoding="utf-8"))
    assert summary["stopped_early"] is True
    assert summary["best"]["epoch"] == 5
    assert summary["epochs"] == 6


def test_the_rate_drops_when_the_validation_loss_stagnates(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated(monkeypatch, [0.9, 1.0, 1.0, 1.0, 0.8, 0.9], [0.1] * 6)
    config = tiny_config(
        training_head_epochs=2,
        training_epochs=4,
        training_schedule="plateau",
        training_plateau_patience=1,
        training_plateau_factor=0.1,
        training_warmup_epochs=0.0,
        training_head_learning_rate=0.5,
        training_learning_rate=0.1,
    )
    run = train(config, tmp_path / "run", quiet=True)
    rates = [float(row["learning_rate"]) for row in read_history(run)]
    # The head's drop is forgotten; in fine-tuning the second epoch was no better.
    assert rates == pytest.approx([0.5, 0.5, 0.1, 0.1, 0.01, 0.01])
    steps = [step["rate"] for step in recorder.steps]
    assert steps[::STEPS] == pytest.approx(rates)


def test_only_better_networks_are_saved(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated(monkeypatch, [1.0] * 3, [0.2, 0.5, 0.4])
    saved: list[int] = []
    original = Trainer._save_best

    def keep(self: Any) -> None:
        saved.append(len(recorder.steps) // STEPS - 1)
        original(self)

    monkeypatch.setattr(Trainer, "_save_best", keep)
    run = train(tiny_config(), tmp_path / "run", quiet=True)
    assert saved == [0, 1]
    assert json.loads(run.summary.read_text(encoding="utf-8"))["best"]["epoch"] == 2


def test_moments_are_kept_at_a_larger_size_but_not_with_other_trainable_blocks(
    recorder: Recorder,
) -> None:
    config = tiny_config(
        training_head_epochs=1, training_epochs=2, training_large_size=40, training_large_epochs=1
    )
    run = Trainer(config, RunFolder(Path("unused")), tiny_training_data(), quiet=True)

    def entered(epoch: int) -> tuple[list[Any], list[Any]]:
        run.enter_stage(RunState(epoch=epoch))
        model = run.model
        return [np.array(v.numpy()) for v in model.variables], list(model.optimizer.variables)

    def equal(first: list[Any], second: list[Any]) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))

    weights, moments = entered(0)
    for variable in moments:
        variable.assign(np.ones(variable.shape))
    after_head, fresh = entered(1)
    assert equal(after_head, weights)
    assert not any(np.asarray(variable).any() for variable in fresh if len(variable.shape) > 0)
    for variable in fresh:
        variable.assign(np.full(variable.shape, 2))
    larger, carried = entered(2)
    assert run.model.get_layer("enlarge").output.shape == (None, 40, 40, 1)
    assert equal(larger, weights)
    assert all(np.all(np.asarray(variable) == 2) for variable in carried)


# ---------------------------------------------------------------- output while training
def test_without_a_terminal_there_is_one_line_an_epoch(
    tmp_path: Path, recorder: Recorder, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(), tmp_path / "run")
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert "val_accuracy 0.1429" in lines[0]
    assert lines[0].endswith("  best")
    assert not lines[1].endswith("  best")


def test_quiet_prints_nothing(
    tmp_path: Path, recorder: Recorder, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(), tmp_path / "run", quiet=True)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_steps_loss_and_the_time_left(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("mien.core.progress.SHOWN_AFTER_S", 0.0)
    train(tiny_config(), tmp_path / "run")
    assert "epoch 1/3  32 px" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
    assert "loss 1.0000" in terminal.getvalue()
    assert "run 0s left" in terminal.getvalue()


def test_the_time_left_counts_larger_images_and_frozen_backbones(recorder: Recorder) -> None:
    config = tiny_config(
        training_head_epochs=1, training_epochs=3, training_large_size=64, training_large_epochs=1
    )
    costs = np.array([Stage.of_epoch(config, epoch).step_cost for epoch in range(4)])
    assert np.allclose(costs / costs[1], [0.4, 1, 1, 4])
    run = Trainer(config, RunFolder(Path("unused")), tiny_training_data(), quiet=True)
    state = RunState(epoch=1, step=1)
    assert run._time_left(state) == ""
    run.cost_done, run.cost_seconds = costs[1], 2.0
    # Two steps are left of this epoch, three of the next, and three that cost four times as much.
    assert run._time_left(state) == "  run 34s left"
    assert run._time_left(RunState(epoch=3, step=1)) == "  run 16s left"


# ---------------------------------------------------------------- what goes wrong
def workers() -> int:
    return sum(thread.name == "mien-batches" for thread in threading.enumerate())


def test_divergence_stops_the_run_and_keeps_the_last_good_state(
    tiny_data: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        tiny_data,
        training_learning_rate=1e38,
        training_warmup_epochs=0.0,
        training_clip_norm=0.0,
        training_checkpoint_seconds=0.0,
    )
    with pytest.raises(TrainingDiverged, match=r"became .* in epoch 2, step \d.*learning_rate"):
        train(config, tmp_path / "run", quiet=True)
    run = RunFolder(tmp_path / "run")
    assert all(np.isfinite(array).all() for array in read_checkpoint(run).values())
    assert [row["epoch"] for row in read_history(run)] == ["1"]
    assert np.isfinite(np.asarray(load(run.best)(np.zeros((1, 48, 48, 1), np.float32)))).all()
    assert workers() == 0


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_nan_loss_stops_the_run(tmp_path: Path, recorder: Recorder, loss: float) -> None:
    # Fourteen steps an epoch, more than are made ahead: the thread is still at work when it stops.
    config = tiny_config(training_batch_size=2)
    recorder.answer = lambda _: loss if len(recorder.steps) == 16 else 1.0
    with pytest.raises(TrainingDiverged) as caught:
        train(config, tmp_path / "run", quiet=True)
    assert f"the loss became {loss} in epoch 2, step 2" in str(caught.value)
    # Even while the error, and with it the frames that it went through, is kept.
    assert workers() == 0
    assert trainer.read_checkpoint(tmp_path / "run" / "checkpoint.npz")[0].epoch == 1


@pytest.mark.parametrize(("at", "seconds"), [(6, 1e9), (5, 0.0)])
def test_weights_that_became_nan_are_never_saved(
    tmp_path: Path, recorder: Recorder, at: int, seconds: float
) -> None:
    def poison(model: Any) -> float:
        if len(recorder.steps) == at:
            model.trainable_variables[-1].assign(np.full(7, np.nan, np.float32))
        return 1.0

    recorder.answer = poison
    with pytest.raises(TrainingDiverged, match="the weights became NaN"):
        train(tiny_config(training_checkpoint_seconds=seconds), tmp_path / "run", quiet=True)
    run = RunFolder(tmp_path / "run")
    assert all(np.isfinite(array).all() for array in read_checkpoint(run).values())
    assert len(read_history(run)) == 1


def test_a_full_disk_stops_the_run_which_can_be_resumed(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        savez = np.savez
        calls = itertools.count(1)

        def full(*given: Any, **named: Any) -> None:
            if next(calls) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            savez(*given, **named)

        patch.setattr(np, "savez", full)
        with pytest.raises(OutputError, match=f"No space left.*--resume {tmp_path / 'run'}"):
            train(tiny_config(), tmp_path / "run", quiet=True)
    run = RunFolder(tmp_path / "run")
    assert trainer.read_checkpoint(run.checkpoint)[0].epoch == 1
    assert not list(run.path.glob(".*"))
    assert len(read_history(resume(run.path, quiet=True))) == 3


def test_missing_data_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(tiny_config(tmp_path / "nowhere"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_fewer_images_than_a_batch_are_an_error_before_anything_is_written(
    tmp_path: Path, recorder: Recorder
) -> None:
    with pytest.raises(DataError, match=r"expected at least training\.batch_size = 64"):
        train(tiny_config(training_batch_size=64), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_refused_before_the_data_are_read(
    whole_run: RunFolder, tmp_path: Path
) -> None:
    before = whole_run.checkpoint.read_bytes()
    with pytest.raises(UsageError, match=f"holds a run already.*--resume {whole_run.path}"):
        train(tiny_config(tmp_path / "nowhere"), whole_run.path, quiet=True)
    assert whole_run.checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model_weights": "nowhere.keras"}, ModelError),
        ({"training_fine_tune_blocks": 9}, UsageError),
    ],
)
def test_a_recipe_that_cannot_be_built_leaves_no_run_behind(
    tmp_path: Path, recorder: Recorder, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        train(tiny_config(**changes), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_an_unwritable_folder_is_an_error(tmp_path: Path, recorder: Recorder) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        train(tiny_config(), tmp_path / "file" / "run", quiet=True)


def test_changed_data_are_refused(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.answer = lambda _: float("nan") if len(recorder.steps) == 5 else 1.0
    with pytest.raises(TrainingDiverged):
        train(tiny_config(), tmp_path / "run", quiet=True)
    other = make_tiny_splits(per_class=4, seed=1)
    monkeypatch.setattr(data, "load_dataset", lambda *_, **__: other)
    with pytest.raises(InputError, match=r"of .* have changed since it was started"):
        resume(tmp_path / "run", quiet=True)


# ---------------------------------------------------------------- phases, early stopping, plateau
def test_stages_follow_the_trainable_blocks_and_sizes() -> None:
    config = tiny_config(
        training_head_epochs=1,
        training_epochs=3,
        training_fine_tune_blocks=2,
        training_large_size=48,
        training_large_epochs=1,
    )
    stages = [Stage.of_epoch(config, epoch) for epoch in range(4)]
    assert stages == [Stage(0, 32), Stage(2, 32), Stage(2, 32), Stage(2, 48)]


def epochs_of(losses: list[float], accuracies: list[float], **changes: Any) -> RunState:
    """The state after epochs with these validation metrics."""
    config = tiny_config(**changes)
    state = RunState()
    for loss, accuracy in zip(losses, accuracies, strict=True):
        if state.epoch < config.total_epochs:
            figures = {"val_loss": loss, "val_accuracy": accuracy}
            state.end_epoch(config, {"epoch": state.epoch + 1, **figures})
    return state


def test_early_stopping_waits_for_its_patience() -> None:
    changes = {"training_head_epochs": 0, "training_epochs": 9, "training_early_stopping": 2}
    accuracies = [0.1, 0.3, 0.3, 0.4, 0.2, 0.4, 0.5, 0.6, 0.7]
    state = epochs_of([1.0] * 9, accuracies, **changes)
    # 0.4 in the fourth epoch; neither of the next two is better.
    assert len(state.history) == 6
    assert state.epoch == 9
    assert state.best["epoch"] == 4
    off = epochs_of([1.0] * 9, accuracies, **{**changes, "training_early_stopping": 0})
    assert len(off.history) == off.epoch == 9


def test_early_stopping_of_the_head_phase_starts_fine_tuning() -> None:
    changes: dict[str, Any] = {
        "training_head_epochs": 5,
        "training_epochs": 3,
        "training_early_stopping": 1,
    }
    state = epochs_of([1.0] * 2, [0.3, 0.2], **changes)
    assert state.epoch == 5
    assert state.epochs_since_validation(tiny_config(**changes)) == 1
    # Judged by itself: two epochs without a better one than the head's.
    patient = {**changes, "training_early_stopping": 2}
    assert epochs_of([1.0] * 4, [0.3, 0.2, 0.2, 0.2], **patient).epoch == 6
    assert epochs_of([1.0] * 5, [0.3, 0.2, 0.2, 0.2, 0.2], **patient).epoch == 8
    assert epochs_of([1.0] * 2, [0.3, 0.2], **{**changes, "training_epochs": 0}).epoch == 5


def test_plateau_lowers_the_rate_each_time_its_patience_runs_out() -> None:
    changes = {
        "training_head_epochs": 0,
        "training_epochs": 20,
        "training_schedule": "plateau",
        "training_plateau_patience": 2,
        "training_plateau_factor": 0.1,
    }

    def scale(losses: list[float], **more: Any) -> float:
        state = epochs_of(losses, [0.1] * len(losses), **{**changes, **more})
        return state.plateau_scale(tiny_config(**{**changes, **more}))

    losses = [1.0, 0.9, 0.9, 0.95]
    assert scale([]) == scale(losses[:3]) == 1.0
    assert scale(losses) == 0.1
    # Counted anew after it, and from a better loss on.
    assert math.isclose(scale([*losses, 0.5, 0.6, 0.6]), 0.01)
    assert scale(losses, training_schedule="cosine") == 1.0
    # The head's drop is forgotten.
    assert scale(losses, training_head_epochs=4) == 1.0
    assert scale([*losses, 2.0, 2.0, 2.0], training_head_epochs=4) == 0.1


# ---------------------------------------------------------------- stopping
FOLDER = Path("outputs/some-run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_the_event_and_handlers_are_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals(FOLDER) as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        until(stop.is_set)
    assert signal.getsignal(number) is before


def test_a_second_signal_stops_at_once_and_tells_how_to_resume() -> None:
    before = signal.getsignal(signal.SIGINT)
    with (  # noqa: PT012
        pytest.raises(KeyboardInterrupt, match=r"mien train --resume outputs.some-run"),
        stop_signals(FOLDER) as stop,
    ):
        os.kill(os.getpid(), signal.SIGINT)
        until(stop.is_set)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(PATIENCE_S)
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[bool] = []

    def work() -> None:
        with stop_signals(FOLDER) as stop:
            seen.append(stop.is_set())
            seen.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, True]


# ---------------------------------------------------------------- validation
class Network:
    """Returns the mean grey of each face, and records the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def predict_on_batch(self, faces: Any) -> Any:
        self.sizes.append(len(faces))
        return np.repeat(faces.mean(axis=(1, 2)), 7, axis=1)


@pytest.mark.parametrize("count", [1, 127, 128, 129, 300])
def test_predictions_use_batches_of_one_size(count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 48, 48)).astype(np.uint8)
    network = Network()
    answers = predict(network, images)
    assert answers.shape == (count, 7)
    assert answers.dtype == np.float32
    assert np.allclose(answers[:, 0], images.mean(axis=(1, 2)), atol=1e-3)
    assert len(set(network.sizes)) == 1


def test_the_three_figures() -> None:
    probabilities = np.full((4, 7), 0.05, np.float32)
    probabilities[[0, 1, 2, 3], [0, 0, 1, 1]] = 0.7
    figures = validation_metrics(probabilities, np.array([0, 0, 1, 2]))
    assert figures["val_accuracy"] == 0.75
    assert figures["val_loss"] == pytest.approx(-(3 * math.log(0.7) + math.log(0.05)) / 4)
    # F1 of class 0 is 1, of class 1 is 2/3, of class 2 is 0.
    assert figures["val_macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_a_probability_of_zero_has_a_finite_loss() -> None:
    probabilities = np.eye(7, dtype=np.float32)[[0]]
    assert math.isfinite(validation_metrics(probabilities, np.array([3]))["val_loss"])
