"""Training's images as augmented batches, made ahead in the background.

Everything random is drawn from a generator seeded with (seed, epoch, step): a batch is the same
whichever step the run starts from, which is what makes an interrupted run go on exactly.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError
from mien.data.dataset import Split
from mien.training.augmentation import MixedBatch, augment_faces, mix_batch
from mien.training.config import Config

_AHEAD = 4
_ORDER_STREAM = 1
_BATCH_STREAM = 2
_PLAIN_STREAM = 3


def balanced_class_weights(
    labels: npt.NDArray[np.int64], *, power: float = 1.0
) -> npt.NDArray[np.float32]:
    """Return the weight of each class, float32 (7,): mean 1 over the images.

    Args:
        labels: int64 (N,), of all images.
        power: 1 makes the weights inverse to the counts, 0.5 to their roots, and 0 equal.

    Returns:
        A class without images gets the weight 0.
    """
    counts = np.bincount(labels, minlength=len(EMOTIONS)).astype(np.float64)
    present = counts > 0
    weights = np.zeros(len(EMOTIONS))
    weights[present] = counts[present] ** -power
    weights *= len(labels) / float(weights @ counts)
    return weights.astype(np.float32)


@dataclass(frozen=True)
class BatchSource:
    """Makes any batch of a run from its epoch and step.

    Attributes:
        split: the training images.
        config: the recipe.
    """

    split: Split
    config: Config

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

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[MixedBatch]:
        """Yield the batches of an epoch from ``first_step`` on, made ahead by a thread."""
        order = self._generator(_ORDER_STREAM, epoch).permutation(len(self.split))
        weights = self._class_weights()

        def make(step: int) -> MixedBatch:
            return self._make(order, weights, epoch, step)

        return made_ahead(make, range(first_step, self.steps))

    def plain_batches(self) -> Iterator[MixedBatch]:
        """Yield the images as they are, neither augmented nor mixed, in an order of their own."""
        size = self.config.training.batch_size
        order = self._generator(_PLAIN_STREAM).permutation(len(self.split))
        for start in range(0, self.steps * size, size):
            chosen = order[start : start + size]
            weights = np.ones(len(EMOTIONS), np.float32)
            yield _batch(self.split.images[chosen], self.split.labels[chosen], weights)

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.config.training.seed, *key])

    def _class_weights(self) -> npt.NDArray[np.float32]:
        if self.config.training.class_weights:
            power = self.config.training.class_weight_power
            return balanced_class_weights(self.split.labels, power=power)
        return np.ones(len(EMOTIONS), np.float32)

    def _make(
        self,
        order: npt.NDArray[np.int64],
        class_weights: npt.NDArray[np.float32],
        epoch: int,
        step: int,
    ) -> MixedBatch:
        size = self.config.training.batch_size
        chosen = order[step * size : (step + 1) * size]
        settings = self.config.augmentation
        random = self._generator(_BATCH_STREAM, epoch, step)
        labels = self.split.labels[chosen]
        faces = augment_faces(self.split.images[chosen], settings, random)
        batch = _batch(faces, labels, class_weights)
        if epoch >= self.config.total_epochs - settings.plain_epochs:
            return batch
        return mix_batch(batch, settings, random)


def _batch(
    faces: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    class_weights: npt.NDArray[np.float32],
) -> MixedBatch:
    return MixedBatch(
        faces=faces[..., None].astype(np.float32),
        targets=np.eye(len(EMOTIONS), dtype=np.float32)[labels],
        weights=class_weights[labels],
    )


def made_ahead(make: Callable[[int], MixedBatch], steps: range) -> Generator[MixedBatch]:
    """Yield ``make(step)`` for every step, a few made ahead by a thread; its errors come here."""
    ready: queue.Queue[MixedBatch | BaseException | None] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def put(item: MixedBatch | BaseException | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for step in steps:
                if stopped.is_set():
                    return
                put(make(step))
            put(None)
        except BaseException as error:  # handed to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=work, name="mien-batches", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
