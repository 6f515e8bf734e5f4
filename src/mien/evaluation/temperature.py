"""Calibrating an exported model: its temperature, fitted on validation images, in its manifest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.manifest import write_manifest
from mien.core.progress import track
from mien.evaluation.calibration import calibrate, fit_temperature
from mien.inference.classifier import Classifier, softmax

_BATCH_SIZE = 32


def calibrate_model(
    folder: Path,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    *,
    split: str,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fit a model's temperature on a split and write it into the model's manifest.

    Args:
        folder: the model's; its manifest is replaced.
        images: uint8 (N, 48, 48), none of which the model was trained on.
        labels: int64 (N,), indices into `EMOTIONS`.
        split: the split's name, for the record.
        quiet: draw no progress bar.

    Returns:
        ``split``, ``images`` (their number), and the calibration error before and after, 0-1.

    Raises:
        ModelError: if the model is missing or damaged.
        UsageError: if there are no images.
        OutputError: if the manifest cannot be written.
    """
    classifier = Classifier.open(folder)
    starts = range(0, len(images), _BATCH_SIZE)
    batches = [
        classifier.logits(images[start : start + _BATCH_SIZE])
        for start in track(starts, "calibrating", unit="batch", quiet=quiet)
    ]
    logits = np.concatenate(batches or [np.empty((0, len(classifier.labels)))]).astype(np.float64)
    temperature = fit_temperature(logits, labels)
    correct = logits.argmax(axis=1) == labels
    before, after = (
        calibrate(softmax(logits / each).max(axis=1), correct).error for each in (1.0, temperature)
    )
    figures = {
        "split": split,
        "images": len(images),
        "error_before": before,
        "error_after": after,
    }
    manifest = classifier.manifest
    metrics = {**manifest.metrics, "calibration": figures}
    write_manifest(folder, dataclasses.replace(manifest, temperature=temperature, metrics=metrics))
    return figures
