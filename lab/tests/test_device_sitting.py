"""Training on the device through the trainer, on a processor: its files, its law, its refusals."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_maker import make_tiny_splits
from mien.core.errors import DataError, InputError, ModelError, TrainingDiverged, UsageError
from mien.training import data as data_module
from mien.training.recipe import Config, load_config
from mien.training.run import RunFolder
from mien.training.trainer import TrainingStopped
from training_maker import (
    RUN_FILES,
    read_checkpoint,
    read_history,
    same_arrays,
    tiny_config,
)

torch = pytest.importorskip("torch")

from lab.gpu import trainer  # noqa: E402
from lab.gpu.reading import taught_by  # noqa: E402
from lab.gpu.student import Student  # noqa: E402
from lab.gpu.trainer import DeviceSitting, resume, train  # noqa: E402

Hook = Callable[[Any, Any], None]


class Killed(BaseException):
    """Stands for the end of the process: nothing in the trainer may catch it."""


def device_config(source: Path | str = "unused", **changes: Any) -> Config:
    """Return a recipe that uses most of what the device can do."""
    options: dict[str, Any] = {
        "training_backend": "torch",
        "training_head_epochs": 0,
        "training_epochs": 4,
        "training_large_size": 40,
        "training_large_epochs": 1,
        "augmentation_flip": 0.5,
        "augmentation_downscale": 0.3,
        "augmentation_jpeg": 0.3,
        "augmentation_mixup": 0.4,
        "augmentation_plain_epochs": 1,
        "model_drop_connect": 0.1,
    }
    return tiny_config(source, **{**options, **changes})


@pytest.fixture(scope="module")
def undisturbed(
    keras_ready: None, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    """A run that nothing disturbed; leave it as it is."""
    return train(device_config(tiny_data), tmp_path_factory.mktemp("runs") / "whole", quiet=True)


def best_weights(run: RunFolder) -> dict[str, Any]:
    from lab.gpu.plans import weights_of
    from mien.training.model import load_keras_model

    return weights_of(load_keras_model(run.best))


def agree(first: RunFolder, second: RunFolder) -> bool:
    return (
        read_history(first) == read_history(second)
        and same_arrays(read_checkpoint(first), read_checkpoint(second))
        and same_arrays(best_weights(first), best_weights(second))
    )


def after(name: str, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call ``hook(sitting, state)`` after a method of the sitting."""
    original = getattr(DeviceSitting, name)

    def method(self: Any, state: Any, *rest: Any) -> Any:
        answer = original(self, state, *rest)
        hook(self, state)
        return answer

    monkeypatch.setattr(DeviceSitting, name, method)


def at(epoch: int, step: int, act: Callable[[], None]) -> Hook:
    return lambda _, state: act() if (state.epoch, state.step) == (epoch, step) else None


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def kill(*_: Any) -> None:
    raise Killed


# ---------------------------------------------------------------- what a run leaves
def test_a_run_leaves_what_any_run_leaves(undisturbed: RunFolder, tiny_data: Path) -> None:
    assert {file.name for file in undisturbed.path.iterdir()} == RUN_FILES
    rows = read_history(undisturbed)
    assert [(row["epoch"], row["phase"], row["size"]) for row in rows] == [
        ("1", "fine-tune", "32"),
        ("2", "fine-tune", "32"),
        ("3", "fine-tune", "32"),
        ("4", "fine-tune", "40"),
    ]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.02, 0.015, 0.005, 0])
    for row in rows:
        assert float(row["accuracy"]) * 24 == pytest.approx(round(float(row["accuracy"]) * 24))
    assert load_config(undisturbed.config) == device_config(tiny_data)
    environment = json.loads(undisturbed.environment.read_text(encoding="utf-8"))
    assert environment["backend"] == "torch"


def test_the_kept_network_is_the_one_that_was_validated(undisturbed: RunFolder) -> None:
    from mien.training.model import load_keras_model
    from mien.training.trainer import predict_probabilities, validation_figures

    val = make_tiny_splits(per_class=4)["val"]
    network = load_keras_model(undisturbed.best)
    figures = validation_figures(predict_probabilities(network, val.images), val.labels)
    best = json.loads(undisturbed.summary.read_text(encoding="utf-8"))["best"]
    assert {name: best[name] for name in figures} == pytest.approx(figures, rel=1e-4)


def test_the_seed_alone_decides(undisturbed: RunFolder, tiny_data: Path, tmp_path: Path) -> None:
    torch.rand(5)  # chance that others have drawn has no part in it
    again = train(device_config(tiny_data), tmp_path / "again", quiet=True)
    assert agree(again, undisturbed)
    other = train(device_config(tiny_data, training_seed=4), tmp_path / "other", quiet=True)
    assert read_history(other)[0]["loss"] != read_history(undisturbed)[0]["loss"]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_learns(
    keras_ready: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    monkeypatch.setattr(
        data_module, "load_dataset", lambda *_, **__: make_tiny_splits(per_class=12)
    )
    config = device_config(
        training_optimizer=optimizer,
        training_epochs=25,
        training_learning_rate=0.05,
        training_large_size=0,
        training_large_epochs=0,
        training_validate_every=5,
        augmentation_enabled=False,
    )
    rows = read_history(train(config, tmp_path / "run", quiet=True))
    assert [row["epoch"] for row in rows] == ["5", "10", "15", "20", "25"]
    assert max(float(row["val_accuracy"]) for row in rows) > 0.8
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 0.3


def test_bfloat16_is_computed_in(keras_ready: None, tiny_data: Path, tmp_path: Path) -> None:
    config = device_config(tiny_data, training_precision="mixed_bfloat16", training_epochs=1)
    run = train(config, tmp_path / "run", quiet=True)
    # The network itself is kept in float32.
    from mien.training.model import load_keras_model

    model = load_keras_model(run.best)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_without_a_gpu_it_says_so(
    undisturbed: RunFolder, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    train(device_config(tiny_data, training_epochs=1), tmp_path / "run")
    assert capsys.readouterr().err.startswith(
        "mien: torch sees no GPU: training on the processor, slowly\n"
    )


# ---------------------------------------------------------------- stopped, killed, resumed
def test_a_run_stopped_and_killed_ends_as_if_neither_had_been(
    undisturbed: RunFolder, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:  # Ctrl-C in the middle of an epoch
        after("_step", at(1, 2, interrupt), patch)
        with pytest.raises(
            TrainingStopped,
            match=f"in epoch 2 of 4 after step 2 of 3, all saved; .*--resume {run.path}",
        ):
            train(device_config(tiny_data), run.path, quiet=True)
    assert len(read_history(run)) == 1
    with monkeypatch.context() as patch:  # killed an epoch after the checkpoint
        after("_step", at(3, 1, kill), patch)
        with pytest.raises(Killed):
            resume(run.path, quiet=True)
    assert len(read_history(run)) == 1
    with monkeypatch.context() as patch:  # killed between the best network and the checkpoint
        after("_keep_best", kill, patch)
        with pytest.raises(Killed):
            resume(run.path, quiet=True)
    assert agree(resume(run.path, quiet=True), undisturbed)


def test_sgd_with_votes_goes_on_exactly(
    keras_ready: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_votes(monkeypatch)
    config = with_votes(device_config(training_optimizer="sgd"))
    whole = train(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        after("_step", at(2, 1, interrupt), patch)
        with pytest.raises(TrainingStopped):
            train(config, tmp_path / "run", quiet=True)
    assert agree(resume(tmp_path / "run", quiet=True), whole)


def test_checkpoints_come_as_often_as_the_recipe_says(
    undisturbed: RunFolder, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[int, int]] = []
    after("_save", lambda _, state: saved.append((state.epoch, state.step)), monkeypatch)
    train(device_config(tiny_data), tmp_path / "seldom", quiet=True)
    assert saved == [(4, 0)]
    saved.clear()
    often = device_config(tiny_data, training_checkpoint_seconds=0.0, training_epochs=1)
    train(often, tmp_path / "often", quiet=True)
    assert saved == [(0, 1), (0, 2), (0, 3), (1, 0)]


def test_an_ended_run_is_not_trained_again(
    undisturbed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeviceSitting, "__init__", kill)
    resume(undisturbed.path, quiet=True)


def test_a_checkpoint_of_another_recipe_is_said(
    undisturbed: RunFolder, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        after("_step", at(0, 1, interrupt), patch)
        with pytest.raises(TrainingStopped):
            train(device_config(tiny_data), tmp_path / "run", quiet=True)
    path = tmp_path / "run/config.toml"
    path.write_text(path.read_text().replace("plain_channels = [4, 8]", "plain_channels = [4, 9]"))
    with pytest.raises(InputError, match="was written by another recipe or version"):
        resume(tmp_path / "run", quiet=True)


# ---------------------------------------------------------------- what is learnt from
def with_votes(config: Config) -> Config:
    data = replace(config.data, votes="votes.csv")
    return replace(config, data=data, training=replace(config.training, votes_weight=0.5))


def give_votes(monkeypatch: pytest.MonkeyPatch, *, per_class: int = 4) -> None:
    """Give images in memory whose votes all are for the first class."""
    from mien.training.data import TrainingData

    splits = make_tiny_splits(per_class=per_class)
    votes = np.zeros((len(splits["train"]), 7), np.float32)
    votes[:, 0] = 1
    data = TrainingData(splits["train"], splits["val"], votes)
    monkeypatch.setattr(trainer, "load_training_data", lambda *_, **__: data)


def test_votes_are_learnt_from(
    keras_ready: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_module, "load_dataset", lambda *_, **__: make_tiny_splits(per_class=4))
    plain = device_config(training_epochs=1, training_large_epochs=0)
    without = train(plain, tmp_path / "without", quiet=True)
    give_votes(monkeypatch)
    losses: list[float] = []
    after("_settle", lambda _, state: losses.append(state.loss_sum / 3), monkeypatch)
    voted = train(with_votes(plain), tmp_path / "with", quiet=True)
    # The head for votes adds half of ln 7 at first, and more of what is kept changes.
    more = losses[0] - float(read_history(without)[0]["loss"])
    assert 0.5 < more < 2
    first, second = best_weights(without), best_weights(voted)
    assert list(first) == list(second)
    assert not same_arrays(first, second)


def test_teachers_are_learnt_from(
    keras_ready: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        data_module, "load_dataset", lambda *_, **__: make_tiny_splits(per_class=12)
    )
    common: dict[str, Any] = {
        "training_epochs": 25,
        "training_learning_rate": 0.05,
        "training_large_size": 0,
        "training_large_epochs": 0,
        "training_validate_every": 5,
        "augmentation_enabled": False,
    }
    teacher = train(device_config(**common), tmp_path / "teacher", quiet=True)
    # All of the loss is the distance to the teacher, whose labels it never sees.
    taught = device_config(
        **common, training_seed=9, distill_teachers=[str(teacher.path)], distill_weight=1.0
    )
    run = train(taught, tmp_path / "pupil", quiet=True)
    rows = read_history(run)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) / 2
    assert float(rows[-1]["val_accuracy"]) > 0.6
    # Another teacher than the one it began with is said.
    with monkeypatch.context() as patch:
        after("_step", at(1, 1, interrupt), patch)
        with pytest.raises(TrainingStopped):
            train(taught, tmp_path / "stopped", quiet=True)
    train(device_config(training_epochs=1), tmp_path / "other", quiet=True)
    teacher.best.write_bytes((tmp_path / "other/best.keras").read_bytes())
    with pytest.raises(InputError, match=r"the images or the teachers are not those that"):
        resume(tmp_path / "stopped", quiet=True)


def test_teachers_see_sharp_what_is_shown_blurred(
    undisturbed: RunFolder, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, shown = [], []
    ask, learn = taught_by, Student.learn

    def asking(teachers: Any, views: Any, *rest: Any, **options: Any) -> Any:
        asked.append(views.float())
        return ask(teachers, views, *rest, **options)

    def learning(self: Student, batch: Any, *rest: Any, **options: Any) -> None:
        shown.append(batch.images.float())
        learn(self, batch, *rest, **options)

    monkeypatch.setattr("lab.gpu.trainer.taught_by", asking)
    monkeypatch.setattr(Student, "learn", learning)
    config = device_config(
        tiny_data,
        training_epochs=1,
        distill_teachers=[str(undisturbed.path)],
        distill_sharp=True,
        distill_views=1,
        augmentation_blur=1.0,
    )
    train(config, tmp_path / "run", quiet=True)
    (sharp,), blurred = asked, torch.cat(shown)
    sharp = sharp[: len(blurred)]
    assert sharp.diff(dim=3).abs().mean() > 1.2 * blurred.diff(dim=3).abs().mean()
    # The same faces: what they are as a whole is alike.
    assert (sharp.mean((1, 2, 3)) - blurred.mean((1, 2, 3))).abs().max() < 6


def test_class_weights_weigh_the_loss(
    keras_ready: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = make_tiny_splits(per_class=4)
    rare = splits["train"].take(np.flatnonzero((splits["train"].labels != 1) | (np.arange(28) < 5)))
    monkeypatch.setattr(data_module, "load_dataset", lambda *_, **__: {**splits, "train": rare})
    weights: list[Any] = []
    after("_step", lambda sitting, _: weights.append(sitting.student._weights.clone()), monkeypatch)
    config = device_config(training_class_weights=True, training_epochs=1, augmentation_mixup=0.0)
    train(config, tmp_path / "run", quiet=True)
    found = torch.cat(weights)
    assert len(found.unique()) == 2
    assert float(found.max() / found.min()) == pytest.approx(4)


# ---------------------------------------------------------------- what goes wrong
def test_a_loss_that_is_no_number_ends_the_run(
    undisturbed: RunFolder, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(sitting: Any, state: Any) -> None:
        if (state.epoch, state.step) == (2, 1):
            with torch.no_grad():
                next(sitting.student.network.parameters()).fill_(float("nan"))

    config = device_config(tiny_data, training_checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        after("_step", spoil, patch)
        with pytest.raises(TrainingDiverged, match=r"in epoch 3; the last good .* kept in"):
            train(config, tmp_path / "run", quiet=True)
    # What was saved before goes on.
    assert len(read_history(resume(tmp_path / "run", quiet=True))) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training_head_epochs": 1}, "head_epochs = 1 cannot .* on the device: expected 0"),
        ({"training_fine_tune_blocks": 2}, "fine_tune_blocks = 2 .* expected -1, all"),
        ({"training_layer_decay": 0.8}, "layer_decay = 0.8 .* expected 1;"),
        ({"training_schedule": "plateau"}, """schedule = 'plateau' .* expected "cosine" or"""),
        ({"training_early_stopping": 3}, "early_stopping = 3 .* expected 0"),
        ({"augmentation_cutmix": 0.4}, "cutmix = 0.4 .* expected 0, or mixup alone"),
        (
            {"distill_teachers": ["x"], "distill_views": 3},
            "distill.views = 3 .* expected 0, or as many as epochs, for teachers are asked live",
        ),
    ],
)
def test_what_it_cannot_do_is_said_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        train(device_config(**changes), tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_is_not_there_or_no_run_is_said(
    undisturbed: RunFolder, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.gpu import teachers
    from mien.training.distillation import Teacher

    config = device_config(tiny_data, distill_teachers=[str(tmp_path / "nobody")])
    with pytest.raises(ModelError, match=r"no teacher .*nobody"):
        train(config, tmp_path / "run", quiet=True)
    exported = Teacher("model", tmp_path / "model.onnx", "abc")
    monkeypatch.setattr(teachers, "find_teacher", lambda *_: exported)
    with pytest.raises(UsageError, match=r"'model' is an exported model: .* runs' folders alone"):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_fewer_images_than_a_batch_are_refused(
    undisturbed: RunFolder, tiny_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"expected at least training\.batch_size = 64"):
        train(device_config(tiny_data, training_batch_size=64), tmp_path / "run", quiet=True)
