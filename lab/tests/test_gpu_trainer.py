"""Runs of the GPU trainer, on a processor: their files, exact resume, teachers, votes, refusals."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_maker import make_tiny_splits
from mien.core.errors import DataError, InputError, ModelError, TrainingDiverged, UsageError
from mien.training import data as data_module
from mien.training import trainer as loop
from mien.training.data import TrainingData
from mien.training.recipe import Config, load_config
from mien.training.run_folder import RunFolder
from mien.training.trainer import TrainingStopped
from training_maker import (
    RUN_FILES,
    read_checkpoint,
    read_history,
    same_arrays,
    tiny_config,
)

torch = pytest.importorskip("torch")

from lab.gpu import network, trainer  # noqa: E402
from lab.gpu.student import Student, mean_probabilities  # noqa: E402
from lab.gpu.trainer import GpuTrainer  # noqa: E402

train = partial(loop.train, trainer_class=GpuTrainer)
resume = partial(loop.resume, trainer_class=GpuTrainer)
Hook = Callable[[Any, Any], None]


class Killed(BaseException):
    """Stands for the end of the process: nothing in the trainer may catch it."""


def recipe(source: Path | str = "unused", **changes: Any) -> Config:
    """Return a recipe that uses most of what can be trained here."""
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


LEARNING: dict[str, Any] = {
    "training_epochs": 25,
    "training_learning_rate": 0.05,
    "training_large_size": 0,
    "training_large_epochs": 0,
    "training_validate_every": 5,
    "augmentation_enabled": False,
}
"""Changes with which 84 images are learnt."""


@pytest.fixture(scope="module")
def undisturbed(
    keras_ready: None, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    """A run that nothing disturbed; leave it as it is."""
    return train(recipe(tiny_data), tmp_path_factory.mktemp("runs") / "whole", quiet=True)


def best_weights(run: RunFolder) -> dict[str, Any]:
    from mien.training.model import load_keras_model

    return network.weights_of(load_keras_model(run.best))


def agree(first: RunFolder, second: RunFolder) -> bool:
    return (
        read_history(first) == read_history(second)
        and same_arrays(read_checkpoint(first), read_checkpoint(second))
        and same_arrays(best_weights(first), best_weights(second))
    )


def after(name: str, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call ``hook(trainer, state)`` after a method of the trainer."""
    original = getattr(GpuTrainer, name)

    def method(self: Any, state: Any, *rest: Any) -> Any:
        answer = original(self, state, *rest)
        hook(self, state)
        return answer

    monkeypatch.setattr(GpuTrainer, name, method)


def stop_in(epoch: int) -> Hook:
    """A hook of ``_rate`` that asks to stop as Ctrl-C does, before the last step of an epoch."""

    def hook(made: Any, state: Any) -> None:
        if (state.epoch, state.step) == (epoch, made.steps - 1):
            os.kill(os.getpid(), signal.SIGINT)

    return hook


def kill(*_: Any) -> None:
    raise Killed


def give(monkeypatch: pytest.MonkeyPatch, *, per_class: int = 4, voted: bool = False) -> None:
    """Give images in memory, with votes that all are for the first class if wanted."""
    splits = make_tiny_splits(per_class=per_class)
    votes = np.zeros((len(splits["train"]), 7), np.float32)
    votes[:, 0] = 1
    data = TrainingData(splits["train"], splits["val"], votes if voted else None)
    monkeypatch.setattr(loop, "load_training_data", lambda *_, **__: data)


# ---------------------------------------------------------------- what a run leaves
def test_a_run_has_the_files_of_any_run(undisturbed: RunFolder, tiny_data: Path) -> None:
    from mien.training.model import load_keras_model, predict
    from mien.training.trainer import validation_metrics

    assert {file.name for file in undisturbed.path.iterdir()} == RUN_FILES
    rows = read_history(undisturbed)
    assert [(row["epoch"], row["size"]) for row in rows] == [
        ("1", "32"),
        ("2", "32"),
        ("3", "32"),
        ("4", "40"),
    ]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.02, 0.015, 0.005, 0])
    assert load_config(undisturbed.config) == recipe(tiny_data)
    # The network that is kept is the one that was validated.
    val = make_tiny_splits(per_class=4)["val"]
    model = load_keras_model(undisturbed.best)
    figures = validation_metrics(predict(model, val.images), val.labels)
    best = json.loads(undisturbed.summary.read_text(encoding="utf-8"))["best"]
    assert {name: best[name] for name in figures} == pytest.approx(figures, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_learns(
    keras_ready: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    give(monkeypatch, per_class=12)
    config = recipe(**LEARNING, training_optimizer=optimizer)
    rows = read_history(train(config, tmp_path / "run", quiet=True))
    assert [row["epoch"] for row in rows] == ["5", "10", "15", "20", "25"]
    assert max(float(row["val_accuracy"]) for row in rows) > 0.8
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 0.3


def test_mixed_precision_saves_float32_and_warns_on_a_cpu(
    keras_ready: None, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mien.training.model import load_keras_model

    config = recipe(tiny_data, training_precision="mixed_bfloat16", training_epochs=1)
    run = train(config, tmp_path / "run")
    assert {layer.compute_dtype for layer in load_keras_model(run.best).layers} == {"float32"}
    warning = "mien: torch found no GPU: training on the CPU, slowly\n"
    assert capsys.readouterr().err.startswith(warning) or torch.cuda.is_available()


# ---------------------------------------------------------------- stopped, killed, resumed
def test_a_stopped_and_killed_run_ends_as_an_uninterrupted_one(
    undisturbed: RunFolder, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    torch.rand(5)  # the seed alone decides
    with monkeypatch.context() as patch:
        after("_learning_rate", stop_in(1), patch)
        with pytest.raises(TrainingStopped, match=r"in epoch 2 of 4 .*, all saved"):
            train(recipe(tiny_data), run.path, quiet=True)
    with monkeypatch.context() as patch:  # in the middle of an epoch
        after("_learning_rate", lambda _, state: kill() if state.epoch == 2 else None, patch)
        with pytest.raises(Killed):
            resume(run.path, quiet=True)
    with monkeypatch.context() as patch:  # between the best network and the checkpoint
        patch.setattr(GpuTrainer, "_save_checkpoint", kill)
        with pytest.raises(Killed):
            resume(run.path, quiet=True)
    assert agree(resume(run.path, quiet=True), undisturbed)
    with monkeypatch.context() as patch:  # one that has ended is not trained again
        patch.setattr(GpuTrainer, "__init__", kill)
        resume(run.path, quiet=True)


def test_sgd_with_votes_and_rare_validation_resumes_exactly(
    keras_ready: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, voted=True)
    config = recipe(training_optimizer="sgd", training_validate_every=2)
    config = replace(
        config,
        data=replace(config.data, votes="votes.csv"),
        training=replace(config.training, votes_weight=0.5),
    )
    whole = train(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        after("_learning_rate", stop_in(2), patch)
        with pytest.raises(TrainingStopped, match="in epoch 3 of 4"):
            train(config, tmp_path / "run", quiet=True)
    assert agree(resume(tmp_path / "run", quiet=True), whole)
    # The head for votes adds half of about ln 7 to the loss.
    give(monkeypatch)
    plain = replace(config, training=replace(config.training, votes_weight=0.0))
    without = train(plain, tmp_path / "without", quiet=True)
    more = float(read_history(whole)[0]["loss"]) - float(read_history(without)[0]["loss"])
    assert 0.3 < more < 2


def test_a_checkpoint_of_another_recipe_is_an_error(
    keras_ready: None, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after("_learning_rate", stop_in(0), monkeypatch)
    with pytest.raises(TrainingStopped):
        train(recipe(tiny_data), tmp_path / "run", quiet=True)
    path = tmp_path / "run/config.toml"
    path.write_text(path.read_text().replace("plain_channels = [4, 8]", "plain_channels = [4, 9]"))
    with pytest.raises(InputError, match="was written by another recipe or version"):
        resume(tmp_path / "run", quiet=True)


# ---------------------------------------------------------------- teachers
def test_the_student_learns_from_its_teachers(
    keras_ready: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, per_class=12)
    teacher = train(recipe(**LEARNING), tmp_path / "teacher", quiet=True)
    # All of the loss is the distance to the teacher, whose labels the student never sees.
    taught = recipe(
        **LEARNING, training_seed=9, distill_teachers=[str(teacher.path)], distill_weight=1.0
    )
    rows = read_history(train(taught, tmp_path / "pupil", quiet=True))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) / 2
    assert float(rows[-1]["val_accuracy"]) > 0.6
    with monkeypatch.context() as patch:
        after("_learning_rate", stop_in(0), patch)
        with pytest.raises(TrainingStopped):
            train(taught, tmp_path / "stopped", quiet=True)
    other = train(recipe(training_epochs=1), tmp_path / "other", quiet=True)
    teacher.best.write_bytes(other.best.read_bytes())
    with pytest.raises(InputError, match=r"teachers of .* have changed .* \(teacher\)"):
        resume(tmp_path / "stopped", quiet=True)


def test_sharp_teachers_get_faces_before_degradation(
    undisturbed: RunFolder, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, shown = [], []
    learn = Student.learn

    def asking(teachers: Any, views: Any, *rest: Any, **options: Any) -> Any:
        inputs.append(views.float())
        return mean_probabilities(teachers, views, *rest, **options)

    def learning(self: Student, batch: Any, *rest: Any, **options: Any) -> None:
        shown.append(batch.images.float())
        learn(self, batch, *rest, **options)

    monkeypatch.setattr(trainer, "mean_probabilities", asking)
    monkeypatch.setattr(Student, "learn", learning)
    config = recipe(
        tiny_data,
        training_epochs=1,
        distill_teachers=[str(undisturbed.path)],
        distill_sharp=True,
        distill_views=1,
        augmentation_blur=1.0,
    )
    train(config, tmp_path / "run", quiet=True)
    (sharp,), blurred = inputs, torch.cat(shown)
    sharp = sharp[: len(blurred)]
    assert sharp.diff(dim=3).abs().mean() > 1.2 * blurred.diff(dim=3).abs().mean()
    # The same faces: what they are as a whole is alike.
    assert (sharp.mean((1, 2, 3)) - blurred.mean((1, 2, 3))).abs().max() < 6


def test_a_missing_or_invalid_teacher_is_an_error(
    keras_ready: None, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.training.distillation import Teacher

    config = recipe(tiny_data, distill_teachers=[str(tmp_path / "nobody")])
    with pytest.raises(ModelError, match=r"no teacher .*nobody"):
        train(config, tmp_path / "run", quiet=True)
    exported = Teacher("model", tmp_path / "model.onnx", "abc")
    monkeypatch.setattr(network, "find_teacher", lambda *_: exported)
    with pytest.raises(UsageError, match=r"'model' is an exported model: .* folders of runs"):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- what goes wrong
def test_class_weights_scale_the_loss(
    keras_ready: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = make_tiny_splits(per_class=4)
    rare = splits["train"].take(np.flatnonzero((splits["train"].labels != 1) | (np.arange(28) < 5)))
    monkeypatch.setattr(data_module, "load_dataset", lambda *_, **__: {**splits, "train": rare})
    weights: list[Any] = []
    learn = Student.learn

    def learning(self: Student, batch: Any, *rest: Any, **options: Any) -> None:
        weights.append(batch.weights)
        learn(self, batch, *rest, **options)

    monkeypatch.setattr(Student, "learn", learning)
    config = recipe(training_class_weights=True, training_epochs=1, augmentation_mixup=0.0)
    train(config, tmp_path / "run", quiet=True)
    seen = torch.cat(weights).unique()
    assert len(seen) == 2
    assert float(seen.max() / seen.min()) == pytest.approx(4)


def test_a_nan_loss_ends_the_run(
    keras_ready: None, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(made: Any, state: Any) -> None:
        if state.epoch == 2:
            with torch.no_grad():
                next(made.student.network.parameters()).fill_(float("nan"))

    with monkeypatch.context() as patch:
        after("_save_checkpoint", spoil, patch)
        with pytest.raises(TrainingDiverged, match=r"in epoch 3, .*the last good .* kept in"):
            train(recipe(tiny_data), tmp_path / "run", quiet=True)
    assert len(read_history(resume(tmp_path / "run", quiet=True))) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training_head_epochs": 1},
            "head_epochs = 1 is not supported .* expected 0; or",
        ),
        ({"training_schedule": "plateau"}, "schedule = 'plateau' .* expected cosine or constant"),
        (
            {"distill_teachers": ["x"], "distill_views": 3},
            "distill.views = 3 .* expected 0, or as many as epochs",
        ),
    ],
)
def test_unsupported_recipes_are_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(recipe(**changes), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_fewer_images_than_a_batch_are_refused(
    keras_ready: None, tiny_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"expected at least training\.batch_size = 64"):
        train(recipe(tiny_data, training_batch_size=64), tmp_path / "run", quiet=True)
