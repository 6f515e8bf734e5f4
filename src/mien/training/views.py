"""Augmented views of all training images that can be made again: each a function of its number.

A view is drawn in chunks of a fixed size over an order of its own, from generators seeded with
(seed, view, chunk): what an image looks like in it does not depend on the batch, the epoch or the
step that shows it. Faces are whole greys, mixed ones too, so that a student and any teacher, which
takes bytes, see the same pixels.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mien.training.augmentation import Faces, Floats, MixedBatch, augment_faces, mix_batch
from mien.training.config import Config
from mien.training.settings import AugmentationSettings

CHUNK = 64
"""Images that are drawn together, and mixed with one another."""

_VIEW_STREAM = 4


@dataclass(frozen=True)
class Examples:
    """Training images with all that is known of them, in one order.

    Attributes:
        images: uint8 (N, 48, 48).
        targets: float32 (N, classes): the labels; or (N, 2 classes): labels and FER+ votes.
        weights: float32 (N,), in the loss.
        sharp: uint8 (N, 48, 48), the same without blur, downscale and jpeg, where teachers see
            that; None where they see the images.
    """

    images: Faces
    targets: Floats
    weights: Floats
    sharp: Faces | None = None

    @property
    def for_teachers(self) -> Faces:
        """What teachers are asked about."""
        return self.images if self.sharp is None else self.sharp

    def draw(
        self,
        chosen: npt.NDArray[np.int64],
        settings: AugmentationSettings,
        random: np.random.Generator,
        *,
        mixed: bool,
        sharp: bool = False,
    ) -> MixedBatch:
        """Return the chosen ones augmented, and mixed where ``mixed`` allows it.

        With ``sharp`` they are the same but for blur, downscale and jpeg (see `augment_faces`).
        """
        faces = augment_faces(self.images[chosen], settings, random, sharp=sharp)
        batch = MixedBatch(
            faces=faces[..., None].astype(np.float32),
            targets=self.targets[chosen],
            weights=self.weights[chosen],
        )
        return mix_batch(batch, settings, random) if mixed else batch


@dataclass(frozen=True)
class ViewName:
    """Which view: its number, and whether its images are mixed."""

    number: int
    mixed: bool

    def __str__(self) -> str:
        """Return it as file names have it."""
        return f"view{self.number:03d}" + ("-mixed" if self.mixed else "")


def view_of(config: Config, epoch: int) -> ViewName:
    """Return the view that an epoch shows, where the recipe has views that come again."""
    return ViewName(epoch % config.distill.views, config.is_mixed(epoch))


def views_of(config: Config) -> list[ViewName]:
    """Return all views that a run shows, in the order of their first appearance."""
    epochs = range(config.total_epochs)
    return list(dict.fromkeys(view_of(config, epoch) for epoch in epochs))


def make_view(examples: Examples, config: Config, view: ViewName) -> Examples:
    """Return all examples as a view shows them, in the order they came in."""
    count = len(examples.images)
    seed = [config.training.seed, _VIEW_STREAM, view.number]
    order = np.random.default_rng(seed).permutation(count)
    faces = np.empty_like(examples.images)
    targets = np.empty_like(examples.targets)
    weights = np.empty_like(examples.weights)
    sharp = np.empty_like(examples.images) if config.distill.sharp else None
    for chunk, start in enumerate(range(0, count, CHUNK)):
        chosen = order[start : start + CHUNK]
        random = np.random.default_rng([*seed, chunk])
        batch = examples.draw(chosen, config.augmentation, random, mixed=view.mixed)
        faces[chosen] = whole_greys(batch.faces)
        targets[chosen], weights[chosen] = batch.targets, batch.weights
        if sharp is not None:
            again = np.random.default_rng([*seed, chunk])
            seen = examples.draw(chosen, config.augmentation, again, mixed=view.mixed, sharp=True)
            sharp[chosen] = whole_greys(seen.faces)
    return Examples(faces, targets, weights, sharp)


class ViewMaker:
    """Makes the views of a run; with several workers each while the one before is shown."""

    def __init__(self, examples: Examples, config: Config) -> None:
        """Take the training images and the recipe."""
        self._examples = examples
        self._config = config
        self._coming: tuple[ViewName, Future[Examples]] | None = None

    def view(self, epoch: int) -> Examples:
        """Return the view that an epoch shows."""
        name = view_of(self._config, epoch)
        coming, self._coming = self._coming, None
        expected = coming is not None and coming[0] == name
        view = coming[1].result() if coming and expected else self._make(name)
        if self._config.training.workers > 1 and epoch + 1 < self._config.total_epochs:
            self._begin(view_of(self._config, epoch + 1))
        return view

    def _begin(self, name: ViewName) -> None:
        executor = ThreadPoolExecutor(1, thread_name_prefix="mien-views")
        self._coming = name, executor.submit(self._make, name)
        executor.shutdown(wait=False)

    def _make(self, name: ViewName) -> Examples:
        return make_view(self._examples, self._config, name)


def whole_greys(faces: Floats) -> Faces:
    """Return float faces (N, 48, 48, 1) in 0-255 as bytes (N, 48, 48)."""
    return np.rint(faces[..., 0]).astype(np.uint8)


def labelled(
    labels: npt.NDArray[np.int64], classes: int, votes: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Return labels (N,) as float32 (N, classes), or with as many votes beside them."""
    targets = np.eye(classes, dtype=np.float32)[labels]
    return targets if votes is None else np.concatenate([targets, votes], axis=1)
