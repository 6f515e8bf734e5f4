"""Training's images as augmented batches, made ahead in the background.

Everything random is drawn from a generator seeded with (seed, epoch, step), or with the number of a
view that comes again (see `views`): a batch is the same whichever step the run starts from, which
is what makes an interrupted run go on exactly.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError
from mien.data.dataset import Split
from mien.training.augmentation import MixedBatch
from mien.training.config import Config
from mien.training.distillation import Teaching
from mien.training.views import Examples, ViewMaker, labelled, view_of, whole_greys

_AHEAD = 4
_ORDER_STREAM = 1
_BATCH_STREAM = 2
_PLAIN_STREAM = 3


MakeBatch = Callable[[int, npt.NDArray[np.int64]], MixedBatch]
"""From a step's number and the places of its images (batch_size,) to its batch."""


def balanced_class_weights(
    labels: npt.NDArray[np.int64], *, power: float = 1.0, classes: int = len(EMOTIONS)
) -> npt.NDArray[np.float32]:
    """Return the weight of each class, float32 (classes,): mean 1 over the images.

    Args:
        labels: int64 (N,), of all images.
        power: 1 makes the weights inverse to the counts, 0.5 to their roots, and 0 equal.
        classes: how many.

    Returns:
        A class without images gets the weight 0.
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    present = counts > 0
    weights = np.zeros(classes)
    weights[present] = counts[present] ** -power
    weights *= len(labels) / float(weights @ counts)
    return weights.astype(np.float32)


@dataclass(frozen=True)
class BatchSource:
    """Makes any batch of a run from its epoch and step.

    Attributes:
        split: the training images.
        config: the recipe.
        votes: their FER+ votes, float32 (N, 7), where the recipe learns from them.
        teaching: the teachers, where it has any.
        soft: what is learnt in place of the labels, float32 (N, classes).
    """

    split: Split
    config: Config
    votes: npt.NDArray[np.float32] | None = None
    teaching: Teaching | None = None
    soft: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Check that there is at least one whole batch."""
        if self.steps < 1:
            raise DataError(
                f"training has {len(self.split)} images: expected at least "
                f"training.batch_size = {self.config.training.batch_size}"
            )

    @property
    def steps(self) -> int:
        """Steps an epoch; the images left over by an incomplete batch come in another epoch."""
        return len(self.split) // self.config.training.batch_size

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.split.classes)

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[MixedBatch]:
        """Yield the batches of an epoch from ``first_step`` on, made ahead in the background.

        Raises:
            ModelError: if a teacher is needed and missing, or fails.
            InputError: if its cached logits are damaged or of other pixels.
        """
        size = self.config.training.batch_size
        order = self._generator(_ORDER_STREAM, epoch).permutation(len(self.split))
        make_any = self._of_view(epoch) if self.config.distill.views else self._drawn(epoch)

        def make(step: int) -> MixedBatch:
            return make_any(step, order[step * size : (step + 1) * size])

        # Teachers are asked by one thread alone.
        asks = self.teaching is not None and not self.config.distill.views
        workers = 1 if asks else self.config.training.workers
        return made_ahead(make, range(first_step, self.steps), workers=workers)

    def plain_batches(self) -> Iterator[MixedBatch]:
        """Yield the images as they are, neither augmented nor mixed, in an order of their own."""
        size = self.config.training.batch_size
        order = self._generator(_PLAIN_STREAM).permutation(len(self.split))
        for start in range(0, self.steps * size, size):
            chosen = order[start : start + size]
            yield MixedBatch(
                faces=self.split.images[chosen][..., None].astype(np.float32),
                targets=labelled(self.split.labels[chosen], self.classes),
                weights=np.ones(size, np.float32),
            )

    def examples(self) -> Examples:
        """Return the training images with their labels, votes and weights."""
        labels = self.split.labels
        class_weights = np.ones(self.classes, np.float32)
        if self.config.training.class_weights:
            power = self.config.training.class_weight_power
            class_weights = balanced_class_weights(labels, power=power, classes=self.classes)
        targets = labelled(labels, self.classes, self.votes) if self.soft is None else self.soft
        return Examples(self.split.images, targets, class_weights[labels])

    @cached_property
    def _views(self) -> ViewMaker:
        return ViewMaker(self.examples(), self.config)

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.config.training.seed, *key])

    def _drawn(self, epoch: int) -> MakeBatch:
        """Return what makes a batch of the chosen images from chance that never comes again."""
        examples, teaching = self.examples(), self.teaching
        mixed = self.config.is_mixed(epoch)

        def make(step: int, chosen: npt.NDArray[np.int64]) -> MixedBatch:
            random = self._generator(_BATCH_STREAM, epoch, step)
            batch = examples.draw(chosen, self.config.augmentation, random, mixed=mixed)
            if teaching is None:
                return self._with_votes(batch)
            faces = whole_greys(batch.faces)
            return self._with_votes(
                replace(
                    batch,
                    faces=faces[..., None].astype(np.float32),
                    taught=teaching.of_faces(faces),
                )
            )

        return make

    def _of_view(self, epoch: int) -> MakeBatch:
        """Return what makes a batch of the chosen images as the epoch's view shows them."""
        name = view_of(self.config, epoch)
        view = self._views.view(epoch)
        taught = None if self.teaching is None else self.teaching.of_view(name, view.for_teachers)

        def make(_: int, chosen: npt.NDArray[np.int64]) -> MixedBatch:
            return self._with_votes(
                MixedBatch(
                    faces=view.images[chosen][..., None].astype(np.float32),
                    targets=view.targets[chosen],
                    weights=view.weights[chosen],
                    taught=None if taught is None else taught[chosen],
                )
            )

        return make

    def _with_votes(self, batch: MixedBatch) -> MixedBatch:
        """Split targets that hold labels and votes side by side."""
        if self.votes is None:
            return batch
        labels, votes = np.split(batch.targets, [self.classes], axis=1)
        return replace(batch, targets=labels, votes=votes)


def made_ahead(
    make: Callable[[int], MixedBatch], steps: range, *, workers: int = 1
) -> Generator[MixedBatch]:
    """Yield ``make(step)`` for every step in order, a few made ahead; its errors come here.

    Args:
        make: what makes a batch, which several threads may ask at once if there are several.
        steps: of which batches.
        workers: threads that make them.
    """
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
