"""Many faces through a classifier, with progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError
from mien.core.progress import Progress

Classify: TypeAlias = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""Standard faces, uint8 (N, 48, 48), to probabilities, float32 (N, classes) whose rows sum to 1."""

BATCH_SIZE = 64


def predict(
    classify: Classify,
    images: npt.NDArray[np.uint8],
    *,
    batch_size: int = BATCH_SIZE,
    label: str = "evaluating",
    quiet: bool = False,
) -> npt.NDArray[np.float32]:
    """Classify images in batches, drawing progress on stderr.

    Args:
        classify: the classifier.
        images: uint8 (N, 48, 48), at least one.
        batch_size: images at a time; it changes speed and memory, not the numbers.
        label: what the progress bar says.
        quiet: draw no progress bar.

    Returns:
        float32 (N, classes).

    Raises:
        UsageError: if there is no image or the batch size is below 1.
    """
    if batch_size < 1:
        raise UsageError(f"expected a batch size of 1 or more, got {batch_size}")
    if len(images) == 0:
        raise UsageError("nothing to evaluate: there are no images")
    batches = []
    with Progress(label, len(images), unit="img", quiet=quiet) as progress:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            batches.append(classify(batch))
            progress.advance(len(batch))
    return np.concatenate(batches)
