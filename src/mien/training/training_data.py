"""What a recipe trains on: the images it names, fewer of them where it says so, and their votes."""

from __future__ import annotations

import dataclasses
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError
from mien.data.dataset import Split
from mien.data.loading import load_dataset
from mien.data.votes import (
    align_votes,
    emotion_shares,
    load_votes,
    not_a_face_mask,
    with_majority,
)
from mien.training.config import Config


@dataclass(frozen=True)
class TrainingData:
    """The images of a run.

    Attributes:
        train: what is trained on.
        val: what the best epoch is chosen on.
        votes: the FER+ votes on ``train`` as soft labels, float32 (N, 7), a row of zeros where
            there are none; None where the recipe has no use for them.
        counts: the FER+ votes on ``train`` themselves, int64 (N, 10), as `align_votes` gives them;
            None where the recipe adds nothing of them to its teachers.
        targets: what is learnt in place of the labels, float32 (N, classes), rows that sum to 1;
            None where it is the labels.
    """

    train: Split
    val: Split
    votes: npt.NDArray[np.float32] | None = None
    counts: npt.NDArray[np.int64] | None = None
    targets: npt.NDArray[np.float32] | None = None


def load_training_data(config: Config, *, quiet: bool) -> TrainingData:
    """Load the images and votes of a recipe.

    Raises:
        DataError: if images or votes are missing, empty or malformed, or do not belong together.
        UsageError: if the recipe's classes are not those of the images.
    """
    settings = config.data
    splits = load_dataset(settings.source, splits=("train", "val"), quiet=quiet)
    train, val = splits["train"], splits["val"]
    if train.classes != config.labels:
        raise UsageError(
            f"data.labels are {', '.join(config.labels)}, but {settings.source} has "
            f"{', '.join(train.classes)}: expected the same in the same order"
        )
    votes = load_votes(settings.votes) if settings.votes else {}
    if settings.drop_not_a_face:
        train = train.take(~not_a_face_mask(train, votes))
    if settings.targets == "votes":
        train = train.take(emotion_shares(train, votes).sum(axis=1) > 0)
        val = with_majority(val, votes)
    if settings.fraction < 1:
        random = np.random.default_rng(config.training.seed)
        count = max(1, round(settings.fraction * len(train)))
        train = train.take(np.sort(random.permutation(len(train))[:count]))
    shares = emotion_shares(train, votes) if config.training.votes_weight > 0 else None
    counts = align_votes(train, votes) if config.distill.votes > 0 else None
    targets = None
    if settings.targets == "votes":
        targets = emotion_shares(train, votes)
        train = dataclasses.replace(train, labels=targets.argmax(axis=1))
    return TrainingData(train, val, shares, counts, targets)


def fingerprint(data: TrainingData) -> str:
    """Return what tells these images, labels and votes from others."""
    arrays: list[npt.NDArray[Any]] = []
    for split in (data.train, data.val):
        arrays += [split.images, split.labels]
    extra = (data.votes, data.counts, data.targets)
    arrays += [array for array in extra if array is not None]
    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).data, value)
    return f"{value:08x}"
