"""Calibration of an exported model: temperatures, abstention thresholds, logit adjustment."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.calibration import Temperature, log_mean, softmax
from mien.core.errors import UsageError, needs_extra
from mien.core.manifest import Manifest, load_manifest, write_manifest
from mien.data.dataset import Split
from mien.evaluation.evaluate import predict
from mien.evaluation.metrics import (
    Floats,
    Labels,
    Mask,
    calibration_error,
    certain_mask,
    wilson_interval,
)
from mien.inference.classifier import Classifier
from mien.inference.preprocess import tta_views

TEMPERATURE_BOUNDS = (0.05, 20.0)
"""Bounds of a fitted temperature."""

MIN_IMAGES = 500
"""Below this many images the temperature is constant: fitting an exponent would fit noise."""

CERTAIN_ACCURACY = 0.85
"""Default target accuracy of certain predictions."""

MIN_CLASS_PREDICTIONS = 100
"""Classes predicted less often share the accuracy curve of all classes."""

MIN_CERTAIN = 20
"""Minimum number of certain predictions from which their accuracy is estimated."""

FOLDS = 5
"""Folds of cross-fitting."""

_GRID_STEPS, _GRID_ROUNDS = 6, 7
_LOG_BASE_BOUNDS, _EXPONENT_BOUNDS = (math.log(0.1), math.log(10.0)), (-0.25, 1.0)
_CONFIDENCES = np.arange(1001) / 1000

_Fit = Callable[[Floats, Labels], tuple[Temperature, Floats]]
"""From logits (N, classes) and labels (N,) to a temperature and thresholds (classes,)."""


# ---------------------------------------------------------------- calibrating a model
def calibrate_model(
    folder: Path,
    split: Split,
    *,
    votes: Labels | None = None,
    accuracy: float = CERTAIN_ACCURACY,
    thresholds: Mapping[str, float] | None = None,
    augmented: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit temperatures and thresholds on held-out images and write them to the manifest.

    Args:
        folder: the model's folder; its manifest is replaced.
        split: images that the model was not trained on, with the model's classes.
        votes: int64 (N, classes), number of annotators per class, at least one per image. Each
            vote then counts as a label, so that confidence is the share of annotators who agree.
        accuracy: target accuracy of certain predictions, 0-1.
        thresholds: minimum confidence of a certain prediction of each class, 0-1; fitted to reach
            ``accuracy`` if None.
        augmented: also calibrate test-time augmentation (ten times the work); otherwise its
            temperature is removed from the manifest.
        quiet: draw no progress bar.

    Returns:
        The figures that the manifest records, see `_fit_and_measure`.

    Raises:
        ModelError: if the model is missing or damaged.
        UsageError: if there are no images.
        OutputError: if the manifest cannot be written.
    """
    classifier = Classifier.open(folder, labels=None)
    classes = classifier.labels
    if votes is None:
        votes = np.eye(len(classes), dtype=np.int64)[split.labels]

    def fit(logits: Floats, labels: Labels) -> tuple[Temperature, Floats]:
        temperature = fit_adaptive_temperature(logits, labels)
        if thresholds is not None:
            return temperature, np.array([thresholds[name] for name in classes])
        probabilities = temperature.probabilities(logits)
        return temperature, fit_thresholds(probabilities, labels, accuracy=accuracy)

    logits = _predict_logits(classifier, split, quiet=quiet)
    temperature, fitted, figures = _fit_and_measure(fit, logits, votes)
    views, error = _fit_views(classifier, split, votes, quiet=quiet) if augmented else (None, None)
    figures = {"split": split.name, "images": len(split), **figures, "error_augmented": error}
    calibrated = dataclasses.replace(
        classifier.manifest,
        temperature=temperature.base,
        entropy_exponent=temperature.exponent,
        augmented=views,
        thresholds=dict(zip(classes, fitted.tolist(), strict=True)),
        metrics={**classifier.manifest.metrics, "calibration": figures},
    )
    write_manifest(folder, calibrated)
    return figures


def _predict_logits(
    classifier: Classifier, split: Split, *, augment: bool = False, quiet: bool
) -> Floats:
    """Return logits (N, classes), the manifest's bias included.

    With ``augment``, the log of the mean probabilities over test-time augmentation instead.
    """
    manifest = classifier.manifest
    bias = np.array([manifest.bias.get(label, 0.0) for label in manifest.labels])

    def logits(faces: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.asarray(classifier.logits(faces) + bias, np.float32)

    def mean_over_views(faces: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        views = [softmax(logits(view).astype(np.float64)) for view in tta_views(faces)]
        return log_mean(views).astype(np.float32)

    label = "calibrating views" if augment else "calibrating"
    network = mean_over_views if augment else logits
    return predict(network, split.images, label=label, quiet=quiet).astype(np.float64)


def _fit_and_measure(
    fit: _Fit, logits: Floats, votes: Labels
) -> tuple[Temperature, Floats, dict[str, Any]]:
    """Fit a temperature and thresholds to votes (N, classes), and measure both.

    The figures are ``answers`` (number of votes) and, as shares 0-1, None where undefined:
    ``accuracy`` (on the images with a majority), ``error_before`` and ``error_after`` (expected
    calibration error), ``error_held_out`` (cross-fitted), ``uncertain`` (predictions below their
    threshold), ``certain_accuracy`` (of the others) and ``certain_held_out`` (cross-fitted).
    """
    images, labels = _expand_votes(votes)
    vote_logits = logits[images]
    temperature, thresholds = fit(vote_logits, labels)
    calibrated = temperature.probabilities(vote_logits)
    certain = certain_mask(calibrated, thresholds)
    held_out, held_out_certain = _cross_fit(fit, vote_logits, images, labels)
    majority = 2 * votes.max(axis=1) > votes.sum(axis=1)
    figures = {
        "answers": len(labels),
        "accuracy": _accuracy(logits[majority], votes[majority].argmax(axis=1)),
        "error_before": calibration_error(softmax(vote_logits), labels),
        "error_after": calibration_error(calibrated, labels),
        "error_held_out": calibration_error(held_out, labels),
        "uncertain": float(1 - certain.mean()),
        "certain_accuracy": _accuracy(calibrated[certain], labels[certain]),
        "certain_held_out": _accuracy(held_out[held_out_certain], labels[held_out_certain]),
    }
    return temperature, thresholds, figures


def _fit_views(
    classifier: Classifier, split: Split, votes: Labels, *, quiet: bool
) -> tuple[Temperature, float]:
    """Fit the temperature of test-time augmentation; return it and its calibration error."""
    images, labels = _expand_votes(votes)
    logits = _predict_logits(classifier, split, augment=True, quiet=quiet)[images]
    temperature = fit_adaptive_temperature(logits, labels)
    return temperature, calibration_error(temperature.probabilities(logits), labels)


def _expand_votes(votes: Labels) -> tuple[Labels, Labels]:
    """Return the image index and the class of every vote, both (votes,)."""
    images, classes = np.nonzero(votes)
    counts = votes[images, classes]
    return np.repeat(images, counts), np.repeat(classes, counts)


def _cross_fit(fit: _Fit, logits: Floats, images: Labels, labels: Labels) -> tuple[Floats, Mask]:
    """Return probabilities (N, classes) and the certain ones (N,), fitted on the other folds.

    All votes on an image, whose index is in ``images`` (N,), belong to one fold.
    """
    probabilities = softmax(logits)
    certain = np.zeros(len(labels), np.bool_)
    order = np.random.default_rng(0).permutation(int(images.max()) + 1)
    for fold in np.array_split(order, FOLDS):
        held_out = np.isin(images, fold)
        if held_out.any() and not held_out.all():
            temperature, thresholds = fit(logits[~held_out], labels[~held_out])
            probabilities[held_out] = temperature.probabilities(logits[held_out])
            certain[held_out] = certain_mask(probabilities[held_out], thresholds)
    return probabilities, certain


def _accuracy(scores: Floats, labels: Labels) -> float | None:
    return float((scores.argmax(axis=1) == labels).mean()) if len(labels) else None


def balance_model(folder: Path, strength: float) -> Manifest:
    """Adjust a model's logits for the class frequencies of its training data.

    The bias of a class is ``-strength * log(frequency)``, centred to mean 0 (Menon et al. 2021,
    "Long-tail learning via logit adjustment", section 4.1). Calibrate afterwards.

    Args:
        folder: the model's folder; its manifest is replaced. It must record the number of training
            images of each class in ``data.train``.
        strength: 0 (no adjustment) to 1 (as if all classes were equally frequent).

    Raises:
        UsageError: if the strength is out of range, or the counts are missing.
        ModelError: if the model is missing or damaged.
        OutputError: if the manifest cannot be written.
    """
    if not 0 <= strength <= 1:
        raise UsageError(f"expected a balancing strength from 0 to 1, got {strength}")
    manifest = load_manifest(folder, labels=None).with_reading(None)
    counts = manifest.data.get("train", {})
    if not all(counts.get(label, 0) > 0 for label in manifest.labels):
        raise UsageError(
            f"cannot balance {manifest.name}: its manifest lacks the number of training images "
            "of each class"
        )
    log_counts = np.log([counts[label] for label in manifest.labels])
    biases = strength * (log_counts.mean() - log_counts) if strength else np.zeros(0)
    bias = dict(zip(manifest.labels, biases.tolist(), strict=False))
    balanced = dataclasses.replace(manifest, bias=bias)
    write_manifest(folder, balanced)
    return balanced


# ---------------------------------------------------------------- temperatures
def fit_temperature(logits: Floats, labels: Labels) -> float:
    """Fit the temperature T that minimises the cross-entropy of softmax(logits / T).

    As in Guo et al. 2017, section 4.2. The cross-entropy is convex in 1 / T, so its slope is
    bisected within `TEMPERATURE_BOUNDS`; the result is a bound if there is no minimum (all
    predictions correct, or none better than chance).

    Args:
        logits: (N, classes).
        labels: (N,), true classes.

    Raises:
        UsageError: if there are no logits or the lengths differ.
    """
    _check_rows("logits", logits, labels)
    of_label = logits[np.arange(len(labels)), labels]

    def slope(temperature: float) -> float:
        powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
        expected = (powers * logits).sum(axis=1) / powers.sum(axis=1)
        return float((expected - of_label).mean())

    low, high = TEMPERATURE_BOUNDS
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(np.sqrt(low * high))


def fit_adaptive_temperature(logits: Floats, labels: Labels) -> Temperature:
    """Fit an entropy-dependent temperature (see `mien.core.calibration`).

    The loss is the cross-entropy of "is the prediction correct?", not that of the classes: after
    training with label smoothing, the latter is minimal at too low a temperature (compared in
    `docs/evidence/calibration.md`). With fewer than `MIN_IMAGES` images the temperature is
    constant and comes from `fit_temperature`.

    Args:
        logits: (N, classes); for a mean over views, from `mien.core.calibration.log_mean`.
        labels: (N,), true classes.

    Raises:
        UsageError: if there are no logits or the lengths differ.
    """
    _check_rows("logits", logits, labels)
    if len(labels) < MIN_IMAGES:
        return Temperature(fit_temperature(logits, labels))
    correct = logits.argmax(axis=1) == labels

    def loss(log_base: float, exponent: float) -> float:
        temperature = Temperature(float(np.exp(log_base)), exponent)
        confidences = np.clip(temperature.probabilities(logits).max(axis=1), 1e-7, 1 - 1e-7)
        return float(-np.where(correct, np.log(confidences), np.log1p(-confidences)).mean())

    # A grid that narrows around its best point: deterministic, and fast enough for two parameters.
    bounds = [_LOG_BASE_BOUNDS, _EXPONENT_BOUNDS]
    best = (0.0, 0.0)
    for _ in range(_GRID_ROUNDS):
        bases, exponents = (
            np.linspace(low, high, _GRID_STEPS + 1).tolist() for low, high in bounds
        )
        best = min(itertools.product(bases, exponents), key=lambda point: loss(*point))
        # Each round halves the range of both parameters.
        bounds = [
            (centre - (high - low) / 4, centre + (high - low) / 4)
            for centre, (low, high) in zip(best, bounds, strict=True)
        ]
    return Temperature(float(np.exp(best[0])), best[1])


# ---------------------------------------------------------------- thresholds
def fit_thresholds(
    probabilities: Floats, labels: Labels, *, accuracy: float = CERTAIN_ACCURACY
) -> Floats:
    """Fit the minimum confidence of a certain prediction for each class.

    The accuracy at a given confidence differs between classes, so that of each class is estimated
    by isotonic regression. A prediction is certain if its estimated accuracy reaches a level common
    to all classes: the lowest at which the certain predictions together reach ``accuracy`` by at
    least one standard error. This abstains as rarely as possible.

    Args:
        probabilities: (N, classes), calibrated.
        labels: (N,), true classes.
        accuracy: target accuracy of all certain predictions together, 0-1.

    Returns:
        (classes,), 0-1 in steps of 0.001: 0 for a class that is always certain, 1 for one that
        never is.

    Raises:
        UsageError: if there are no probabilities or the lengths differ.
        MissingExtra: if scikit-learn is not installed.
    """
    _check_rows("probabilities", probabilities, labels)
    predicted = probabilities.argmax(axis=1)
    confidences, correct = probabilities.max(axis=1), predicted == labels
    curves = _accuracy_curves(confidences, correct, predicted, probabilities.shape[1])
    # Confidences are rounded down to the grid of the thresholds, so that both agree.
    columns = np.searchsorted(_CONFIDENCES, confidences, side="right") - 1
    estimates = curves[predicted, columns]
    level = _lowest_level(estimates, correct, accuracy)
    # Curves are optimistic about the predictions that they were fitted on, so cross-fit them too.
    for fold in np.array_split(np.random.default_rng(0).permutation(len(labels)), FOLDS):
        rest = np.setdiff1d(np.arange(len(labels)), fold)
        if len(rest):
            fitted = _accuracy_curves(
                confidences[rest], correct[rest], predicted[rest], len(curves)
            )
            estimates[fold] = fitted[predicted[fold], columns[fold]]
    level = max(level, _lowest_level(estimates, correct, accuracy))
    certain_from = np.array([np.searchsorted(curve, level) for curve in curves])
    return np.asarray(_CONFIDENCES[np.minimum(certain_from, len(_CONFIDENCES) - 1)], np.float64)


def _accuracy_curves(confidences: Floats, correct: Mask, predicted: Labels, classes: int) -> Floats:
    """Estimate the accuracy of each class at each of `_CONFIDENCES`, (classes, 1001)."""
    curves = np.tile(_isotonic_fit(confidences, correct), (classes, 1))
    for label in range(classes):
        members = predicted == label
        if members.sum() >= MIN_CLASS_PREDICTIONS:
            curves[label] = _isotonic_fit(confidences[members], correct[members])
    return curves


def _isotonic_fit(confidences: Floats, correct: Mask) -> Floats:
    with needs_extra("train", "Fitting thresholds"):
        from sklearn.isotonic import IsotonicRegression

    regression = IsotonicRegression(out_of_bounds="clip")
    regression.fit(confidences, correct.astype(np.float64))
    return np.maximum.accumulate(np.asarray(regression.predict(_CONFIDENCES), np.float64))


def _lowest_level(estimates: Floats, correct: Mask, accuracy: float) -> float:
    """Return the lowest level at which predictions above it reach ``accuracy``; 2 if none does.

    Args:
        estimates: (N,), estimated accuracy of each prediction.
        correct: (N,), whether it is correct.
        accuracy: 0-1.
    """
    order = np.argsort(-estimates, kind="stable")
    falling = estimates[order]
    counts = np.arange(1, len(order) + 1)
    # A level cannot separate predictions with equal estimates.
    separable = np.append(falling[:-1] > falling[1:], True) & (counts >= MIN_CERTAIN)
    correct_counts = np.cumsum(correct[order])
    for index in np.flatnonzero(separable)[::-1]:
        interval = wilson_interval(int(correct_counts[index]), int(counts[index]), z=1.0)
        if interval.low >= accuracy:
            return float(falling[index])
    return 2.0


def _check_rows(name: str, rows: Floats, labels: Labels) -> None:
    if rows.ndim != 2 or labels.shape != rows.shape[:1] or labels.size == 0:
        raise UsageError(
            f"expected {name} (N, classes) and labels (N,) with N >= 1; "
            f"got {rows.shape} and {labels.shape}"
        )
