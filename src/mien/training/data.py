"""What a run is trained on: its images, labels and votes, as augmented batches.

Everything random is drawn from a generator seeded with (seed, epoch, step), or with the number of a
view that repeats (see `mien.training.transforms`): a batch is the same whichever step the run
starts from, which is what makes an interrupted run resume exactly.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, MissingExtra, UsageError
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
from mien.training.transforms import AugmentedDataset, Batch, Faces, Floats, View, whole_greys

_AHEAD = 4
"""Batches that are made ahead of the step that wants them."""
_ORDER_STREAM, _BATCH_STREAM, _PLAIN_STREAM = 1, 2, 3

# The logistic regression of labels on votes.
_INVERSE_PENALTY = 0.3
_ITERATIONS = 2000
_HALF_A_VOTE = 0.5


# ---------------------------------------------------------------- images, labels, votes
@dataclass(frozen=True)
class TrainingData:
    """The images of a run.

    Attributes:
        train: what is trained on.
        val: what the best epoch is chosen on.
        votes: the FER+ votes on ``train`` as shares of the classes, float32 (N, 7), a row of zeros
            where there are none; None where the recipe has no use for them.
        counts: the FER+ votes on ``train`` themselves, int64 (N, 10), as `align_votes` gives them;
            None where the recipe adds nothing of them to its teachers.
        soft_labels: what is learnt in place of the labels, float32 (N, classes), rows sum to 1;
            None where it is the labels.
    """

    train: Split
    val: Split
    votes: Floats | None = None
    counts: npt.NDArray[np.int64] | None = None
    soft_labels: Floats | None = None

    def fingerprint(self) -> str:
        """Return a checksum of these images, labels and votes."""
        images = (self.train.images, self.train.labels, self.val.images, self.val.labels)
        value = 0
        for array in (*images, self.votes, self.counts, self.soft_labels):
            if array is not None:
                value = zlib.crc32(np.ascontiguousarray(array).data, value)
        return f"{value:08x}"

    def dataset(self, config: Config) -> AugmentedDataset:
        """Return the training images with the targets and weights of a recipe."""
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
        labels: int64 (N,), of all images; a class without any gets the weight 0.
        power: 1 makes the weights inverse to the counts, 0.5 to their roots, and 0 equal.
        classes: how many.
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    present = counts > 0
    weights = np.zeros(classes)
    weights[present] = counts[present] ** -power
    weights *= len(labels) / float(weights @ counts)
    return weights.astype(np.float32)


def vote_log_odds(counts: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> Floats:
    """Return the logarithm of p(label | votes) / p(label) for each image and class.

    By a multinomial logistic regression of the label on the votes, fitted to the training images.
    By Bayes' rule these log-odds add to a teacher's logits, as of an independent witness.

    Args:
        counts: FER+ votes, (N, 10), as `mien.data.votes.align_votes` gives them.
        labels: the same images' labels, (N,), indices into `EMOTIONS`.

    Returns:
        float32 (N, 7), the mean of each row 0; zeros where an image has no votes, or where one
        class or none has any.

    Raises:
        MissingExtra: if scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtra("train", "learning from FER+ votes") from error

    log_odds = np.zeros((len(labels), len(EMOTIONS)), np.float32)
    voted = counts.any(axis=1)
    classes = np.unique(labels[voted])
    if len(classes) < 2:
        return log_odds
    # Shares and logarithms: the one adds up over doubtful images, the other over sure ones.
    features = np.hstack([counts / 10, np.log(counts + _HALF_A_VOTE)])[voted]
    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_ITERATIONS)
    model.fit(features, labels[voted])
    shares = np.bincount(labels[voted], minlength=len(EMOTIONS))[classes] / np.count_nonzero(voted)
    gain = model.predict_log_proba(features) - np.log(shares)
    rows = np.zeros((len(gain), len(EMOTIONS)))
    rows[:, classes] = gain - gain.mean(axis=1, keepdims=True)
    log_odds[voted] = rows
    return log_odds


# ---------------------------------------------------------------- batches
class Teachers(Protocol):
    """What batches ask of teachers; see `mien.training.distillation.TeacherEnsemble`."""

    def soft_targets(self, faces: Faces) -> Floats:
        """Return probabilities (N, classes) for faces (N, 48, 48)."""

    def soft_targets_of_view(self, view: View, faces: Faces) -> Floats:
        """Return probabilities (N, classes) for all faces (N, 48, 48) of a view."""


class BatchSource:
    """Makes any batch of a run from its epoch and step.

    Attributes:
        steps: steps an epoch; the images left over by an incomplete batch come in another epoch.
        dataset: the training images.
    """

    def __init__(self, data: TrainingData, config: Config, teachers: Teachers | None = None):
        """Take the images, the recipe, and its teachers if it has any.

        Raises:
            DataError: if there is not one whole batch.
        """
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
        """Yield the batches of an epoch from ``first_step`` on, made ahead in the background.

        Raises:
            ModelError: if a teacher is needed and missing, or fails.
            InputError: if its cached logits are damaged or of other pixels.
        """
        order = self.order(epoch)
        repeats = self._config.distill.views > 0
        make_any = self._of_view(epoch) if repeats else self._drawn(epoch)

        def make(step: int) -> Batch:
            return make_any(step, order[step * self._size : (step + 1) * self._size])

        # Teachers are asked by one thread alone.
        alone = self._teachers is not None and not repeats
        workers = 1 if alone else self._config.training.workers
        return prefetch(make, range(first_step, self.steps), workers=workers)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the order in which an epoch shows the images."""
        return self._rng(_ORDER_STREAM, epoch).permutation(len(self.dataset.images))

    def plain_batches(self) -> Iterator[Batch]:
        """Yield the images as they are, neither augmented nor mixed, in an order of their own."""
        order = self._rng(_PLAIN_STREAM).permutation(len(self.dataset.images))
        for start in range(0, self.steps * self._size, self._size):
            yield self.dataset.batch(order[start : start + self._size])

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._config.training.seed, *key])

    def _drawn(self, epoch: int) -> Callable[[int, npt.NDArray[np.int64]], Batch]:
        """Return what augments the chosen images in a way that never repeats."""
        mixed = self._config.is_mixed(epoch)

        def make(step: int, chosen: npt.NDArray[np.int64]) -> Batch:
            rng = self._rng(_BATCH_STREAM, epoch, step)
            batch = self.dataset.draw(chosen, self._config.augmentation, rng, mixed=mixed)
            if self._teachers is None:
                return batch
            faces = whole_greys(batch.faces)
            return dataclasses.replace(
                batch,
                faces=faces[..., None].astype(np.float32),
                soft_targets=self._teachers.soft_targets(faces),
            )

        return make

    def _of_view(self, epoch: int) -> Callable[[int, npt.NDArray[np.int64]], Batch]:
        """Return what takes the chosen images from the epoch's view."""
        view = View.at(self._config, epoch)
        seen = self.dataset.view(self._config, view)
        soft_targets: Floats | None = None
        if self._teachers is not None:
            soft_targets = self._teachers.soft_targets_of_view(view, seen.for_teachers)

        def make(_: int, chosen: npt.NDArray[np.int64]) -> Batch:
            batch = seen.batch(chosen)
            if soft_targets is None:
                return batch
            return dataclasses.replace(batch, soft_targets=soft_targets[chosen])

        return make


def prefetch(make: Callable[[int], Batch], steps: range, *, workers: int = 1) -> Generator[Batch]:
    """Yield ``make(step)`` for every step in order, a few made ahead by threads; raises as it."""
    coming = iter(steps)
    executor = ThreadPoolExecutor(workers, thread_name_prefix="mien-batches")
    try:
        made = deque(
            executor.submit(make, step) for step in itertools.islice(coming, _AHEAD + workers)
        )
        while made:
            batch = made.popleft().result()
            made.extend(executor.submit(make, step) for step in itertools.islice(coming, 1))
            yield batch
    finally:
        executor.shutdown(cancel_futures=True)
