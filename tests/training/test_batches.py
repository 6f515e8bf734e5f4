from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_maker import make_tiny_split
from mien.core.errors import DataError
from mien.data.dataset import Split
from mien.training.augmentation import MixedBatch
from mien.training.batches import BatchSource, balanced_class_weights, made_ahead
from training_maker import BATCH, STEPS, tiny_config

PLAIN = {"augmentation_enabled": False}


def source(split: Split | None = None, **changes: Any) -> BatchSource:
    return BatchSource(split or make_tiny_split("train"), tiny_config(**changes))


def equal(first: MixedBatch, second: MixedBatch) -> bool:
    return all(np.array_equal(vars(first)[name], vars(second)[name]) for name in vars(first))


# ---------------------------------------------------------------- class weights
def test_class_weights_are_inverse_to_the_counts() -> None:
    labels = np.repeat(np.arange(7), [10, 1, 10, 20, 10, 10, 9])
    weights = balanced_class_weights(labels)
    assert weights == pytest.approx([1.0, 10.0, 1.0, 0.5, 1.0, 1.0, 10 / 9])


@given(arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 6)))
def test_every_class_that_is_there_weighs_the_same_in_sum(labels: np.ndarray) -> None:
    weights = balanced_class_weights(labels)
    counts = np.bincount(labels, minlength=7)
    sums = (weights * counts)[counts > 0]
    assert np.allclose(sums, sums[0], rtol=1e-5)
    assert np.isclose(weights[labels].mean(), 1, rtol=1e-5)
    assert np.all(weights[counts == 0] == 0)


def test_a_power_softens_the_class_weights() -> None:
    labels = np.repeat(np.arange(7), [16, 1, 4, 16, 16, 16, 16])
    half = balanced_class_weights(labels, power=0.5)
    assert half[1] / half[0] == pytest.approx(4.0)
    assert half[2] / half[0] == pytest.approx(2.0)
    assert half[labels].mean() == pytest.approx(1.0)
    assert balanced_class_weights(labels, power=0.0) == pytest.approx(np.ones(7))


def test_class_weights_come_with_the_batches_where_they_are_on() -> None:
    split = make_tiny_split("train")
    uneven = split.take(np.flatnonzero((split.labels != 1) | (np.arange(28) == 4)))
    weights = balanced_class_weights(uneven.labels)
    on = source(uneven, training_class_weights=True, **PLAIN)
    for batch in on.epoch(0):
        assert np.array_equal(batch.weights, weights[batch.targets.argmax(axis=1)])
    assert weights[1] == 4 * weights[0]
    for batch in source(uneven, **PLAIN).epoch(0):
        assert np.array_equal(batch.weights, np.ones(BATCH))


# ---------------------------------------------------------------- what is in an epoch
def test_an_epoch_has_each_image_at_most_once_with_its_label() -> None:
    split = make_tiny_split("train")
    batches = list(source(split, **PLAIN).epoch(0))
    assert len(batches) == STEPS == len(split) // BATCH
    known = {
        image.tobytes(): label for image, label in zip(split.images, split.labels, strict=True)
    }
    seen = [face.astype(np.uint8).tobytes() for batch in batches for face in batch.faces]
    assert len(set(seen)) == len(seen) == STEPS * BATCH
    labels = [label for batch in batches for label in batch.targets.argmax(axis=1)]
    assert [known[image] for image in seen] == labels
    assert batches[0].faces.shape == (BATCH, 48, 48, 1)
    assert batches[0].faces.dtype == np.float32


def test_epochs_differ_in_their_order_and_in_chance() -> None:
    first, second = (list(source().epoch(epoch)) for epoch in (0, 1))
    assert not np.array_equal(first[0].targets, second[0].targets)
    assert not np.array_equal(first[0].faces, second[0].faces)


def test_a_batch_is_the_same_wherever_the_epoch_is_taken_up() -> None:
    changes: Any = {"augmentation_mixup": 0.4, "augmentation_plain_epochs": 0}
    whole = list(source(**changes).epoch(1))
    for first in range(STEPS + 1):
        rest = list(source(**changes).epoch(1, first))
        assert len(rest) == STEPS - first
        assert all(equal(a, b) for a, b in zip(rest, whole[first:], strict=True))


def test_another_seed_gives_other_batches() -> None:
    first, second = (next(source(training_seed=seed).epoch(0)) for seed in (1, 2))
    assert not np.array_equal(first.targets, second.targets)


def test_mixing_stops_for_the_last_epochs() -> None:
    changes: Any = {
        "augmentation_mixup": 1.0,
        "augmentation_mix_probability": 1.0,
        "augmentation_plain_epochs": 1,
        "training_head_epochs": 1,
        "training_epochs": 2,
    }

    def is_mixed(epoch: int) -> bool:
        return any(batch.targets.max(axis=1).min() < 1 for batch in source(**changes).epoch(epoch))

    assert [is_mixed(epoch) for epoch in range(3)] == [True, True, False]


def test_fewer_images_than_a_batch_are_refused() -> None:
    with pytest.raises(DataError, match=r"28 images: expected at least training\.batch_size = 29"):
        source(training_batch_size=29)


# ---------------------------------------------------------------- made ahead
def made(step: int) -> MixedBatch:
    number = np.full(1, step, np.float32)
    return MixedBatch(faces=number, targets=number, weights=number)


def workers() -> int:
    return sum(thread.name.startswith("mien-batches") for thread in threading.enumerate())


def test_batches_come_in_order_and_the_thread_ends() -> None:
    assert [int(batch.faces[0]) for batch in made_ahead(made, range(3, 20))] == list(range(3, 20))
    assert workers() == 0
    assert list(made_ahead(made, range(0))) == []


def test_an_error_in_making_comes_out_where_it_is_waited_for() -> None:
    def broken(step: int) -> MixedBatch:
        if step == 2:
            raise DataError("step 2 cannot be made")
        return made(step)

    taken: list[MixedBatch] = []
    with pytest.raises(DataError, match="step 2 cannot be made"):
        taken.extend(made_ahead(broken, range(9)))
    assert workers() == 0


def test_batches_are_made_before_they_are_asked_for_but_not_all() -> None:
    steps: list[int] = []

    def noted(step: int) -> MixedBatch:
        steps.append(step)
        return made(step)

    batches = made_ahead(noted, range(50))
    with contextlib.closing(batches):
        next(batches)
        deadline = time.monotonic() + 5
        while len(steps) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert 3 <= len(steps) < 12


def test_leaving_early_stops_the_thread() -> None:
    batches = made_ahead(made, range(1000))
    with contextlib.closing(batches):
        next(batches)
        assert workers() == 1
    assert workers() == 0


def test_plain_batches_are_the_images_as_they_are_each_once_at_most() -> None:
    split = make_tiny_split("train")
    batches = list(source(split).plain_batches())
    assert len(batches) == STEPS
    known = {
        image.tobytes(): int(label) for image, label in zip(split.images, split.labels, strict=True)
    }
    seen = []
    for batch in batches:
        for face, target in zip(batch.faces, batch.targets, strict=True):
            image = face[..., 0].astype(np.uint8).tobytes()
            assert known[image] == target.argmax()
            seen.append(image)
    assert len(set(seen)) == len(seen) == STEPS * BATCH
    again = source(split).plain_batches()
    assert all(equal(one, other) for one, other in zip(batches, again, strict=True))


@pytest.mark.parametrize("views", [0, 2])
def test_several_workers_make_the_same_batches(views: int) -> None:
    changes: dict[str, Any] = {"distill_views": views, "augmentation_mixup": 0.4}

    def faces(workers: int) -> list[Any]:
        several = source(training_workers=workers, **changes)
        return [batch.faces for epoch in range(3) for batch in several.epoch(epoch)]

    assert all(map(np.array_equal, faces(1), faces(3)))
    assert len(faces(3)) == 3 * STEPS
