from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.calibration import Temperature
from mien.core.emotions import EMOTIONS
from mien.core.errors import UsageError
from mien.core.manifest import load_manifest, write_manifest
from mien.data.dataset import Split
from mien.evaluation.calibration import (
    MIN_CERTAIN,
    MIN_CLASS_PREDICTIONS,
    MIN_IMAGES,
    TEMPERATURE_BOUNDS,
    balance_model,
    calibrate_model,
    fit_adaptive_temperature,
    fit_temperature,
    fit_thresholds,
)
from mien.evaluation.metrics import measure_calibration
from mien.inference.classifier import Classifier

COUNTS = dict(zip(EMOTIONS, (400, 40, 400, 700, 500, 480, 320), strict=True))


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model"
    shutil.copytree(tiny_model, path)
    manifest = load_manifest(path)
    write_manifest(path, dataclasses.replace(manifest, data={"train": COUNTS}))
    return path


def _images(folder: Path, count: int = MIN_IMAGES + 50) -> tuple[np.ndarray, np.ndarray]:
    """Noise with the model's predictions as labels, a quarter of them changed."""
    random = np.random.default_rng(3)
    coarse = random.integers(0, 256, (count, 6, 6))
    images = coarse.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
    read = Classifier.open(folder).logits(images).argmax(axis=1)
    wrong = random.random(count) < 0.25
    return images, np.where(wrong, (read + 1) % 7, read).astype(np.int64)


def as_split(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split("val", images, labels, tuple(map(str, range(len(labels)))))


@pytest.mark.parametrize("augment", [False, True])
def test_the_figures_are_those_of_the_calibrated_model(folder: Path, augment: bool) -> None:
    images, labels = _images(folder)
    figures = calibrate_model(folder, as_split(images, labels), augmented=True, quiet=True)
    manifest = load_manifest(folder)
    assert manifest.entropy_exponent != 0
    assert manifest.augmented is not None
    assert manifest.metrics["calibration"] == figures
    probabilities = Classifier.open(folder).classify(images, augment=augment).astype(np.float64)
    error = measure_calibration(
        probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    ).error
    assert figures["error_augmented" if augment else "error_after"] == pytest.approx(
        error, abs=2e-3
    )
    assert error < figures["error_before"]
    if not augment:
        assert figures["accuracy"] == (probabilities.argmax(axis=1) == labels).mean()


def test_the_accuracy_on_votes_is_that_on_their_majority(folder: Path) -> None:
    images, labels = _images(folder)
    votes = 6 * np.eye(7, dtype=np.int64)[labels] + 4 * np.eye(7, dtype=np.int64)[labels - 1]
    votes[::2] = np.eye(7, dtype=np.int64)[labels[::2]] + np.eye(7, dtype=np.int64)[labels[::2] - 1]
    figures = calibrate_model(folder, as_split(images, labels), votes=votes, quiet=True)
    probabilities = Classifier.open(folder).classify(
        images[1::2]
    )  # every other image has no majority
    assert figures["accuracy"] == (probabilities.argmax(axis=1) == labels[1::2]).mean()


def test_certain_predictions_have_the_stated_accuracy(folder: Path) -> None:
    images, labels = _images(folder)
    before = Classifier.open(folder).classify(images)
    # The confident half is correct, so that there are certain predictions.
    sure = before.max(axis=1) > np.median(before.max(axis=1))
    labels[sure] = before.argmax(axis=1)[sure]
    figures = calibrate_model(folder, as_split(images, labels), quiet=True)
    manifest = load_manifest(folder)
    assert manifest.augmented is None
    assert figures["error_augmented"] is None
    probabilities = Classifier.open(folder).classify(images)
    read = probabilities.argmax(axis=1)
    certain = probabilities.max(axis=1) >= [manifest.threshold(EMOTIONS[label]) for label in read]
    assert figures["uncertain"] == pytest.approx(1 - certain.mean(), abs=0.005)
    assert 0.3 < certain.mean() < 0.9
    right = (read == labels)[certain].mean()
    assert right >= 0.85
    assert figures["certain_accuracy"] == pytest.approx(right, abs=0.01)


def test_thresholds_that_are_given_are_not_fitted(folder: Path) -> None:
    images, labels = _images(folder)
    levels = {label: 0.8 if label == "neutral" else 0.3 for label in EMOTIONS}
    figures = calibrate_model(folder, as_split(images, labels), thresholds=levels, quiet=True)
    assert load_manifest(folder).thresholds == levels
    probabilities = Classifier.open(folder).classify(images)
    certain = probabilities.max(axis=1) >= [
        levels[EMOTIONS[label]] for label in probabilities.argmax(axis=1)
    ]
    assert figures["uncertain"] == pytest.approx(1 - certain.mean(), abs=0.005)


def test_balancing_favours_rare_emotions(folder: Path) -> None:
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


def test_calibration_includes_the_bias(folder: Path) -> None:
    images, labels = _images(folder)
    plain = calibrate_model(folder, as_split(images, labels), quiet=True)
    balance_model(folder, 1.0)
    assert calibrate_model(folder, as_split(images, labels), quiet=True) != plain
    assert load_manifest(folder).bias != {}


def test_balancing_needs_a_valid_strength_and_class_counts(folder: Path) -> None:
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="from 0 to 1"):
            balance_model(folder, strength)
    write_manifest(folder, dataclasses.replace(load_manifest(folder), data={}))
    with pytest.raises(UsageError, match="lacks the number of training images"):
        balance_model(folder, 0.5)


def _drawn(temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (20_000, 7))
    noise = random.gumbel(size=logits.shape)
    return logits, (logits / temperature + noise).argmax(axis=1)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    scaled = logits / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    chosen = scaled[np.arange(len(labels)), labels]
    return float((np.log(np.exp(scaled).sum(axis=1)) - chosen).mean())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_drawn_labels_is_recovered(temperature: float) -> None:
    assert fit_temperature(*_drawn(temperature)) == pytest.approx(temperature, rel=0.03)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.3, 3.0))
def test_the_fitted_temperature_is_a_minimum(seed: int, drawn_at: float) -> None:
    logits, labels = _drawn(drawn_at, seed)
    logits, labels = logits[:200], labels[:200]
    fitted = fit_temperature(logits, labels)
    best = _cross_entropy(logits, labels, fitted)
    for other in (fitted * 0.99, fitted * 1.01):
        assert best <= _cross_entropy(logits, labels, other) + 1e-12


def test_without_a_minimum_the_temperature_is_a_bound() -> None:
    logits = np.eye(3)
    assert fit_temperature(logits, np.arange(3)) == pytest.approx(TEMPERATURE_BOUNDS[0])
    assert fit_temperature(logits, np.array([1, 2, 0])) == pytest.approx(TEMPERATURE_BOUNDS[1])


@pytest.mark.parametrize(
    ("logits", "labels"),
    [(np.zeros((0, 7)), np.zeros(0)), (np.zeros((3, 7)), np.zeros(2)), (np.zeros(3), np.zeros(3))],
)
def test_arrays_of_different_length_are_refused(logits: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"expected \w+ \(N, classes\)"):
        fit_temperature(logits, labels.astype(np.int64))


def _drawn_at(temperature: Temperature, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from the probabilities that a temperature gives them."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, random.uniform(0.5, 4, (count, 1)), (count, 7))
    cumulated = temperature.probabilities(logits).cumsum(axis=1)
    return logits, (random.random((count, 1)) > cumulated).sum(axis=1).clip(0, 6)


@pytest.mark.parametrize("exponent", [0.0, 0.3])
@pytest.mark.parametrize("base", [0.7, 1.5])
def test_the_adaptive_temperature_of_drawn_labels_is_recovered(
    base: float, exponent: float
) -> None:
    fitted = fit_adaptive_temperature(*_drawn_at(Temperature(base, exponent), 6_000))
    assert fitted.base == pytest.approx(base, rel=0.1)
    assert fitted.exponent == pytest.approx(exponent, abs=0.12)


@pytest.mark.parametrize("seed", range(3))
def test_the_adaptive_temperature_generalises_where_a_constant_one_fails(seed: int) -> None:
    drawn_at = Temperature(1.2, 0.6)
    logits, labels = _drawn_at(drawn_at, 6_000, seed)
    half = len(labels) // 2

    def error(temperature: Temperature) -> float:
        probabilities = temperature.probabilities(logits[half:])
        return measure_calibration(
            probabilities.max(axis=1), probabilities.argmax(axis=1) == labels[half:]
        ).error

    plain = Temperature(fit_temperature(logits[:half], labels[:half]))
    assert error(fit_adaptive_temperature(logits[:half], labels[:half])) < min(0.03, error(plain))


def test_few_images_get_a_constant_temperature() -> None:
    logits, labels = _drawn_at(Temperature(1.2, 0.4), MIN_IMAGES - 1)
    assert fit_adaptive_temperature(logits, labels) == Temperature(fit_temperature(logits, labels))


Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

MANY = np.linspace(0.4, 0.99, 6 * MIN_CLASS_PREDICTIONS)


def predictions(
    label: int, confidences: Floats, right: npt.NDArray[np.bool_]
) -> tuple[Floats, Labels]:
    """Predictions of ``label`` among three classes, and labels that make some of them correct."""
    probabilities = np.repeat((1 - confidences)[:, None] / 2, 3, axis=1)
    probabilities[:, label] = confidences
    return probabilities, np.where(right, label, (label + 1) % 3)


def joined(*parts: tuple[Floats, Labels]) -> tuple[Floats, Labels]:
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def certain(data: tuple[Floats, Labels], thresholds: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray(data[0].max(axis=1) >= thresholds[data[0].argmax(axis=1)])


def test_each_class_is_certain_where_its_own_predictions_are_accurate() -> None:
    data = joined(
        predictions(0, MANY, MANY > 0.7),
        predictions(1, MANY, MANY > 0.8),
        predictions(2, MANY, np.ones(len(MANY), bool)),
    )
    assert fit_thresholds(*data, accuracy=0.99) == pytest.approx([0.7, 0.8, 0.0], abs=0.003)


def test_thresholds_of_all_classes_have_the_same_accuracy() -> None:
    random = np.random.default_rng(4)
    confidences = random.uniform(0.35, 1, 20_000)
    # The second class is as accurate at c + 0.15 as the first one at c.
    data = joined(
        predictions(0, confidences, random.random(20_000) < confidences),
        predictions(1, confidences, random.random(20_000) < confidences - 0.15),
    )
    first, second, _ = fit_thresholds(*data, accuracy=0.8)
    assert second - first == pytest.approx(0.15, abs=0.06)


def test_a_less_accurate_class_still_has_certain_predictions() -> None:
    random = np.random.default_rng(5)
    confidences = random.uniform(0.4, 0.84, 2000)
    data = joined(
        predictions(0, confidences, random.random(2000) < confidences),
        predictions(1, MANY, np.ones(len(MANY), bool)),
    )
    thresholds = fit_thresholds(*data)
    assert thresholds[0] < 0.84  # no confidence of the class has an accuracy of 85 %
    assert thresholds[1] == 0.0


def test_thresholds_are_written_with_three_digits() -> None:
    thresholds = fit_thresholds(*predictions(0, MANY, MANY > 0.69), accuracy=0.99)
    assert str(thresholds[0].item()) == "0.69"


def test_a_class_that_is_never_correct_is_never_certain() -> None:
    data = joined(predictions(0, MANY, MANY > 0.5), predictions(1, MANY, np.zeros(len(MANY), bool)))
    assert fit_thresholds(*data)[1] == 1.0


def test_a_few_lucky_predictions_are_not_certain() -> None:
    confidences = np.linspace(0.4, 0.99, MIN_CLASS_PREDICTIONS)
    lucky = np.arange(MIN_CLASS_PREDICTIONS) > MIN_CLASS_PREDICTIONS - MIN_CERTAIN + 5
    assert fit_thresholds(*predictions(1, confidences, lucky))[1] == 1.0


def test_a_class_with_few_predictions_uses_the_common_curve() -> None:
    few = np.linspace(0.4, 0.99, MIN_CLASS_PREDICTIONS - 1)
    data = joined(predictions(0, MANY, MANY > 0.7), predictions(2, few, np.zeros(len(few), bool)))
    thresholds = fit_thresholds(*data, accuracy=0.7)
    # The second class is never predicted and the third rarely: both share the common curve.
    assert thresholds[2] == thresholds[1] < 1.0


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.5, 1.0))
def test_certain_predictions_reach_the_target_accuracy(seed: int, accuracy: float) -> None:
    random = np.random.default_rng(seed)
    confidences = random.integers(35, 100, 3 * MIN_CLASS_PREDICTIONS) / 100  # with many ties
    power = random.uniform(1, 3, 3)
    data = joined(
        *(
            predictions(
                label, confidences, random.random(len(confidences)) < confidences ** power[label]
            )
            for label in range(3)
        )
    )
    chosen = certain(data, fit_thresholds(*data, accuracy=accuracy))
    if chosen.any():
        assert (data[0].argmax(axis=1) == data[1])[chosen].mean() >= accuracy


def test_new_predictions_reach_the_target_accuracy_in_most_samples() -> None:
    def drawn(random: np.random.Generator) -> tuple[Floats, Labels]:
        confidences = random.uniform(0.35, 1, 1000)
        powers = (1.0, 1.5, 2.0)
        return joined(
            *(
                predictions(label, confidences, random.random(1000) < confidences**power)
                for label, power in enumerate(powers)
            )
        )

    kept = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        thresholds = fit_thresholds(*drawn(random), accuracy=0.8)
        fresh = drawn(random)
        right = fresh[0].argmax(axis=1) == fresh[1]
        kept += right[certain(fresh, thresholds)].mean() >= 0.8
    assert kept >= 47


def test_empty_predictions_are_refused() -> None:
    with pytest.raises(UsageError, match="N >= 1"):
        fit_thresholds(np.zeros((0, 7)), np.zeros(0, np.int64))
    with pytest.raises(UsageError, match=r"expected \w+ \(N, classes\)"):
        fit_thresholds(np.zeros((2, 7)), np.zeros(3, np.int64))
