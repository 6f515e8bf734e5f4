"""Training data: images, labels and votes, and the batches made from them."""

from __future__ import annotations

import contextlib
import csv
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_maker import make_tiny_split, make_tiny_splits
from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, UsageError
from mien.data.dataset import Split
from mien.data.votes import VOTE_NAMES
from mien.training.data import (
    BatchSource,
    TrainingData,
    balanced_class_weights,
    load_training_data,
    prefetch,
    vote_log_odds,
)
from mien.training.transforms import Batch
from training_maker import BATCH, STEPS, tiny_config
from waiting import until

PLAIN = {"augmentation_enabled": False}


def source(split: Split | None = None, **changes: Any) -> BatchSource:
    chosen = split or make_tiny_split("train")
    return BatchSource(TrainingData(chosen, chosen), tiny_config(**changes))


def equal(first: Batch, second: Batch) -> bool:
    return all(np.array_equal(vars(first)[name], vars(second)[name]) for name in vars(first))


# ---------------------------------------------------------------- class weights
def test_class_weights_are_inverse_to_the_counts() -> None:
    labels = np.repeat(np.arange(7), [10, 1, 10, 20, 10, 10, 9])
    weights = balanced_class_weights(labels)
    assert weights == pytest.approx([1.0, 10.0, 1.0, 0.5, 1.0, 1.0, 10 / 9])


@given(arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 6)))
def test_every_present_class_has_the_same_total_weight(labels: np.ndarray) -> None:
    weights = balanced_class_weights(labels)
    counts = np.bincount(labels, minlength=7)
    sums = (weights * counts)[counts > 0]
    assert np.allclose(sums, sums[0], rtol=1e-5)
    assert np.isclose(weights[labels].mean(), 1, rtol=1e-5)
    assert np.all(weights[counts == 0] == 0)


def test_a_power_below_one_evens_the_class_weights() -> None:
    labels = np.repeat(np.arange(7), [16, 1, 4, 16, 16, 16, 16])
    half = balanced_class_weights(labels, power=0.5)
    assert half[1] / half[0] == pytest.approx(4.0)
    assert half[2] / half[0] == pytest.approx(2.0)
    assert half[labels].mean() == pytest.approx(1.0)
    assert balanced_class_weights(labels, power=0.0) == pytest.approx(np.ones(7))


def test_batches_have_class_weights_if_the_recipe_has() -> None:
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


def test_epochs_differ_in_order_and_augmentation() -> None:
    first, second = (list(source().epoch(epoch)) for epoch in (0, 1))
    assert not np.array_equal(first[0].targets, second[0].targets)
    assert not np.array_equal(first[0].faces, second[0].faces)


def test_a_batch_does_not_depend_on_where_the_epoch_is_resumed() -> None:
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
def made(step: int) -> Batch:
    number = np.full(1, step, np.float32)
    return Batch(faces=number, targets=number, weights=number)


def workers() -> int:
    return sum(thread.name.startswith("mien-batches") for thread in threading.enumerate())


def test_batches_come_in_order_and_the_thread_ends() -> None:
    assert [int(batch.faces[0]) for batch in prefetch(made, range(3, 20))] == list(range(3, 20))
    assert workers() == 0
    assert list(prefetch(made, range(0))) == []


def test_an_error_in_a_thread_is_raised_by_the_iterator() -> None:
    def broken(step: int) -> Batch:
        if step == 2:
            raise DataError("step 2 cannot be made")
        return made(step)

    taken: list[Batch] = []
    with pytest.raises(DataError, match="step 2 cannot be made"):
        taken.extend(prefetch(broken, range(9)))
    assert workers() == 0


def test_a_few_batches_are_made_ahead() -> None:
    steps: list[int] = []

    def noted(step: int) -> Batch:
        steps.append(step)
        return made(step)

    batches = prefetch(noted, range(50))
    with contextlib.closing(batches):
        next(batches)
        until(lambda: len(steps) >= 3)
        assert len(steps) < 12


def test_leaving_early_stops_the_thread() -> None:
    batches = prefetch(made, range(1000))
    with contextlib.closing(batches):
        next(batches)
        assert workers() == 1
    assert workers() == 0


def test_plain_batches_have_each_image_at_most_once_unchanged() -> None:
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


# ---------------------------------------------------------------- images and votes
@pytest.fixture
def votes(tmp_path: Path) -> Path:
    """Eight votes for each image's label, two for sadness; the first of each class is no face."""
    path = tmp_path / "votes.csv"
    with path.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(["split", "file", *VOTE_NAMES])
        for split in make_tiny_splits(per_class=4).values():
            for place, (label, file) in enumerate(zip(split.labels, split.files, strict=True)):
                counts = dict.fromkeys(VOTE_NAMES, 0)
                first = split.name == "train" and place % 4 == 0
                counts["not_a_face" if first else EMOTIONS[label]] += 8
                counts["sad"] += 2
                writer.writerow([split.name, Path(file).name, *counts.values()])
    return path


def load(source: Path, **changes: Any) -> TrainingData:
    return load_training_data(tiny_config(source, **changes), quiet=True)


def test_votes_are_loaded_as_shares_if_they_are_a_target(tiny_data: Path, votes: Path) -> None:
    assert load(tiny_data, data_votes=str(votes)).votes is None
    data = load(tiny_data, data_votes=str(votes), training_votes_weight=0.3)
    assert data.votes is not None
    assert data.votes.shape == (28, 7)
    expected = 0.8 * np.eye(7)[data.train.labels]
    expected[:, EMOTIONS.index("sad")] += 0.2
    faces = np.arange(28) % 4 != 0
    assert np.allclose(data.votes[faces], expected[faces])


def test_vote_counts_are_loaded_if_they_are_added_to_teachers(tiny_data: Path, votes: Path) -> None:
    changes: Any = {"distill_teachers": ["outputs/teacher"], "distill_views": 1}
    plain = load(tiny_data, data_votes=str(votes), **changes)
    assert plain.counts is None
    data = load(tiny_data, data_votes=str(votes), distill_votes=0.5, **changes)
    assert data.counts is not None
    assert data.counts.shape == (28, 10)
    assert (data.counts.sum(axis=1) == 10).all()
    assert data.fingerprint() != plain.fingerprint()


def test_images_without_a_face_are_left_out_of_training_only(tiny_data: Path, votes: Path) -> None:
    whole = load(tiny_data)
    data = load(
        tiny_data, data_votes=str(votes), data_drop_not_a_face=True, training_votes_weight=0.3
    )
    assert data.train.files == tuple(
        file for place, file in enumerate(whole.train.files) if place % 4
    )
    assert data.votes is not None
    assert len(data.votes) == len(data.train) == 21
    assert data.val.files == whole.val.files
    assert data.fingerprint() != whole.fingerprint()


def test_a_fraction_keeps_votes_and_images_together(tiny_data: Path, votes: Path) -> None:
    changes: Any = {"data_votes": str(votes), "training_votes_weight": 0.3}
    whole = load(tiny_data, **changes)
    half = load(tiny_data, data_fraction=0.5, **changes)
    assert whole.votes is not None
    assert half.votes is not None
    known = dict(zip(whole.train.files, whole.votes, strict=True))
    assert len(half.train) == 14
    for file, shares in zip(half.train.files, half.votes, strict=True):
        assert np.array_equal(shares, known[file])


@pytest.mark.parametrize("views", [0, 2])
def test_batches_mix_votes_as_they_mix_labels(tiny_data: Path, votes: Path, views: int) -> None:
    config = tiny_config(
        tiny_data,
        data_votes=str(votes),
        training_votes_weight=0.3,
        augmentation_mixup=1.0,
        augmentation_mix_probability=1.0,
        distill_views=views,
    )
    data = load_training_data(config, quiet=True)
    assert data.votes is not None
    seen = np.arange(28) % 4 != 0
    faces = TrainingData(data.train.take(seen), data.val, votes=data.votes[seen])
    for batch in BatchSource(faces, config).epoch(0):
        assert batch.targets.shape == (BATCH, 7)
        expected = 0.8 * batch.targets
        expected[:, EMOTIONS.index("sad")] += 0.2
        assert batch.votes is not None
        assert np.allclose(batch.votes, expected, atol=1e-6)


def test_missing_votes_are_an_error_before_images_are_read(tiny_data: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the votes nowhere\.csv"):
        load(tiny_data, data_votes="nowhere.csv")
    with pytest.raises(UsageError, match=r"votes_weight = 0\.3 needs FER\+ votes: name their"):
        tiny_config(training_votes_weight=0.3)
    with pytest.raises(UsageError, match=r"drop_not_a_face = true needs FER\+ votes: name their"):
        tiny_config(data_drop_not_a_face=True)
    with pytest.raises(UsageError, match=r"on the seven emotions: leave data\.labels empty"):
        tiny_config(data_votes="v.csv", data_labels=["a", "b"])
    with pytest.raises(UsageError, match=r"votes_weight = -1\.0: expected 0 or more"):
        tiny_config(data_votes="v.csv", training_votes_weight=-1.0)


COLUMNS = np.array([VOTE_NAMES.index(emotion) for emotion in EMOTIONS])
RANDOM = np.random.default_rng(3)
LABELS = RANDOM.choice(7, 2000, p=[0.14, 0.02, 0.14, 0.25, 0.17, 0.17, 0.11])


def votes_on(labels: npt.NDArray[np.int64], *, right: int) -> npt.NDArray[np.int64]:
    """Ten votes per image: a number of them for its label, the rest at random."""
    counts = RANDOM.multinomial(10 - right, [0.1] * 10, len(labels))
    counts[np.arange(len(labels)), COLUMNS[labels]] += right
    return counts


def test_log_odds_favour_the_emotion_that_people_named() -> None:
    log_odds = vote_log_odds(votes_on(LABELS, right=6), LABELS)
    assert log_odds.shape == (2000, 7)
    assert log_odds.dtype == np.float32
    assert np.abs(log_odds.mean(axis=1)).max() < 1e-5
    assert (log_odds.argmax(axis=1) == LABELS).mean() > 0.97


def test_log_odds_plus_log_priors_give_the_posterior() -> None:
    counts = votes_on(LABELS, right=1)
    logits = vote_log_odds(counts, LABELS) + np.log(np.bincount(LABELS) / len(LABELS))
    posterior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # Calibrated: the classes are as frequent as they are foretold to be.
    assert np.abs(posterior.mean(axis=0) - np.bincount(LABELS) / len(LABELS)).max() < 0.005
    sure = posterior.max(axis=1)
    assert abs(sure.mean() - (posterior.argmax(axis=1) == LABELS).mean()) < 0.05


def test_without_votes_there_are_no_log_odds() -> None:
    counts = votes_on(LABELS, right=6)
    counts[::2] = 0
    log_odds = vote_log_odds(counts, LABELS)
    assert not log_odds[::2].any()
    assert log_odds[1::2].any(axis=1).all()
    assert not vote_log_odds(np.zeros((5, 10), np.int64), LABELS[:5]).any()


def test_a_class_without_images_has_no_log_odds() -> None:
    labels = np.where(LABELS == 1, 0, LABELS)
    log_odds = vote_log_odds(votes_on(labels, right=6), labels)
    assert not log_odds[:, 1].any()
    assert np.isfinite(log_odds).all()
