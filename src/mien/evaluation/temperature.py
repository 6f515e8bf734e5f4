"""Calibrating an exported model: temperatures, thresholds and bias from images and their counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.calibration import Temperature, log_of_mean, softmax
from mien.core.errors import UsageError
from mien.core.manifest import Manifest, load_manifest, write_manifest
from mien.evaluation.calibration import calibrate, fit_softening
from mien.evaluation.predicting import predict
from mien.evaluation.thresholds import CERTAIN_ACCURACY, fit_thresholds
from mien.inference.classifier import Classifier
from mien.inference.preprocess import tta_views

_Levels = Callable[[npt.NDArray[np.float64], npt.NDArray[np.int64]], npt.NDArray[np.float64]]
"""From probabilities (N, classes) and right classes (N,) to a threshold a class."""

FOLDS = 5
"""Parts of the images, each of which is judged by what the others gave."""


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

    The temperatures make confidences honest; below its threshold a reading is called uncertain.

    Args:
        folder: the model's; its manifest is replaced.
        images: uint8 (N, 48, 48), none of which the model was trained on.
        labels: int64 (N,), indices into the model's labels.
        split: the split's name, for the record.
        votes: int64 (N, classes): how many people named each class, at least one an image. Then
            each vote counts as a label does, so that a confidence is the share of people who would
            say so, and ``labels`` are not looked at.
        reading: which of the model's readings is calibrated (see `Manifest.read_by`).
        accuracy: how often readings that are not called uncertain are to be right, 0-1.
        thresholds: the confidence, 0-1, from which on a reading of each label is certain; fitted
            for ``accuracy`` unless given.
        augmented: fit temperatures for test-time augmentation too (ten times the work); else
            those that the manifest had go.
        quiet: draw no progress bar.

    Returns:
        All shares 0-1: ``split``, ``images`` (their number), ``error_before``, ``error_after`` (the
        calibration error), ``error_held_out`` (that of `FOLDS` parts, each calibrated by the
        others), ``uncertain`` (the share of the readings that are below their threshold),
        ``certain_accuracy`` (how many of the others are right, None if there is none),
        ``certain_held_out`` (the same of parts that thresholds were not fitted on) and
        ``error_augmented`` (None unless asked for).

    Raises:
        ModelError: if the model is missing or damaged.
        UsageError: if there are no images.
        OutputError: if the manifest cannot be written.
    """
    classifier = Classifier.open(folder, labels=None, reading=reading)
    manifest = classifier.manifest
    if votes is None:
        votes = np.eye(len(classifier.labels), dtype=np.int64)[labels]
    answers = _Answers.of(votes)
    bias = np.array([manifest.bias.get(label, 0.0) for label in manifest.labels])

    def logits_of(faces: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.asarray(classifier.logits(faces) + bias, np.float32)

    logits = predict(logits_of, images, label="calibrating", quiet=quiet).astype(np.float64)
    logits, answered = logits[answers.images], answers.classes
    softening = fit_softening(logits, answered)
    after = softening.probabilities(logits)
    fixed = None if thresholds is None else np.array([thresholds[each] for each in manifest.labels])

    def levels_of(
        probabilities: npt.NDArray[np.float64], classes: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        if fixed is not None:
            return fixed
        return fit_thresholds(probabilities, classes, accuracy=accuracy)

    levels = levels_of(after, answered)
    held_out, trusted = _held_out(logits, answers, levels_of)
    certain = after.max(axis=1) >= levels[after.argmax(axis=1)]
    together = _fit_augmented(logits_of, images, answers, quiet=quiet) if augmented else None
    figures = {
        "split": split,
        "images": len(images),
        "answers": len(answered),
        "error_before": calibration_error(softmax(logits), answered),
        "error_after": calibration_error(after, answered),
        "error_held_out": calibration_error(held_out, answered),
        "uncertain": float(1 - certain.mean()),
        "certain_accuracy": _accuracy(after[certain], answered[certain]),
        "certain_held_out": _accuracy(held_out[trusted], answered[trusted]),
        "error_augmented": None if together is None else together[1],
    }
    calibrated = dataclasses.replace(
        manifest,
        temperature=softening.base,
        entropy_exponent=softening.exponent,
        augmented=None if together is None else together[0],
        thresholds=dict(zip(classifier.labels, levels.tolist(), strict=True)),
        metrics={**manifest.metrics, "calibration": figures},
    )
    write_manifest(folder, calibrated)
    return figures


def balance_model(folder: Path, strength: float, *, reading: str | None = None) -> Manifest:
    """Lift the emotions that Training has few images of, by a bias on their logits.

    ``bias = -strength * log(share of Training)``, less the biases' mean (Menon et al. 2021,
    "Long-tail learning via logit adjustment", section 4.1). Calibrate afterwards.

    Args:
        folder: the model's; its manifest, which has to hold the images of each class in
            ``data.train``, is replaced.
        strength: 0 (none) to 1 (as if all classes were equally frequent).
        reading: which of the model's readings (see `Manifest.read_by`).

    Returns:
        The new manifest.

    Raises:
        UsageError: if the strength is not from 0 to 1, or the counts are missing.
        ModelError: if the model is missing or damaged.
        OutputError: if the manifest cannot be written.
    """
    if not 0 <= strength <= 1:
        raise UsageError(f"expected a strength of balancing from 0 to 1, got {strength}")
    manifest = load_manifest(folder, labels=None).read_by(reading)
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


def calibration_error(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> float:
    """Return the expected calibration error, 0-1, of probabilities (N, classes)."""
    return calibrate(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels).error


@dataclass(frozen=True)
class _Answers:
    """What people said of images, an answer a row: (rows,) places of images, and of classes."""

    images: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, votes: npt.NDArray[np.int64]) -> _Answers:
        images, classes = np.nonzero(votes)
        counts = votes[images, classes]
        return cls(np.repeat(images, counts), np.repeat(classes, counts))


def _fit_augmented(
    logits_of: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]],
    images: npt.NDArray[np.uint8],
    answers: _Answers,
    *,
    quiet: bool,
) -> tuple[Temperature, float]:
    """Return the temperatures of the mean over views, and the calibration error they leave."""

    def mean_of(faces: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        views = [softmax(logits_of(view).astype(np.float64)) for view in tta_views(faces)]
        return log_of_mean(views).astype(np.float32)

    each = predict(mean_of, images, label="calibrating views", quiet=quiet).astype(np.float64)
    logits = each[answers.images]
    softening = fit_softening(logits, answers.classes)
    return softening, calibration_error(softening.probabilities(logits), answers.classes)


def _held_out(
    logits: npt.NDArray[np.float64], answers: _Answers, levels_of: _Levels
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return probabilities (N, classes) and which are certain (N,), fitted on other images each."""
    probabilities, labels = softmax(logits), answers.classes
    certain = np.zeros(len(labels), np.bool_)
    count = int(answers.images.max()) + 1
    for images in np.array_split(np.random.default_rng(0).permutation(count), FOLDS):
        # All answers to an image go together.
        mine = np.isin(answers.images, images)
        part, rest = np.flatnonzero(mine), np.flatnonzero(~mine)
        if not len(rest) or not len(part):
            continue
        softening = fit_softening(logits[rest], labels[rest])
        levels = levels_of(softening.probabilities(logits[rest]), labels[rest])
        judged = softening.probabilities(logits[part])
        probabilities[part] = judged
        certain[part] = judged.max(axis=1) >= levels[judged.argmax(axis=1)]
    return probabilities, certain


def _accuracy(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> float | None:
    if not len(labels):
        return None
    return float((probabilities.argmax(axis=1) == labels).mean())
