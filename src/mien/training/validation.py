"""How good a network is on the validation images, in the three figures that a run keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_BATCH = 128


def predict_probabilities(model: Any, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return a network's probabilities, float32 (N, 7), for standard faces, uint8 (N, 48, 48)."""
    parts = []
    # Of no images, too, there is an answer of the right shape.
    for start in range(0, max(1, len(images)), _BATCH):
        faces = images[start : start + _BATCH, ..., None].astype(np.float32)
        padding = [(0, _BATCH - len(faces)), (0, 0), (0, 0), (0, 0)]
        # One shape for every batch: a new one would be compiled anew.
        answer = np.asarray(model.predict_on_batch(np.pad(faces, padding)))
        parts.append(answer[: len(faces)])
    return np.concatenate(parts).astype(np.float32)


def validation_figures(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Return cross-entropy, accuracy and macro-F1 of probabilities (N, 7) against labels (N,)."""
    from sklearn.metrics import f1_score

    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    predicted = probabilities.argmax(axis=1)
    return {
        "val_loss": float(-np.log(np.maximum(chosen, 1e-7)).mean()),
        "val_accuracy": float((predicted == labels).mean()),
        "val_macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
    }
