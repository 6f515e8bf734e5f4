"""What a recipe trains on: fewer images where FER+ says so, and the votes of what is left."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_maker import make_tiny_splits
from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, UsageError
from mien.data.votes import VOTE_NAMES
from mien.training.batches import BatchSource
from mien.training.training_data import TrainingData, fingerprint, load_training_data
from training_maker import BATCH, tiny_config


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


def test_votes_come_as_shares_beside_the_images_where_they_are_learnt(
    tiny_data: Path, votes: Path
) -> None:
    assert load(tiny_data, data_votes=str(votes)).votes is None
    data = load(tiny_data, data_votes=str(votes), training_votes_weight=0.3)
    assert data.votes is not None
    assert data.votes.shape == (28, 7)
    expected = 0.8 * np.eye(7)[data.train.labels]
    expected[:, EMOTIONS.index("sad")] += 0.2
    faces = np.arange(28) % 4 != 0
    assert np.allclose(data.votes[faces], expected[faces])


def test_the_votes_themselves_come_where_they_are_added_to_teachers(
    tiny_data: Path, votes: Path
) -> None:
    changes: Any = {"distill_teachers": ["outputs/teacher"], "distill_views": 1}
    plain = load(tiny_data, data_votes=str(votes), **changes)
    assert plain.counts is None
    data = load(tiny_data, data_votes=str(votes), distill_votes=0.5, **changes)
    assert data.counts is not None
    assert data.counts.shape == (28, 10)
    assert (data.counts.sum(axis=1) == 10).all()
    assert fingerprint(data) != fingerprint(plain)


def test_what_is_no_face_is_left_out_of_training_alone(tiny_data: Path, votes: Path) -> None:
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
    assert fingerprint(data) != fingerprint(whole)


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
    faces = data.train.take(np.arange(28) % 4 != 0)
    shares = data.votes[np.arange(28) % 4 != 0]
    for batch in BatchSource(faces, config, shares).epoch(0):
        assert batch.targets.shape == (BATCH, 7)
        expected = 0.8 * batch.targets
        expected[:, EMOTIONS.index("sad")] += 0.2
        assert batch.votes is not None
        assert np.allclose(batch.votes, expected, atol=1e-6)


def test_votes_that_are_not_there_are_said_before_anything_is_read(tiny_data: Path) -> None:
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
