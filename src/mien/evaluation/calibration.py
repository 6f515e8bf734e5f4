"""Calibrating an exported model: temperatures, thresholds for abstention, and class bias."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.calibration import Temperature, log_mean, softmax
from mien.core.errors import UsageError, needs_extra
from mien.core.manifest import Manifest, load_manifest, write_manifest
from mien.evaluation.evaluate import Classify, predict
from mien.evaluation.metrics import calibration_error, wilson_interval
from mien.inference.classifier import Classifier
from mien.inference.preprocess import tta_views

TEMPERATURES = (0.05, 20.0)
"""Bounds of a fitted temperature."""

LEAST_IMAGES = 500
"""With fewer, a constant temperature is fitted: an exponent would be noise."""

CERTAIN_ACCURACY = 0.85
"""The accuracy that certain predictions have to reach."""

LEAST_READINGS = 100
"""Classes predicted less often share the curve of all: one of their own would be noise."""

LEAST_CERTAIN = 20
"""The least certain predictions from which their accuracy is estimated."""

FOLDS = 5
"""Folds of cross-fitting."""

_STEPS, _ROUNDS = 6, 7
_BASES, _EXPONENTS = (0.1, 10.0), (-0.25, 1.0)
_CONFIDENCES = np.arange(1001) / 1000

_Floats = npt.NDArray[np.float64]
_Labels = npt.NDArray[np.int64]
_Thresholds = Callable[[_Floats, _Labels], _Floats]
"""From probabilities (N, classes) and right classes (N,) to a threshold a class."""


# ---------------------------------------------------------------- a model
def calibrate_model(
    folder: Path,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    *,
    split: str,
    votes: npt.NDArray[np.int64] | None = None,
    reading: str | None = None,
    accuracy: float = CERTAIN_ACCURACY,
    thresholds: Mapping[str, float] | None = None,
    augmented: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit a model's temperatures and thresholds on a split and write them into its manifest.

    Args:
        folder: the model's; its manifest is replaced.
        images: uint8 (N, 48, 48), none of which the model was trained on.
        labels: int64 (N,), indices into the model's labels.
        split: the split's name, for the record.
        votes: int64 (N, classes): how many people named each class, at least one an image. Each
            vote then counts as a label, so that a confidence is the share of people who would say
            so, and ``labels`` are ignored.
        reading: which of the model's readings is calibrated (see `Manifest.with_reading`).
        accuracy: how often certain predictions are to be right, 0-1.
        thresholds: the least confidence, 0-1, of a certain prediction of each label; fitted for
            ``accuracy`` unless given.
        augmented: fit temperatures for test-time augmentation too (ten times the work); else those
            in the manifest are dropped.
        quiet: draw no progress bar.

    Returns:
        ``split``, ``images`` and ``answers`` (counts), and as shares 0-1: ``accuracy`` (on images
        with a majority of the answers), ``error_before`` and ``error_after`` (the calibration
        error), ``error_held_out`` (the same, cross-fitted over `FOLDS` parts), ``uncertain``
        (predictions below their threshold), ``certain_accuracy`` and ``certain_held_out`` (of the
        others, the latter cross-fitted), ``error_augmented``; None where there is nothing to
        measure.

    Raises:
        ModelError: if the model is missing or damaged.
        UsageError: if there are no images.
        OutputError: if the manifest cannot be written.
    """
    classifier = Classifier.open(folder, labels=None, reading=reading)
    manifest = classifier.manifest
    if votes is None:
        votes = np.eye(len(classifier.labels), dtype=np.int64)[labels]
    places, classes = _vote_labels(votes)
    bias = np.array([manifest.bias.get(label, 0.0) for label in manifest.labels])

    def logits_of(faces: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.asarray(classifier.logits(faces) + bias, np.float32)

    def thresholds_of(probabilities: _Floats, answers: _Labels) -> _Floats:
        if thresholds is not None:
            return np.array([thresholds[label] for label in manifest.labels])
        return fit_thresholds(probabilities, answers, accuracy=accuracy)

    read = predict(logits_of, images, label="calibrating", quiet=quiet).astype(np.float64)
    clear = 2 * votes.max(axis=1) > votes.sum(axis=1)
    temperature, levels, fitted = _fit(read[places], places, classes, thresholds_of)
    of_views = error_augmented = None
    if augmented:
        views = _logits_of_views(logits_of, images, quiet=quiet)[places]
        of_views = fit_adaptive_temperature(views, classes)
        error_augmented = calibration_error(of_views.probabilities(views), classes)
    figures = {
        "split": split,
        "images": len(images),
        "answers": len(classes),
        "accuracy": _accuracy(read[clear], votes[clear].argmax(axis=1)),
        **fitted,
        "error_augmented": error_augmented,
    }
    calibrated = dataclasses.replace(
        manifest,
        temperature=temperature.base,
        entropy_exponent=temperature.exponent,
        augmented=of_views,
        thresholds=dict(zip(classifier.labels, levels.tolist(), strict=True)),
        metrics={**manifest.metrics, "calibration": figures},
    )
    write_manifest(folder, calibrated)
    return figures


def _fit(
    logits: _Floats, places: _Labels, labels: _Labels, thresholds_of: _Thresholds
) -> tuple[Temperature, _Floats, dict[str, float | None]]:
    """Fit temperature and thresholds to answers, and measure both; see `_cross_fitted`."""
    temperature = fit_adaptive_temperature(logits, labels)
    after = temperature.probabilities(logits)
    levels = thresholds_of(after, labels)
    certain = after.max(axis=1) >= levels[after.argmax(axis=1)]
    held_out, held_certain = _cross_fitted(logits, places, labels, thresholds_of)
    return (
        temperature,
        levels,
        {
            "error_before": calibration_error(softmax(logits), labels),
            "error_after": calibration_error(after, labels),
            "error_held_out": calibration_error(held_out, labels),
            "uncertain": float(1 - certain.mean()),
            "certain_accuracy": _accuracy(after[certain], labels[certain]),
            "certain_held_out": _accuracy(held_out[held_certain], labels[held_certain]),
        },
    )


def _logits_of_views(logits_of: Classify, images: npt.NDArray[np.uint8], *, quiet: bool) -> _Floats:
    """Return what serves as logits (N, classes) of the mean over augmented views."""

    def mean_of(faces: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        views = [softmax(logits_of(view).astype(np.float64)) for view in tta_views(faces)]
        return log_mean(views).astype(np.float32)

    return predict(mean_of, images, label="calibrating views", quiet=quiet).astype(np.float64)


def _vote_labels(votes: npt.NDArray[np.int64]) -> tuple[_Labels, _Labels]:
    """Return for each vote the image that it is of and the class that it names, both (votes,)."""
    places, classes = np.nonzero(votes)
    counts = votes[places, classes]
    return np.repeat(places, counts), np.repeat(classes, counts)


def _cross_fitted(
    logits: _Floats, places: _Labels, labels: _Labels, thresholds_of: _Thresholds
) -> tuple[_Floats, npt.NDArray[np.bool_]]:
    """Return probabilities (N, classes) and which are certain (N,), fitted on other folds.

    All answers to an image, whose index is in ``places`` (N,), are in one fold.
    """
    probabilities = softmax(logits)
    certain = np.zeros(len(labels), np.bool_)
    order = np.random.default_rng(0).permutation(int(places.max()) + 1)
    for images in np.array_split(order, FOLDS):
        inside = np.isin(places, images)
        part, rest = np.flatnonzero(inside), np.flatnonzero(~inside)
        if not len(rest) or not len(part):
            continue
        temperature = fit_adaptive_temperature(logits[rest], labels[rest])
        levels = thresholds_of(temperature.probabilities(logits[rest]), labels[rest])
        probabilities[part] = temperature.probabilities(logits[part])
        judged = probabilities[part]
        certain[part] = judged.max(axis=1) >= levels[judged.argmax(axis=1)]
    return probabilities, certain


def _accuracy(scores: _Floats, labels: _Labels) -> float | None:
    return float((scores.argmax(axis=1) == labels).mean()) if len(labels) else None


def balance_model(folder: Path, strength: float, *, reading: str | None = None) -> Manifest:
    """Adjust a model's logits for the class frequencies of Training.

    ``bias = -strength * log(share of Training)``, less the biases' mean (Menon et al. 2021,
    "Long-tail learning via logit adjustment", section 4.1). Calibrate afterwards.

    Args:
        folder: the model's; its manifest, which has to hold the images of each class in
            ``data.train``, is replaced.
        strength: 0 (none) to 1 (as if all classes were equally frequent).
        reading: which of the model's readings (see `Manifest.with_reading`).

    Raises:
        UsageError: if the strength is not from 0 to 1, or the counts are missing.
        ModelError: if the model is missing or damaged.
        OutputError: if the manifest cannot be written.
    """
    if not 0 <= strength <= 1:
        raise UsageError(f"expected a strength of balancing from 0 to 1, got {strength}")
    manifest = load_manifest(folder, labels=None).with_reading(reading)
    counts = manifest.data.get("train", {})
    if not all(counts.get(label, 0) > 0 for label in manifest.labels):
        raise UsageError(
            f"cannot balance {manifest.name}: its manifest does not say how many images of each "
            "class it was trained on"
        )
    logs = np.log([counts[label] for label in manifest.labels])
    added = strength * (logs.mean() - logs) if strength else np.zeros(0)
    bias = dict(zip(manifest.labels, added.tolist(), strict=False))
    balanced = dataclasses.replace(manifest, bias=bias)
    write_manifest(folder, balanced)
    return balanced


# ---------------------------------------------------------------- temperatures
def fit_temperature(logits: _Floats, labels: _Labels) -> float:
    """Fit the temperature T that minimises the cross-entropy of softmax(logits / T).

    As Guo et al. 2017, section 4.2, for logits (N, classes) and labels (N,). The cross-entropy is
    convex in 1 / T, so its slope is bisected. An end of `TEMPERATURES` where no temperature is best
    (all right, or no better than chance).

    Raises:
        UsageError: if there are no logits or the lengths differ.
    """
    _check_rows("logits", logits, labels)
    right = logits[np.arange(len(labels)), labels]

    def slope(temperature: float) -> float:
        powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
        expected = (powers * logits).sum(axis=1) / powers.sum(axis=1)
        return float((expected - right).mean())

    low, high = TEMPERATURES
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(np.sqrt(low * high))


def fit_adaptive_temperature(logits: _Floats, labels: _Labels) -> Temperature:
    """Fit an entropy-dependent temperature (see `mien.core.calibration`).

    What is minimised is the cross-entropy of "is the prediction right?", not of the classes: the
    smoothed labels that a network has learned leave the latter's best temperature too cool.
    `docs/evidence/calibration.md` compares both. With fewer than `LEAST_IMAGES` it is
    `fit_temperature`'s.

    Args:
        logits: (N, classes); for a mean over views, `mien.core.calibration.log_mean`.
        labels: (N,), the right classes.

    Raises:
        UsageError: if there are no logits or the lengths differ.
    """
    _check_rows("logits", logits, labels)
    if len(labels) < LEAST_IMAGES:
        return Temperature(fit_temperature(logits, labels))
    right = logits.argmax(axis=1) == labels

    def loss(log_base: float, exponent: float) -> float:
        sure = Temperature(float(np.exp(log_base)), exponent).probabilities(logits).max(axis=1)
        sure = np.clip(sure, 1e-7, 1 - 1e-7)
        return float(-np.where(right, np.log(sure), np.log1p(-sure)).mean())

    # A grid search that narrows around its best point: deterministic and enough for two numbers.
    (low, high), (least, most) = np.log(_BASES), _EXPONENTS
    best = (0.0, 0.0)
    for _ in range(_ROUNDS):
        points = [
            (float(base), float(exponent))
            for base in np.linspace(low, high, _STEPS + 1)
            for exponent in np.linspace(least, most, _STEPS + 1)
        ]
        best = min(points, key=lambda point: loss(*point))
        # Half of each side is kept.
        wide, tall = (high - low) / 4, (most - least) / 4
        low, high = best[0] - wide, best[0] + wide
        least, most = best[1] - tall, best[1] + tall
    return Temperature(float(np.exp(best[0])), best[1])


# ---------------------------------------------------------------- thresholds
def fit_thresholds(
    probabilities: _Floats, labels: _Labels, *, accuracy: float = CERTAIN_ACCURACY
) -> _Floats:
    """Fit for each class the confidence from which on its predictions are certain.

    How often predictions of a confidence are right differs between emotions, so each emotion's
    chance of being right is fitted by isotonic regression. A prediction is certain if its chance
    reaches a level, the same for all emotions: the lowest at which the certain predictions together
    are right as often as asked for, by a standard error. Thus the fewest are called uncertain.

    Args:
        probabilities: (N, classes), calibrated.
        labels: (N,), the right classes.
        accuracy: how often all certain predictions together are to be right, 0-1.

    Returns:
        (classes,), 0-1 in steps of 0.001: 0 for a class that is always certain, 1 for one that
        never is.

    Raises:
        UsageError: if there are no probabilities or the lengths differ.
        MissingExtra: if scikit-learn is not installed.
    """
    _check_rows("probabilities", probabilities, labels)
    read = probabilities.argmax(axis=1)
    confidences, correct = probabilities.max(axis=1), read == labels
    curves = _accuracy_curves(confidences, correct, read, probabilities.shape[1])
    # Looked up on the grid of the thresholds, so that both agree.
    places = np.searchsorted(_CONFIDENCES, confidences, side="right") - 1
    level = _lowest_level(curves[read, places], correct, accuracy)
    # Curves are optimistic on the predictions they were fitted on, so cross-fit them as well.
    fresh = curves[read, places]
    for part in np.array_split(np.random.default_rng(0).permutation(len(read)), FOLDS):
        rest = np.setdiff1d(np.arange(len(read)), part)
        if len(rest):
            others = _accuracy_curves(confidences[rest], correct[rest], read[rest], len(curves))
            fresh[part] = others[read[part], places[part]]
    level = max(level, _lowest_level(fresh, correct, accuracy))
    certain_from = np.array([np.searchsorted(curve, level) for curve in curves])
    return np.asarray(_CONFIDENCES[np.minimum(certain_from, len(_CONFIDENCES) - 1)], np.float64)


def _accuracy_curves(
    confidences: _Floats, correct: npt.NDArray[np.bool_], read: _Labels, classes: int
) -> _Floats:
    """Return how often each class is right at each of `_CONFIDENCES`, (classes, 1001)."""
    curves = np.tile(_isotonic_fit(confidences, correct), (classes, 1))
    for label in range(classes):
        mine = read == label
        if mine.sum() >= LEAST_READINGS:
            curves[label] = _isotonic_fit(confidences[mine], correct[mine])
    return curves


def _isotonic_fit(confidences: _Floats, correct: npt.NDArray[np.bool_]) -> _Floats:
    with needs_extra("train", "Fitting thresholds"):
        from sklearn.isotonic import IsotonicRegression

    regression = IsotonicRegression(out_of_bounds="clip")
    regression.fit(confidences, correct.astype(np.float64))
    return np.maximum.accumulate(np.asarray(regression.predict(_CONFIDENCES), np.float64))


def _lowest_level(chances: _Floats, correct: npt.NDArray[np.bool_], accuracy: float) -> float:
    """Return the least chance from which on predictions are right as often as asked; 2 if none."""
    order = np.argsort(-chances, kind="stable")
    falling = chances[order]
    counts = np.arange(1, len(order) + 1)
    # Cut after the first, the first two, ... of the surest, but not between equal chances.
    possible = np.append(falling[:-1] > falling[1:], True) & (counts >= LEAST_CERTAIN)
    right = np.cumsum(correct[order])
    for place in np.flatnonzero(possible)[::-1]:
        # The lower end of an interval of one standard error.
        if wilson_interval(int(right[place]), int(counts[place]), z=1.0).low >= accuracy:
            return float(falling[place])
    return 2.0


def _check_rows(what: str, rows: _Floats, labels: _Labels) -> None:
    if rows.ndim != 2 or labels.shape != rows.shape[:1] or labels.size == 0:
        raise UsageError(
            f"expected as many rows of {what} as labels, at least one; "
            f"got {rows.shape} and {labels.shape}"
        )
