"""Training data: images, labels and FER+ votes, as augmented batches.

All randomness comes from generators seeded with (seed, epoch, step), or with the number of a view
that repeats (see `mien.training.transforms`). A batch therefore does not depend on the step at
which the process started, which makes an interrupted run resume exactly.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, UsageError, needs_extra
from mien.data.dataset import Split
from mien.data.loading import load_dataset
from mien.data.votes import (
    align_votes,
    emotion_shares,
    load_votes,
    not_a_face_mask,
    with_majority,
)
from mien.training.recipe import Config
from mien.training.transforms import AugmentedDataset, Batch, Floats, View, to_uint8

if TYPE_CHECKING:
    from mien.training.distillation import TeacherEnsemble


# ---------------------------------------------------------------- images, labels, votes
@dataclass(frozen=True)
class TrainingData:
    """Images, labels and votes of a run.

    Attributes:
        train: images to train on.
        val: images that choose the best epoch.
        votes: FER+ votes on ``train`` as shares of the classes, float32 (N, 7), zeros where an
            image has none; None if the recipe does not use them.
        counts: FER+ votes on ``train`` as `align_votes` returns them, int64 (N, 10); None if the
            recipe does not add them to its teachers.
        soft_labels: targets in place of the labels, float32 (N, classes), rows sum to 1; None to
            train on the labels.
    """

    train: Split
    val: Split
    votes: Floats | None = None
    counts: npt.NDArray[np.int64] | None = None
    soft_labels: Floats | None = None

    def fingerprint(self) -> str:
        """Return a checksum of the images, labels and votes."""
        images = (self.train.images, self.train.labels, self.val.images, self.val.labels)
        checksum = 0
        for array in (*images, self.votes, self.counts, self.soft_labels):
            if array is not None:
                checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
        return f"{checksum:08x}"

    def dataset(self, config: Config) -> AugmentedDataset:
        """Return the training images with the recipe's targets and sample weights."""
        labels, classes = self.train.labels, len(self.train.classes)
        class_weights = np.ones(classes, np.float32)
        if config.training.class_weights:
            power = config.training.class_weight_power
            class_weights = balanced_class_weights(labels, power=power, classes=classes)
        targets = self.soft_labels
        if targets is None:
            targets = np.eye(classes, dtype=np.float32)[labels]
        return AugmentedDataset(self.train.images, targets, class_weights[labels], self.votes)


def load_training_data(config: Config, *, quiet: bool) -> TrainingData:
    """Load the images and votes of a recipe.

    Raises:
        DataError: if images or votes are missing, empty or malformed, or do not match.
        UsageError: if the images have other classes than the recipe.
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
        rng = np.random.default_rng(config.training.seed)
        count = max(1, round(settings.fraction * len(train)))
        train = train.take(np.sort(rng.permutation(len(train))[:count]))
    soft_labels = None
    if settings.targets == "votes":
        soft_labels = emotion_shares(train, votes)
        train = dataclasses.replace(train, labels=soft_labels.argmax(axis=1))
    return TrainingData(
        train,
        val,
        votes=emotion_shares(train, votes) if config.training.votes_weight > 0 else None,
        counts=align_votes(train, votes) if config.distill.votes > 0 else None,
        soft_labels=soft_labels,
    )


def balanced_class_weights(
    labels: npt.NDArray[np.int64], *, power: float = 1.0, classes: int = len(EMOTIONS)
) -> Floats:
    """Return the weight of each class, float32 (classes,), with a mean of 1 over the images.

    Args:
        labels: int64 (N,), of all images; an absent class gets the weight 0.
        power: 1 makes the weights inverse to the counts, 0.5 to their square roots, 0 equal.
        classes: number of classes.
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    present = counts > 0
    weights = np.zeros(classes)
    weights[present] = counts[present] ** -power
    weights *= len(labels) / float(weights @ counts)
    return weights.astype(np.float32)


# The logistic regression of labels on votes.
_INVERSE_PENALTY = 0.3
_ITERATIONS = 2000
_PSEUDO_COUNT = 0.5


def vote_log_odds(counts: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> Floats:
    """Return the logarithm of p(label | votes) / p(label) for each image and class.

    Estimated by a multinomial logistic regression of the label on the votes, fitted to the training
    images. By Bayes' rule these log-odds add to a teacher's logits like independent evidence.

    Args:
        counts: FER+ votes, (N, 10), as `mien.data.votes.align_votes` returns them.
        labels: labels of the same images, (N,), indices into `EMOTIONS`.

    Returns:
        float32 (N, 7), rows with mean 0; all zeros for an image without votes, and everywhere if
        fewer than two classes have any.

    Raises:
        MissingExtra: if scikit-learn is not installed.
    """
    with needs_extra("train", "learning from FER+ votes"):
        from sklearn.linear_model import LogisticRegression

    log_odds = np.zeros((len(labels), len(EMOTIONS)), np.float32)
    voted = counts.any(axis=1)
    classes = np.unique(labels[voted])
    if len(classes) < 2:
        return log_odds
    # Shares tell ambiguous images apart, logarithms the unanimous ones.
    features = np.hstack([counts / 10, np.log(counts + _PSEUDO_COUNT)])[voted]
    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_ITERATIONS)
    model.fit(features, labels[voted])
    priors = np.bincount(labels[voted], minlength=len(EMOTIONS))[classes] / np.count_nonzero(voted)
    evidence = model.predict_log_proba(features) - np.log(priors)
    rows = np.zeros((len(evidence), len(EMOTIONS)))
    rows[:, classes] = evidence - evidence.mean(axis=1, keepdims=True)
    log_odds[voted] = rows
    return log_odds


# ---------------------------------------------------------------- batches
_PREFETCHED = 4
"""Batches that are made ahead of the current step, in addition to one per worker."""
# First words of the seeds, so that no two generators coincide; 4 is that of the views.
_ORDER_STREAM, _BATCH_STREAM, _PLAIN_STREAM = 1, 2, 3

MakeBatch = Callable[[int, npt.NDArray[np.int64]], Batch]
"""Makes the batch of a step from the indices of its images."""


class BatchSource:
    """Batches of a run by epoch and step.

    Attributes:
        steps: steps per epoch; an incomplete last batch is dropped, other images each epoch.
        dataset: the training images.

    Args:
        data: images and votes.
        config: the recipe.
        teachers: its teachers, None without any.

    Raises:
        DataError: if there are fewer images than one batch.
    """

    def __init__(
        self, data: TrainingData, config: Config, teachers: TeacherEnsemble | None = None
    ) -> None:
        self._config = config
        self._teachers = teachers
        self._size = config.training.batch_size
        self.dataset = data.dataset(config)
        self.steps = len(data.train) // self._size
        if self.steps < 1:
            raise DataError(
                f"training has {len(data.train)} images: expected at least "
                f"training.batch_size = {self._size}"
            )

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch]:
        """Yield the batches of an epoch from ``first_step`` on, prefetched by threads.

        Raises:
            ModelError: if a teacher is needed and missing, or fails.
            InputError: if its cached logits are damaged or from other pixels.
        """
        order = self.order(epoch)
        repeats = self._config.distill.views > 0
        make = self._view_batches(epoch) if repeats else self._random_batches(epoch)

        def make_step(step: int) -> Batch:
            return make(step, order[step * self._size : (step + 1) * self._size])

        # Teachers are not thread-safe.
        runs_teachers = self._teachers is not None and not repeats
        workers = 1 if runs_teachers else self._config.training.workers
        return prefetch(make_step, range(first_step, self.steps), workers=workers)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the order of the images in an epoch."""
        return self._rng(_ORDER_STREAM, epoch).permutation(len(self.dataset.images))

    def plain_batches(self) -> Iterator[Batch]:
        """Yield the images without augmentation or mixing, shuffled once for all epochs."""
        order = self._rng(_PLAIN_STREAM).permutation(len(self.dataset.images))
        for start in range(0, self.steps * self._size, self._size):
            yield self.dataset.batch(order[start : start + self._size])

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._config.training.seed, *key])

    def _random_batches(self, epoch: int) -> MakeBatch:
        """Augment each batch with its own random numbers; the teachers run on its pixels."""
        mixed = self._config.is_mixed(epoch)

        def make(step: int, chosen: npt.NDArray[np.int64]) -> Batch:
            rng = self._rng(_BATCH_STREAM, epoch, step)
            batch = self.dataset.augment(chosen, self._config.augmentation, rng, mixed=mixed)
            if self._teachers is None:
                return batch
            faces = to_uint8(batch.faces)
            return dataclasses.replace(
                batch,
                faces=faces[..., None].astype(np.float32),
                soft_targets=self._teachers.soft_targets(faces),
            )

        return make

    def _view_batches(self, epoch: int) -> MakeBatch:
        """Take batches from the epoch's view; the teachers' probabilities may be cached."""
        view = View.of_epoch(self._config, epoch)
        rendered = self.dataset.render_view(self._config, view)
        soft_targets: Floats | None = None
        if self._teachers is not None:
            soft_targets = self._teachers.soft_targets_of_view(view, rendered.teacher_images)

        def make(_: int, chosen: npt.NDArray[np.int64]) -> Batch:
            batch = rendered.batch(chosen)
            if soft_targets is None:
                return batch
            return dataclasses.replace(batch, soft_targets=soft_targets[chosen])

        return make


def prefetch(make: Callable[[int], Batch], steps: range, *, workers: int = 1) -> Generator[Batch]:
    """Yield ``make(step)`` for every step in order, some of them ahead of time in threads."""
    remaining = iter(steps)
    executor = ThreadPoolExecutor(workers, thread_name_prefix="mien-batches")
    try:
        pending = deque(
            executor.submit(make, step)
            for step in itertools.islice(remaining, _PREFETCHED + workers)
        )
        while pending:
            batch = pending.popleft().result()
            pending.extend(executor.submit(make, step) for step in itertools.islice(remaining, 1))
            yield batch
    finally:
        executor.shutdown(cancel_futures=True)
