"""Teachers see the very pixels that the student sees, and the student comes closer to them."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_maker import make_tiny_split
from mien.core.errors import InputError, ModelError, UsageError
from mien.core.models import MODEL_NAME
from mien.training import distillation, sitting
from mien.training.augmentation import Faces, Floats, MixedBatch
from mien.training.batches import BatchSource
from mien.training.config import Config
from mien.training.distillation import Teaching, softened_mean
from mien.training.filling import fill_cache
from mien.training.run_folder import RunFolder
from mien.training.stopping import TrainingStopped
from mien.training.teacher_logits import rounded
from mien.training.teachers import find_teacher, open_onnx, open_teacher
from mien.training.trainer import resume, train
from mien.training.views import make_view
from training_maker import read_checkpoint, read_history, same_arrays, tiny_config

SPLIT = make_tiny_split("train", per_class=12)
MIXED: dict[str, Any] = {
    "augmentation_mixup": 0.4,
    "augmentation_mix_probability": 1.0,
    "augmentation_plain_epochs": 1,
    "training_head_epochs": 1,
    "training_epochs": 3,
}


# ---------------------------------------------------------------- the mean
def test_the_mean_is_of_probabilities_at_the_temperature() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (2, 5, 7))
    powers = np.exp(logits / 2.5)
    expected = (powers / powers.sum(axis=2, keepdims=True)).mean(axis=0)
    mean = softened_mean(list(logits.astype(np.float16)), 2.5)
    assert np.allclose(mean, expected, atol=2e-3)
    assert np.allclose(mean.sum(axis=1), 1, atol=1e-6)
    assert mean.dtype == np.float32


def test_each_teacher_counts_the_same_however_sure_of_itself() -> None:
    sure = np.array([[90.0, 0, 0, 0, 0, 0, 0]], np.float16)
    calm = np.array([[0, 1.0, 0, 0, 0, 0, 0]], np.float16)
    assert softened_mean([sure, calm], 1.0)[0, 0] == pytest.approx(0.5 + 0.5 / (6 + np.e), abs=1e-3)


# ---------------------------------------------------------------- the same pixels
def told_by_pixels(faces: Faces) -> Floats:
    """A network whose answer to a face depends on each of its pixels, and on nothing else."""
    weights = np.random.default_rng(5).integers(0, 64, (48 * 48, 7))
    sums = faces.reshape(len(faces), -1).astype(np.int64) @ weights
    return (sums % 4096 / 512).astype(np.float32)


@pytest.fixture
def teacher_of_pixels(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(distillation, "open_teacher", lambda *_, **__: told_by_pixels)
    return str(tiny_model)


def teaching(config: Config) -> Teaching:
    return Teaching(config, SPLIT.images, quiet=True)


def is_of_these_pixels(batch: MixedBatch) -> bool:
    faces = batch.faces[..., 0].astype(np.uint8)
    assert np.array_equal(faces[..., None], batch.faces)
    assert batch.taught is not None
    return np.array_equal(batch.taught, softened_mean([rounded(told_by_pixels(faces))], 2.0))


@pytest.mark.parametrize("views", [0, 2])
def test_the_teachers_saw_the_students_pixels_bit_for_bit(
    teacher_of_pixels: str, views: int, tmp_path: Path
) -> None:
    config = tiny_config(distill_teachers=[teacher_of_pixels], distill_views=views, **MIXED)
    source = BatchSource(SPLIT, config, teaching=teaching(config))
    mixed = []
    for epoch in range(4):
        batches = list(source.epoch(epoch))
        assert all(is_of_these_pixels(batch) for batch in batches)
        mixed += [epoch for batch in batches if batch.targets.max(axis=1).min() < 0.99]
    assert set(mixed) == {0, 1, 2}
    # Taken up in the middle, by a source that has made nothing before.
    fresh = BatchSource(SPLIT, config, teaching=teaching(config))
    assert all(is_of_these_pixels(batch) for batch in fresh.epoch(1, 5))


def test_votes_are_added_to_what_the_teachers_say_of_a_view(teacher_of_pixels: str) -> None:
    config = tiny_config(
        distill_teachers=[teacher_of_pixels],
        distill_views=2,
        distill_votes=0.5,
        data_votes="votes.csv",
    )
    evidence = np.random.default_rng(2).normal(0, 2, (len(SPLIT), 7)).astype(np.float32)
    told = Teaching(config, SPLIT.images, evidence=evidence, quiet=True)
    source = BatchSource(SPLIT, config, teaching=told)
    name = told.views[1]
    view = make_view(source.examples(), config, name)
    logits = rounded(told_by_pixels(view.images)).astype(np.float32) + 0.5 * evidence
    assert np.allclose(told.of_view(name, view.images), softened_mean([logits], 2.0), atol=1e-4)
    # And what the student is shown, in whatever order, is each image's own.
    for batch in source.epoch(1):
        assert batch.taught is not None
        for face, taught in zip(batch.faces[..., 0], batch.taught, strict=True):
            place = int(np.argmin(np.abs(view.images - face).sum(axis=(1, 2))))
            assert np.allclose(taught, softened_mean([logits[place : place + 1]], 2.0), atol=1e-4)


def test_the_cache_gives_back_what_the_teachers_said(
    teacher_of_pixels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        distill_teachers=[teacher_of_pixels],
        distill_views=2,
        distill_cache=str(tmp_path / "cache"),
        **MIXED,
    )
    first = teaching(config)
    batches = [list(BatchSource(SPLIT, config, teaching=first).epoch(n)) for n in range(4)]
    assert first.computed == len(first.cached_files()) == 3
    assert all(path.is_file() for path in first.cached_files())

    def closed(*_: Any, **__: Any) -> Any:
        raise AssertionError("a teacher was opened though all its logits are there")

    monkeypatch.setattr(distillation, "open_teacher", closed)
    again = BatchSource(SPLIT, config, teaching=teaching(config))
    for epoch in range(4):
        for one, other in zip(again.epoch(epoch), batches[epoch], strict=True):
            assert is_of_these_pixels(one)
            assert np.array_equal(one.faces, other.faces)
            assert one.taught is not None
            assert other.taught is not None
            assert np.array_equal(one.taught, other.taught)


def test_a_view_is_predicted_once(teacher_of_pixels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counting(faces: Faces) -> Floats:
        calls.append(len(faces))
        return told_by_pixels(faces)

    monkeypatch.setattr(distillation, "open_teacher", lambda *_, **__: counting)
    config = tiny_config(distill_teachers=[teacher_of_pixels], distill_views=1)
    source = BatchSource(SPLIT, config, teaching=teaching(config))
    for epoch in range(3):
        list(source.epoch(epoch))
    assert sum(calls) == len(SPLIT)


def test_a_teacher_that_gives_no_numbers_is_refused(
    teacher_of_pixels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        distillation, "open_teacher", lambda *_, **__: lambda faces: told_by_pixels(faces) + np.nan
    )
    config = tiny_config(distill_teachers=[teacher_of_pixels], distill_views=1)
    with pytest.raises(ModelError, match="or what is not a number: expected 7"):
        BatchSource(SPLIT, config, teaching=teaching(config)).epoch(0)


# ---------------------------------------------------------------- what can be a teacher
def test_a_bundled_model_an_exported_one_and_a_run_are_found(
    tiny_model: Path, whole_run: RunFolder
) -> None:
    bundled, exported, run = (
        find_teacher(source) for source in ("mien-b0", str(tiny_model), str(whole_run.path))
    )
    assert bundled.file is not None
    assert (bundled.name, bundled.file.name) == ("mien-b0", "model.onnx")
    assert (exported.name, exported.file) == ("tiny", tiny_model / "model.onnx")
    assert (run.name, run.file) == (whole_run.name, whole_run.best)
    assert len({bundled.digest, exported.digest, run.digest}) == 3


def test_an_exported_teacher_says_what_the_classifier_says(tiny_model: Path) -> None:
    from mien.inference.classifier import Classifier

    network = open_teacher(find_teacher(str(tiny_model)), batch=5)
    expected = Classifier.open(tiny_model).logits(SPLIT.images)
    assert np.allclose(network(SPLIT.images), expected, atol=1e-5)


def test_a_damaged_teacher_is_one_error_and_nothing_on_stdout(
    make_tiny_model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_tiny_model() / MODEL_NAME
    path.write_bytes(path.read_bytes().replace(b"pattern", b"\xd8attern", 1))
    with pytest.raises(ModelError, match="not an ONNX model that can be run"):
        open_onnx(path, batch=1)
    assert capfd.readouterr() == ("", "")


def test_a_runs_teacher_says_what_its_network_says(whole_run: RunFolder) -> None:
    from mien.training.model import load_keras_model
    from mien.training.validation import predict_probabilities

    network = open_teacher(find_teacher(str(whole_run.path)), batch=16)
    logits = network(SPLIT.images)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = predict_probabilities(load_keras_model(whole_run.best), SPLIT.images)
    assert np.allclose(powers / powers.sum(axis=1, keepdims=True), expected, atol=1e-5)


def test_what_is_no_teacher_is_said_in_one_line(tmp_path: Path) -> None:
    config = tiny_config(distill_teachers=[str(tmp_path / "nobody")])
    with pytest.raises(ModelError, match=r"no teacher '.*nobody': expected a run's folder"):
        teaching(config)
    cached = tiny_config(
        distill_teachers=[str(tmp_path / "nobody")],
        distill_views=3,
        distill_cache=str(tmp_path / "cache"),
    )
    with pytest.raises(ModelError, match=r"or its logits of 3 more views in .*cache"):
        teaching(cached)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "best.keras").write_bytes(b"no network")
    with pytest.raises(ModelError, match="cannot load"):
        teaching(tiny_config(distill_teachers=[str(damaged)]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill_teachers": ["a/x", "b/x"]}, "folders with different names"),
        ({"distill_cache": "logits"}, "set distill.views"),
        ({"distill_temperature": 0.0}, "distill.temperature = 0.0: expected above 0"),
        ({"distill_weight": 1.5}, "distill.weight = 1.5: expected a probability"),
        ({"distill_views": -1}, "distill.views = -1: expected 0 or more"),
        ({"distill_teacher": "a"}, "unknown key distill.teacher: expected one of teachers"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny_config(**changes)


# ---------------------------------------------------------------- whole runs
@pytest.fixture
def student(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    """A recipe that learns from an exported teacher by cached views."""
    return {
        "source": tiny_data,
        "distill_teachers": [str(shutil.copytree(tiny_model, tmp_path / "wise"))],
        "distill_views": 2,
        "distill_cache": str(tmp_path / "cache"),
        "augmentation_mixup": 0.4,
        "augmentation_plain_epochs": 1,
        "training_head_epochs": 1,
        "training_epochs": 1,
    }


def test_a_student_resumed_without_its_teacher_ends_as_if_never_stopped(
    student: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(**student)
    whole = train(config, tmp_path / "whole", quiet=True)
    step = sitting.Sitting._step

    def stopping(self: Any, state: Any, batch: Any) -> Any:
        answer = step(self, state, batch)
        if (state.epoch, state.step) == (1, 1):
            os.kill(os.getpid(), signal.SIGINT)
        return answer

    run = RunFolder(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(sitting.Sitting, "_step", stopping)
        with pytest.raises(TrainingStopped):
            train(config, run.path, quiet=True)
    teacher = Path(student["distill_teachers"][0])
    teacher.rename(tmp_path / "gone")
    resumed = resume(run.path, quiet=True)
    assert read_history(resumed) == read_history(whole)
    assert same_arrays(read_checkpoint(resumed), read_checkpoint(whole))


def test_a_run_does_not_go_on_with_another_teacher(
    student: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: RunFolder
) -> None:
    student = {**student, "distill_views": 0, "distill_cache": ""}

    save = sitting.Sitting._save

    def saved_and_killed(self: Any, state: Any) -> None:
        save(self, state)
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(sitting.Sitting, "_save", saved_and_killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(**student), run, quiet=True)
    teacher = Path(student["distill_teachers"][0])
    shutil.rmtree(teacher)
    teacher.mkdir()
    shutil.copy(whole_run.best, teacher / "best.keras")
    with pytest.raises(
        InputError, match=r"the teachers are not those that .*run began with \(wise"
    ):
        resume(run, quiet=True)


def test_filling_the_cache_ahead_lets_training_go_without_the_teacher(
    student: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_config(**student)
    filled = fill_cache(config, quiet=True)
    assert (filled.teachers, filled.views, filled.files, filled.computed) == (("wise",), 2, 2, 2)
    assert filled.size_bytes == sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    assert fill_cache(config, quiet=True).computed == 0
    shutil.rmtree(student["distill_teachers"][0])
    assert fill_cache(config, quiet=True).computed == 0
    assert train(config, tmp_path / "run", quiet=True).best.is_file()


def test_there_is_nothing_to_fill_without_teachers_or_a_cache() -> None:
    with pytest.raises(UsageError, match=r"expected a recipe with distill\.teachers"):
        fill_cache(tiny_config(distill_teachers=["mien-b0"]), quiet=True)
