"""Evaluation of a model on a split."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from data_maker import make_tiny_split, write_tiny_dataset
from mien.core.errors import ModelError, UsageError
from mien.evaluation.evaluate import (
    evaluate_model,
    find_exported,
    load_evaluation_data,
    output_folder,
    predict,
)
from mien.evaluation.metrics import evaluate
from mien.inference.classifier import Classifier

pytest.importorskip("sklearn")


@pytest.mark.parametrize("tta", [False, True])
def test_the_report_and_the_samples_are_those_of_the_classifier(
    tiny_model: Path, tta: bool
) -> None:
    classifier = Classifier.open(tiny_model)
    split = make_tiny_split("val", per_class=3)
    clean = np.arange(len(split)) % 2 == 0
    report, samples = evaluate_model(
        classifier, split, clean=clean, tta=tta, seed=4, batch_size=5, quiet=True
    )
    expected = classifier.classify(split.images, augment=tta)
    np.testing.assert_allclose(samples.probabilities, expected, atol=1e-6)
    assert samples.images is split.images
    assert report.evaluation.all.correct == evaluate(expected, split.labels).all.correct
    assert report.evaluation.clean is not None
    assert report.evaluation.clean.count == clean.sum()
    assert (report.model, report.split) == (classifier.manifest.info, "val")
    assert (report.tta, report.seed) == (tta, 4)


def test_predictions_are_certain_by_the_thresholds_of_the_model(tiny_model: Path) -> None:
    classifier = Classifier.open(tiny_model)
    split = make_tiny_split("val", per_class=3)
    thresholds = dict.fromkeys(classifier.labels, 0.0)
    for given, share in ((thresholds, 1.0), ({}, None)):
        classifier.manifest = dataclasses.replace(classifier.manifest, thresholds=given)
        certain = evaluate_model(classifier, split, quiet=True)[0].evaluation.all.certain
        assert (certain and certain.share) == share


def test_clean_images_have_no_copy_in_training(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "cache"))
    classifier = Classifier.open(tiny_model)
    data = write_tiny_dataset(tmp_path / "data", per_class=4)
    copied, copy = (sorted((data / name / "angry").iterdir())[0] for name in ("train", "test"))
    shutil.copy(copied, copy)
    loaded = load_evaluation_data(classifier, data, split="test", quiet=True)
    assert loaded.clean is not None
    index = loaded.split.files.index(f"test/angry/{copy.name}")
    assert np.flatnonzero(~loaded.clean).tolist() == [index]
    assert load_evaluation_data(classifier, data, split="train", quiet=True).clean is None
    shutil.rmtree(data / "train")
    loaded = load_evaluation_data(classifier, data, split="test", quiet=True)
    assert loaded.clean is None
    assert any("no figures on clean images" in note and "train" in note for note in loaded.notes)


@pytest.mark.parametrize("notes", ["notes.csv", "photos.zip"])
def test_a_table_next_to_class_folders_is_not_the_data_set(
    tmp_path: Path, tiny_model: Path, notes: str
) -> None:
    for emotion in ("happy", "sad"):
        (tmp_path / "own" / emotion).mkdir(parents=True)
        face = np.random.default_rng(0).integers(0, 256, (48, 48)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "own" / emotion / "1.png"), face)
    (tmp_path / "own" / notes).write_text("file,person\nhappy/1.png,me\n", encoding="utf-8")
    loaded = load_evaluation_data(Classifier.open(tiny_model), tmp_path / "own", quiet=True)
    assert (loaded.split.name, len(loaded.split)) == ("all", 2)


def test_a_run_stands_for_the_model_that_was_exported_from_it(
    tmp_path: Path, tiny_model: Path
) -> None:
    run = tmp_path / "first"
    run.mkdir()
    (run / "config.toml").touch()
    with pytest.raises(ModelError, match="mien export"):
        find_exported(str(run))
    shutil.copytree(tiny_model, run / "export")
    assert find_exported(str(run)) == (run / "export", run)
    assert find_exported(str(run / "export")) == (run / "export", run)
    assert find_exported(str(tiny_model)) == (tiny_model, None)
    assert output_folder(run, "first") == run
    assert output_folder(None, "a/../../b") == Path("outputs/b")


def brightness_classifier(faces: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Classify faces by brightness, one emotion for each seventh of the range."""
    labels = (faces.mean(axis=(1, 2)) * 7 / 256).astype(int)
    return np.asarray(np.eye(7)[labels], np.float32)


def test_the_batch_size_does_not_change_the_answer_or_the_order() -> None:
    images = np.arange(0, 250, 10, dtype=np.uint8)[:, None, None] + np.zeros((48, 48), np.uint8)
    expected = brightness_classifier(images)
    for batch_size in (1, 4, 25, 100):
        probabilities = predict(brightness_classifier, images, batch_size=batch_size)
        np.testing.assert_array_equal(probabilities, expected)


def test_empty_images_and_batches_are_refused() -> None:
    images = np.zeros((2, 48, 48), np.uint8)
    with pytest.raises(UsageError, match="batch_size as an integer of 1"):
        predict(brightness_classifier, images, batch_size=0)
    with pytest.raises(UsageError, match="no images"):
        predict(brightness_classifier, images[:0])
