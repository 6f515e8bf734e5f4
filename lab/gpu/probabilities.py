"""Probabilities of networks on PublicTest, of the faces and of their mirror images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mien.core.files import replacing
from mien.data.loading import load_split
from mien.training.model import load_keras_model
from mien.training.run import RunFolder
from mien.training.trainer import predict_probabilities


def write_probabilities(data: Path, target: Path, runs: Sequence[Path]) -> None:
    """Write those of the best networks of runs: float16 (2, N, 7) by the run's name.

    Keras must be set up already.

    Args:
        data: the data set; the faces are those of its ``val``.
        target: the ``.npz`` file.
        runs: their folders.

    Raises:
        ModelError: if a network is missing or damaged.
        OutputError: if the file cannot be written.
    """
    images = load_split(data, "val", quiet=True).images
    found = {}
    for run in runs:
        network = load_keras_model(RunFolder(run).best)
        network.compile()
        views = [predict_probabilities(network, each) for each in (images, images[:, :, ::-1])]
        found[run.name] = np.stack(views).astype(np.float16)
    with replacing(target) as temporary:
        np.savez(temporary, **found)  # type: ignore[arg-type]
