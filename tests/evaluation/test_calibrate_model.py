from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from mien.core.emotions import EMOTIONS
from mien.core.errors import UsageError
from mien.core.manifest import load_manifest, write_manifest
from mien.evaluation.calibration import LEAST_IMAGES, calibrate
from mien.evaluation.temperature import balance_model, calibrate_model
from mien.inference.classifier import Classifier

COUNTS = dict(zip(EMOTIONS, (400, 40, 400, 700, 500, 480, 320), strict=True))


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model"
    shutil.copytree(tiny_model, path)
    manifest = load_manifest(path)
    write_manifest(path, dataclasses.replace(manifest, data={"train": COUNTS}))
    return path


def _images(folder: Path, count: int = LEAST_IMAGES + 50) -> tuple[np.ndarray, np.ndarray]:
    """Noise, labelled as the model reads it three times in four."""
    random = np.random.default_rng(3)
    coarse = random.integers(0, 256, (count, 6, 6))
    images = coarse.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
    read = Classifier.open(folder).logits(images).argmax(axis=1)
    wrong = random.random(count) < 0.25
    return images, np.where(wrong, (read + 1) % 7, read).astype(np.int64)


@pytest.mark.parametrize("augment", [False, True])
def test_what_the_figures_say_is_what_the_model_then_does(folder: Path, augment: bool) -> None:
    images, labels = _images(folder)
    figures = calibrate_model(folder, images, labels, split="val", augmented=True, quiet=True)
    manifest = load_manifest(folder)
    assert manifest.entropy_exponent != 0
    assert manifest.augmented is not None
    assert manifest.metrics["calibration"] == figures
    found = Classifier.open(folder).classify(images, augment=augment).astype(np.float64)
    error = calibrate(found.max(axis=1), found.argmax(axis=1) == labels).error
    assert figures["error_augmented" if augment else "error_after"] == pytest.approx(
        error, abs=2e-3
    )
    assert error < figures["error_before"]


def test_certain_readings_are_right_as_often_as_it_says(folder: Path) -> None:
    images, labels = _images(folder)
    before = Classifier.open(folder).classify(images)
    # The surer half is right, so that there are certain readings.
    sure = before.max(axis=1) > np.median(before.max(axis=1))
    labels[sure] = before.argmax(axis=1)[sure]
    figures = calibrate_model(folder, images, labels, split="val", quiet=True)
    manifest = load_manifest(folder)
    assert manifest.augmented is None
    assert figures["error_augmented"] is None
    found = Classifier.open(folder).classify(images)
    read = found.argmax(axis=1)
    certain = found.max(axis=1) >= [manifest.threshold(EMOTIONS[each]) for each in read]
    assert figures["uncertain"] == pytest.approx(1 - certain.mean(), abs=0.005)
    assert 0.3 < certain.mean() < 0.9
    right = (read == labels)[certain].mean()
    assert right >= 0.85
    assert figures["certain_accuracy"] == pytest.approx(right, abs=0.01)


def test_thresholds_that_are_given_are_not_fitted(folder: Path) -> None:
    images, labels = _images(folder)
    levels = {label: 0.8 if label == "neutral" else 0.3 for label in EMOTIONS}
    figures = calibrate_model(folder, images, labels, split="val", thresholds=levels, quiet=True)
    assert load_manifest(folder).thresholds == levels
    found = Classifier.open(folder).classify(images)
    certain = found.max(axis=1) >= [levels[EMOTIONS[each]] for each in found.argmax(axis=1)]
    assert figures["uncertain"] == pytest.approx(1 - certain.mean(), abs=0.005)


def test_balancing_lifts_rare_emotions_alone(folder: Path) -> None:
    images, _ = _images(folder)
    before = Classifier.open(folder).classify(images)
    manifest = balance_model(folder, 0.5)
    assert manifest.bias["disgust"] == max(manifest.bias.values())
    assert manifest.bias["happy"] == min(manifest.bias.values())
    assert sum(manifest.bias.values()) == pytest.approx(0)
    apart = manifest.bias["disgust"] - manifest.bias["happy"]
    assert apart == pytest.approx(0.5 * np.log(700 / 40))
    after = Classifier.open(folder).classify(images)
    disgust = EMOTIONS.index("disgust")
    assert (after[:, disgust] > before[:, disgust]).all()
    assert balance_model(folder, 0.0).bias == {}
    assert (Classifier.open(folder).classify(images) == before).all()


def test_a_bias_is_part_of_what_is_calibrated(folder: Path) -> None:
    images, labels = _images(folder)
    plain = calibrate_model(folder, images, labels, split="val", quiet=True)
    balance_model(folder, 1.0)
    assert calibrate_model(folder, images, labels, split="val", quiet=True) != plain
    assert load_manifest(folder).bias != {}


def test_it_refuses_to_balance_what_it_cannot(folder: Path) -> None:
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="from 0 to 1"):
            balance_model(folder, strength)
    write_manifest(folder, dataclasses.replace(load_manifest(folder), data={}))
    with pytest.raises(UsageError, match="does not say how many"):
        balance_model(folder, 0.5)
