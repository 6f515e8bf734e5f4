"""Distillation: teachers see the student's pixels, and the student approaches their output."""

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
from mien.training import distillation
from mien.training.data import BatchSource, TrainingData
from mien.training.distillation import (
    LogitCache,
    Teacher,
    TeacherEnsemble,
    add_log_odds,
    cache_teacher_logits,
    compact_logits,
    find_teacher,
    mean_probabilities,
    open_onnx,
    open_teacher,
)
from mien.training.model import predict
from mien.training.recipe import Config
from mien.training.run_folder import RunFolder
from mien.training.trainer import (
    Trainer,
    TrainingStopped,
    resume,
    train,
)
from mien.training.transforms import Batch, Faces, Floats, View
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
def test_soft_targets_are_the_mean_probabilities_at_the_temperature() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (2, 5, 7))
    powers = np.exp(logits / 2.5)
    expected = (powers / powers.sum(axis=2, keepdims=True)).mean(axis=0)
    mean = mean_probabilities(list(logits.astype(np.float16)), 2.5)
    assert np.allclose(mean, expected, atol=2e-3)
    assert np.allclose(mean.sum(axis=1), 1, atol=1e-6)
    assert mean.dtype == np.float32


def test_teachers_have_equal_weight_whatever_their_confidence() -> None:
    sure = np.array([[90.0, 0, 0, 0, 0, 0, 0]], np.float16)
    calm = np.array([[0, 1.0, 0, 0, 0, 0, 0]], np.float16)
    assert mean_probabilities([sure, calm], 1.0)[0, 0] == pytest.approx(
        0.5 + 0.5 / (6 + np.e), abs=1e-3
    )


# ---------------------------------------------------------------- the same pixels
def predictions_by_pixels(faces: Faces) -> Floats:
    """A network whose output for a face depends on each of its pixels, and on nothing else."""
    weights = np.random.default_rng(5).integers(0, 64, (48 * 48, 7))
    sums = faces.reshape(len(faces), -1).astype(np.int64) @ weights
    return (sums % 4096 / 512).astype(np.float32)


@pytest.fixture
def teacher_of_pixels(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(distillation, "open_teacher", lambda *_, **__: predictions_by_pixels)
    return str(tiny_model)


def source(config: Config) -> BatchSource:
    ensemble = TeacherEnsemble(config, SPLIT.images, quiet=True)
    return BatchSource(TrainingData(SPLIT, SPLIT), config, ensemble)


def is_of_these_pixels(batch: Batch) -> bool:
    faces = batch.faces[..., 0].astype(np.uint8)
    assert np.array_equal(faces[..., None], batch.faces)
    assert batch.soft_targets is not None
    return np.array_equal(
        batch.soft_targets, mean_probabilities([compact_logits(predictions_by_pixels(faces))], 2.0)
    )


@pytest.mark.parametrize("views", [0, 2])
def test_teachers_and_student_get_the_same_pixels(
    teacher_of_pixels: str, views: int, tmp_path: Path
) -> None:
    config = tiny_config(distill_teachers=[teacher_of_pixels], distill_views=views, **MIXED)
    made = source(config)
    mixed = []
    for epoch in range(4):
        batches = list(made.epoch(epoch))
        assert all(is_of_these_pixels(batch) for batch in batches)
        mixed += [epoch for batch in batches if batch.targets.max(axis=1).min() < 0.99]
    assert set(mixed) == {0, 1, 2}
    # Taken up in the middle, by a source that has made nothing before.
    fresh = source(config)
    assert all(is_of_these_pixels(batch) for batch in fresh.epoch(1, 5))


def test_votes_are_added_to_the_teachers_logits_of_a_view(teacher_of_pixels: str) -> None:
    config = tiny_config(
        distill_teachers=[teacher_of_pixels],
        distill_views=2,
        distill_votes=0.5,
        data_votes="votes.csv",
    )
    log_odds = np.random.default_rng(2).normal(0, 2, (len(SPLIT), 7)).astype(np.float32)
    ensemble = TeacherEnsemble(config, SPLIT.images, log_odds=log_odds, quiet=True)
    made = BatchSource(TrainingData(SPLIT, SPLIT), config, ensemble)
    view = made.dataset.render_view(config, ensemble.views[1])
    logits = compact_logits(predictions_by_pixels(view.images)).astype(np.float32) + 0.5 * log_odds
    targets = ensemble.soft_targets_of_view(ensemble.views[1], view.images)
    assert np.allclose(targets, mean_probabilities([logits], 2.0), atol=1e-4)
    # And what the student is shown, in whatever order, is each image's own.
    for batch in made.epoch(1):
        assert batch.soft_targets is not None
        for face, taught in zip(batch.faces[..., 0], batch.soft_targets, strict=True):
            place = int(np.argmin(np.abs(view.images - face).sum(axis=(1, 2))))
            assert np.allclose(
                taught, mean_probabilities([logits[place : place + 1]], 2.0), atol=1e-4
            )


def test_the_cache_returns_the_teachers_predictions(
    teacher_of_pixels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        distill_teachers=[teacher_of_pixels],
        distill_views=2,
        distill_cache=str(tmp_path / "cache"),
        **MIXED,
    )
    first = TeacherEnsemble(config, SPLIT.images, quiet=True)
    made = BatchSource(TrainingData(SPLIT, SPLIT), config, first)
    batches = [list(made.epoch(n)) for n in range(4)]
    assert len(list((tmp_path / "cache").iterdir())) == 3

    def closed(*_: Any, **__: Any) -> Any:
        raise AssertionError("a teacher was opened though all its logits are there")

    monkeypatch.setattr(distillation, "open_teacher", closed)
    again = source(config)
    for epoch in range(4):
        for one, other in zip(again.epoch(epoch), batches[epoch], strict=True):
            assert is_of_these_pixels(one)
            assert np.array_equal(one.faces, other.faces)
            assert one.soft_targets is not None
            assert other.soft_targets is not None
            assert np.array_equal(one.soft_targets, other.soft_targets)


def test_a_view_is_predicted_once(teacher_of_pixels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counting(faces: Faces) -> Floats:
        calls.append(len(faces))
        return predictions_by_pixels(faces)

    monkeypatch.setattr(distillation, "open_teacher", lambda *_, **__: counting)
    config = tiny_config(distill_teachers=[teacher_of_pixels], distill_views=1)
    made = source(config)
    for epoch in range(3):
        list(made.epoch(epoch))
    assert sum(calls) == len(SPLIT)


def test_a_teacher_with_nan_logits_is_refused(
    teacher_of_pixels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        distillation,
        "open_teacher",
        lambda *_, **__: lambda faces: predictions_by_pixels(faces) + np.nan,
    )
    config = tiny_config(distill_teachers=[teacher_of_pixels], distill_views=1)
    with pytest.raises(ModelError, match="or NaN: expected 7"):
        source(config).epoch(0)


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


def test_an_exported_teacher_predicts_as_the_classifier(tiny_model: Path) -> None:
    from mien.inference.classifier import Classifier

    network = open_teacher(find_teacher(str(tiny_model)), batch=5)
    expected = Classifier.open(tiny_model).logits(SPLIT.images)
    assert np.allclose(network(SPLIT.images), expected, atol=1e-5)


def test_a_damaged_teacher_is_an_error_without_output_on_stdout(
    make_tiny_model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_tiny_model() / MODEL_NAME
    path.write_bytes(path.read_bytes().replace(b"pattern", b"\xd8attern", 1))
    with pytest.raises(ModelError, match="not an ONNX model that can be run"):
        open_onnx(path, batch=1)
    assert capfd.readouterr() == ("", "")


def test_the_teacher_of_a_run_predicts_as_its_network(whole_run: RunFolder) -> None:
    from mien.training.model import load_keras_model

    network = open_teacher(find_teacher(str(whole_run.path)), batch=16)
    logits = network(SPLIT.images)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = predict(load_keras_model(whole_run.best), SPLIT.images)
    assert np.allclose(powers / powers.sum(axis=1, keepdims=True), expected, atol=1e-5)


def test_an_invalid_teacher_is_a_one_line_error(tmp_path: Path) -> None:
    config = tiny_config(distill_teachers=[str(tmp_path / "nobody")])
    with pytest.raises(ModelError, match=r"no teacher '.*nobody': expected a run's folder"):
        source(config)
    cached = tiny_config(
        distill_teachers=[str(tmp_path / "nobody")],
        distill_views=3,
        distill_cache=str(tmp_path / "cache"),
    )
    with pytest.raises(ModelError, match=r"or its logits of 3 more views in .*cache"):
        source(cached)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "best.keras").write_bytes(b"no network")
    with pytest.raises(ModelError, match="cannot load"):
        source(tiny_config(distill_teachers=[str(damaged)]))


# ---------------------------------------------------------------- whole runs
@pytest.fixture
def student(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    """A recipe with an exported teacher and cached views."""
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
    step = Trainer._train_step

    def stopping(self: Any, state: Any, batch: Any) -> Any:
        answer = step(self, state, batch)
        if (state.epoch, state.step) == (1, 1):
            os.kill(os.getpid(), signal.SIGINT)
        return answer

    run = RunFolder(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stopping)
        with pytest.raises(TrainingStopped):
            train(config, run.path, quiet=True)
    teacher = Path(student["distill_teachers"][0])
    teacher.rename(tmp_path / "gone")
    resumed = resume(run.path, quiet=True)
    assert read_history(resumed) == read_history(whole)
    assert same_arrays(read_checkpoint(resumed), read_checkpoint(whole))


def test_a_run_is_not_resumed_with_another_teacher(
    student: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_run: RunFolder
) -> None:
    student = {**student, "distill_views": 0, "distill_cache": ""}

    save = Trainer._save_checkpoint

    def saved_and_killed(self: Any, state: Any) -> None:
        save(self, state)
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_checkpoint", saved_and_killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(**student), run, quiet=True)
    teacher = Path(student["distill_teachers"][0])
    shutil.rmtree(teacher)
    teacher.mkdir()
    shutil.copy(whole_run.best, teacher / "best.keras")
    with pytest.raises(InputError, match=r"teachers of .*run have changed .* \(wise"):
        resume(run, quiet=True)


def test_with_a_filled_cache_training_does_not_need_the_teacher(
    student: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_config(**student)
    filled = cache_teacher_logits(config, quiet=True)
    assert filled == {
        "folder": str(tmp_path / "cache"),
        "teachers": ["wise"],
        "views": 2,
        "files": 2,
        "computed": 2,
        "size_bytes": sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()),
    }
    assert cache_teacher_logits(config, quiet=True)["computed"] == 0
    shutil.rmtree(student["distill_teachers"][0])
    assert cache_teacher_logits(config, quiet=True)["computed"] == 0
    assert train(config, tmp_path / "run", quiet=True).best.is_file()


def test_filling_the_cache_requires_teachers_and_a_cache() -> None:
    with pytest.raises(UsageError, match=r"expected a recipe with distill\.teachers"):
        cache_teacher_logits(tiny_config(distill_teachers=["mien-b0"]), quiet=True)


# ---------------------------------------------------------------- log-odds of votes
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_log_odds_are_added_in_logits(temperature: float) -> None:
    logits, added = np.random.default_rng(3).normal(0, 2, (2, 6, 7))
    powers = np.exp(logits / temperature)
    taught = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    powers = np.exp((logits + added) / temperature)
    expected = powers / powers.sum(axis=1, keepdims=True)
    adjusted = add_log_odds(taught, added.astype(np.float32), temperature)
    assert np.allclose(adjusted, expected, atol=1e-5)
    assert np.allclose(add_log_odds(taught, np.zeros((6, 7), np.float32), 2.0), taught, atol=1e-6)
    # However sure the votes are, what comes out is a probability.
    assert np.isfinite(add_log_odds(taught, (added * 500).astype(np.float32), 1.0)).all()


# ---------------------------------------------------------------- cached logits
FACES = make_tiny_split("train").images
VIEW = View(2, mixed=False)
TEACHER = Teacher("outputs/wise", Path("outputs/wise/best.keras"), "a" * 64)
ABSENT = Teacher("elsewhere/wise")
LOGITS = compact_logits(np.random.default_rng(0).normal(3, 4, (len(FACES), 7)).astype(np.float32))


def cache(folder: Path, **changes: Any) -> LogitCache:
    config = tiny_config(distill_views=3, distill_cache=str(folder), **changes)
    return LogitCache(folder, config, FACES)


@pytest.fixture
def filled(tmp_path: Path) -> LogitCache:
    made = cache(tmp_path)
    made.write(TEACHER, VIEW, FACES, LOGITS)
    return made


def test_logits_are_stored_in_half_precision_with_mean_zero() -> None:
    logits = np.random.default_rng(1).normal(40, 5, (50, 7)).astype(np.float32)
    kept = compact_logits(logits)
    assert kept.dtype == np.float16
    centred = logits - logits.mean(axis=1, keepdims=True)
    assert np.abs(kept.astype(np.float32) - centred).max() < 0.01


def test_cached_logits_are_read_without_the_teacher(filled: LogitCache) -> None:
    for teacher in (TEACHER, ABSENT):
        assert np.array_equal(filled.read(teacher, VIEW, FACES), LOGITS)
        assert filled.digest(teacher, VIEW) == "a" * 64
    path = filled.path(TEACHER, VIEW)
    assert path.name.startswith("wise-")
    assert path.name.endswith("-view002.npz")


def test_a_cached_view_takes_little_more_than_its_numbers(tmp_path: Path) -> None:
    faces = np.zeros((4000, 48, 48), np.uint8)
    made = LogitCache(tmp_path, tiny_config(distill_views=3), faces)
    made.write(TEACHER, VIEW, faces, np.zeros((4000, 7), np.float16))
    assert made.path(TEACHER, VIEW).stat().st_size < 4000 * 14 + 6000


@pytest.mark.parametrize(
    "changes",
    [
        {"training_seed": 8},
        {"augmentation_rotation": 1.0},
        {"augmentation_enabled": False},
        {"distill_sharp": True},
    ],
)
def test_settings_that_change_the_pixels_have_separate_files(
    filled: LogitCache, changes: dict[str, Any]
) -> None:
    assert not cache(filled.folder, **changes).path(TEACHER, VIEW).exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"training_batch_size": 4},
        {"training_epochs": 50},
        {"augmentation_plain_epochs": 9},
        {"augmentation_mixup": 0.3},
        {"distill_temperature": 4.0},
    ],
)
def test_settings_that_do_not_change_the_pixels_share_files(
    filled: LogitCache, changes: dict[str, Any]
) -> None:
    other = cache(filled.folder, **changes)
    assert np.array_equal(other.read(TEACHER, VIEW, FACES), LOGITS)


def test_mixing_settings_identify_a_mixed_view(tmp_path: Path) -> None:
    paths = {
        cache(tmp_path, augmentation_mixup=alpha).path(TEACHER, View(2, mixed=True))
        for alpha in (0.2, 0.3)
    }
    assert len(paths) == 2


def test_other_images_have_separate_files(filled: LogitCache) -> None:
    config = tiny_config(distill_views=3, distill_cache=str(filled.folder))
    assert not LogitCache(filled.folder, config, FACES[::-1]).path(TEACHER, VIEW).exists()


def test_logits_of_another_network_with_the_same_name_are_refused(filled: LogitCache) -> None:
    other = Teacher(TEACHER.source, TEACHER.file, "b" * 64)
    with pytest.raises(InputError, match=r"computed with another network than outputs/wise/best"):
        filled.read(other, VIEW, FACES)


def test_a_file_under_another_views_name_is_refused(filled: LogitCache) -> None:
    other = View(1, mixed=False)
    shutil.copy(filled.path(TEACHER, VIEW), filled.path(TEACHER, other))
    with pytest.raises(InputError, match="view than its name says: delete it"):
        filled.read(TEACHER, other, FACES)


def test_logits_for_other_pixels_are_refused(filled: LogitCache) -> None:
    for faces in (FACES[:, :, ::-1], np.roll(FACES, 3, axis=1), FACES // 2):
        with pytest.raises(InputError, match="from other pixels than view002 has here"):
            filled.read(TEACHER, VIEW, faces)


def test_rounding_differences_between_processors_are_accepted(filled: LogitCache) -> None:
    faces = FACES.copy()
    faces[:, ::7, ::5] ^= 1
    assert np.array_equal(filled.read(TEACHER, VIEW, faces), LOGITS)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def reshape(path: Path) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "logits": arrays["logits"][:-1]})


def spoil(path: Path) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "logits": np.full_like(arrays["logits"], np.nan)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "is damaged, or from other"),
        (lambda path: path.write_bytes(b"not a file of arrays"), "is damaged, or from other"),
        (reshape, "is damaged, or from other"),
        (spoil, "is damaged, or from other"),
        (Path.unlink, "is missing: compute it with mien train --teacher-logits"),
    ],
)
def test_an_unusable_file_is_a_one_line_error(
    filled: LogitCache, damage: Callable[[Path], Any], message: str
) -> None:
    damage(filled.path(TEACHER, VIEW))
    with pytest.raises(InputError, match=message) as caught:
        filled.read(TEACHER, VIEW, FACES)
    assert "\n" not in str(caught.value)
