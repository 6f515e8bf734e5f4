"""Views that other processes draw are those that a run of mien train shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data_maker import make_tiny_splits
from lab.gpu.views import ViewMaker
from mien.training.data import BatchSource, TrainingData
from mien.training.recipe import Config
from training_maker import tiny_config

SPLITS = make_tiny_splits(per_class=20)


def recipe(**changes: Any) -> Config:
    return tiny_config(
        augmentation_mixup=0.5,
        augmentation_mix_probability=1.0,
        augmentation_plain_epochs=1,
        training_head_epochs=0,
        training_epochs=3,
        distill_views=3,
        **changes,
    )


def source(config: Config) -> BatchSource:
    return BatchSource(TrainingData(SPLITS["train"], SPLITS["val"]), config)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_the_batches_of_the_trainer_in_mien(workers: int) -> None:
    config = recipe(distill_teachers=["runs/a"], distill_sharp=True)
    made = ViewMaker(source(config), config, workers=workers)
    try:
        epochs = [made.epoch(epoch) for epoch in range(3)]
    finally:
        made.close()
    size = config.training.batch_size
    for number, epoch in enumerate(epochs):
        for step, batch in enumerate(source(config).epoch(number)):
            part = slice(step * size, (step + 1) * size)
            assert np.array_equal(epoch.images[part], batch.faces[..., 0])
            assert np.array_equal(epoch.targets[part], batch.targets)
        assert epoch.teacher_images is epoch.sharp
    assert not np.array_equal(epochs[0].images, epochs[1].images)
    assert epochs[0].targets.max(axis=1).min() < 0.99
    assert (epochs[2].targets.max(axis=1) == 1).all()
