"""Calibrating an exported model: temperature and thresholds from validation images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.manifest import write_manifest
from mien.evaluation.calibration import calibrate, fit_temperature, fit_thresholds
from mien.evaluation.predicting import predict
from mien.inference.classifier import Classifier, softmax


def calibrate_model(
    folder: Path,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    *,
    split: str,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit a model's temperature and thresholds on a split and write them into its manifest.

    The temperature makes confidences honest; below its threshold a reading is called uncertain.

    Args:
        folder: the model's; its manifest is replaced.
        images: uint8 (N, 48, 48), none of which the model was trained on.
        labels: int64 (N,), indices into the model's labels.
        split: the split's name, for the record.
        quiet: draw no progress bar.

    Returns:
        ``split``, ``images`` (their number), the calibration error before and after, and
        ``uncertain``, the share of the readings that are below their threshold; 0-1.

    Raises:
        ModelError: if the model is missing or damaged.
        UsageError: if there are no images.
        OutputError: if the manifest cannot be written.
    """
    classifier = Classifier.open(folder, labels=None)
    logits = predict(classifier.logits, images, label="calibrating", quiet=quiet).astype(np.float64)
    temperature = fit_temperature(logits, labels)
    before, after = softmax(logits), softmax(logits / temperature)
    thresholds = fit_thresholds(after, labels)
    figures = {
        "split": split,
        "images": len(images),
        "error_before": _calibration_error(before, labels),
        "error_after": _calibration_error(after, labels),
        "uncertain": float((after.max(axis=1) < thresholds[after.argmax(axis=1)]).mean()),
    }
    manifest = classifier.manifest
    calibrated = dataclasses.replace(
        manifest,
        temperature=temperature,
        thresholds=dict(zip(classifier.labels, thresholds.tolist(), strict=True)),
        metrics={**manifest.metrics, "calibration": figures},
    )
    write_manifest(folder, calibrated)
    return figures


def _calibration_error(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> float:
    return calibrate(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels).error
