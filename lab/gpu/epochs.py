"""Training images on the device, and all views of them that an epoch shows, made at its start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lab.gpu.views import Chance, augmented, mixed
from mien.training.recipe import Config
from mien.training.transforms import AugmentedDataset

_CHUNK = 16384
"""Faces that are augmented together: starting a kernel takes longer than running it on fewer."""

_VIEW_STREAM = 5
_PLAIN_STREAM = 6


@dataclass(frozen=True)
class Faces:
    """Images on the device with all that is known of them, in one order.

    Attributes:
        images: uint8 (N, 48, 48), or (N, 1, 48, 48) as views of them.
        targets: float32 (N, classes): the labels; or (N, 2 classes): labels and FER+ votes.
        weights: float32 (N,), in the loss.
        sharp: as images, without blur, downscale and jpeg, where teachers see that; None where
            they see the images.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor
    sharp: Tensor | None = None

    @property
    def for_teachers(self) -> Tensor:
        """What teachers are asked about."""
        return self.images if self.sharp is None else self.sharp

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.images)


def faces_on(device: torch.device, dataset: AugmentedDataset) -> Faces:
    """Return training images in a device's memory."""
    targets = dataset.targets
    if dataset.votes is not None:
        targets = np.concatenate([targets, dataset.votes], axis=1)
    return Faces(
        torch.from_numpy(np.ascontiguousarray(dataset.images)).to(device),
        torch.from_numpy(targets).to(device),
        torch.from_numpy(dataset.weights).to(device),
    )


def stream_seed(*key: int) -> int:
    """Return the seed of a stream of chance of its own for each key."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return int(seed)


def make_epoch(faces: Faces, config: Config, epoch: int) -> Faces:
    """Return all faces in an epoch's order as its views show them.

    Which depends on the recipe's seed and the epoch alone (and on the kind of device, whose
    generators differ).

    Returns:
        The images are uint8 (N, 1, 48, 48).
    """
    chance = Chance(faces.images.device, stream_seed(config.training.seed, _VIEW_STREAM, epoch))
    sharp = config.distill.sharp and bool(config.distill.teachers)
    order = chance.permutation(len(faces))
    beside = torch.cat([faces.targets, faces.weights[:, None]], 1)
    views, aims = [], []
    for chosen in order.split(_CHUNK):
        view = augmented(faces.images[chosen], config.augmentation, chance, sharp=sharp)
        aim = beside[chosen]
        if config.is_mixed(epoch):
            view, aim = mixed(view, aim, config.augmentation, chance)
        views.append(view.to(torch.uint8))
        aims.append(aim)
    seen, together = torch.cat(views), torch.cat(aims)
    beside_them = seen[:, 1:] if sharp else None
    return Faces(seen[:, :1], together[:, :-1], together[:, -1], beside_them)


def plain_images(faces: Faces, config: Config, count: int) -> Tensor:
    """Return so many images as they are (fewer if there are not as many), always the same ones."""
    seed = stream_seed(config.training.seed, _PLAIN_STREAM)
    order = Chance(faces.images.device, seed).permutation(len(faces))
    return faces.images[order[:count]]
