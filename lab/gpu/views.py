"""Augmented views of all training images at once, on the device.

The changes are those of `mien.training.transforms`, by formula instead of by OpenCV and a codec.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mien.training.recipe import AugmentationSettings, Config
from mien.training.transforms import AugmentedDataset

_CHUNK = 16384
"""Faces that are augmented together: starting a kernel takes longer than running it on fewer."""

_VIEW_STREAM = 5
_PLAIN_STREAM = 6

_BLOCK = 8
"""Side of JPEG's blocks."""
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""What JPEG divides coefficients by at quality 50 (Annex K of its standard)."""


class Random:
    """Draws random numbers on a device from one generator."""

    def __init__(self, device: torch.device, seed: int) -> None:
        """Begin with a seed."""
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)

    def uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return (count,) numbers between two."""
        drawn = torch.rand(count, generator=self.generator, device=self.device)
        return low + (high - low) * drawn

    def happens(self, count: int, probability: float) -> Tensor:
        """Return (count,) booleans."""
        return self.uniform(count) < probability

    def beta(self, count: int, alpha: float) -> Tensor:
        """Return (count,) numbers of the distribution Beta(alpha, alpha)."""
        alphas = torch.full((count, 2), alpha, device=self.device)
        return torch._sample_dirichlet(alphas, self.generator)[:, 0]

    def permutation(self, count: int) -> Tensor:
        """Return the numbers below a count in random order."""
        return torch.randperm(count, generator=self.generator, device=self.device)


def augment(
    faces: Tensor, settings: AugmentationSettings, rng: Random, *, sharp: bool = False
) -> Tensor:
    """Return randomly changed copies.

    Args:
        faces: uint8 (N, 48, 48).
        settings: strengths and probabilities; mixing is not done here.
        rng: the only source of rng.
        sharp: return the same without blur, downscale and jpeg beside them.

    Returns:
        float32 (N, 1, 48, 48), whole greys in 0-255; with ``sharp`` (N, 2, 48, 48), the second
        ones sharp.
    """
    x = faces[:, None].float()
    sides = 2 if sharp else 1
    if not settings.enabled:
        return x.repeat(1, sides, 1, 1)
    x = _transform(x, settings, rng)
    _change_some(x, _equalize, settings.equalize, rng)
    x = x.repeat(1, sides, 1, 1)
    seen = x[:, :1]  # a part of the same memory
    _change_some(seen, lambda some: _blur(some, rng), settings.blur, rng)
    x = _adjust_tone(x, settings, rng)
    seen = x[:, :1]
    _change_some(seen, lambda some: _downscale(some, rng), settings.downscale, rng)
    _change_some(seen, lambda some: _jpeg(some, rng), settings.jpeg, rng)
    return _erase(x, settings.erasing, rng).round().clamp(0, 255)


def _change_some(
    x: Tensor, change: Callable[[Tensor], Tensor], probability: float, rng: Random
) -> None:
    """Change some of the faces in place."""
    if probability == 0:
        return
    chosen = rng.happens(len(x), probability).nonzero()[:, 0]
    if len(chosen):
        x[chosen] = change(x[chosen])


def _transform(x: Tensor, settings: AugmentationSettings, rng: Random) -> Tensor:
    count = len(x)
    angles = rng.uniform(count, -1, 1) * math.radians(settings.rotation)
    scales = 1 + rng.uniform(count, -1, 1) * settings.scale
    flips = torch.where(rng.happens(count, settings.flip), -1.0, 1.0)
    shifts = torch.stack([rng.uniform(count, -1, 1) for _ in range(2)], 1) * 2 * settings.shift
    cosine, sine = torch.cos(angles) / scales, torch.sin(angles) / scales
    rows = [torch.stack([cosine * flips, sine, shifts[:, 0]], 1)]
    rows.append(torch.stack([-sine * flips, cosine, shifts[:, 1]], 1))
    grid = functional.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    moved = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return moved.round()


def _equalize(x: Tensor) -> Tensor:
    """Return faces with equalised histograms, as OpenCV does it."""
    count = len(x)
    greys = x.reshape(count, -1).long()
    ones = torch.ones_like(greys, dtype=torch.float32)
    histogram = torch.zeros(count, 256, device=x.device).scatter_add_(1, greys, ones)
    below = histogram.cumsum(1)
    first = torch.where(histogram > 0, below, math.inf).amin(1, keepdim=True)
    table = (below - first) / (greys.shape[1] - first).clamp(min=1) * 255
    flat = first >= greys.shape[1]  # one grey only: unchanged
    changed = table.clamp(0, 255).gather(1, greys)
    return torch.where(flat, greys.float(), changed).round().reshape(x.shape)


def _blur(x: Tensor, rng: Random) -> Tensor:
    sigmas = rng.uniform(len(x), 0.4, 1.2)[:, None]
    places = torch.arange(-4, 5, device=x.device, dtype=torch.float32)
    kernels = torch.exp(-(places**2) / (2 * sigmas**2))
    kernels = kernels / kernels.sum(1, keepdim=True)
    # Sums of shifted copies: a convolution with a kernel a face is slow in every library.
    for axis in (3, 2):
        pad = (4, 4, 0, 0) if axis == 3 else (0, 0, 4, 4)
        padded = functional.pad(x, pad, mode="reflect")
        moved = [padded.narrow(axis, place, x.shape[axis]) for place in range(9)]
        parts = [kernels[:, place, None, None, None] * part for place, part in enumerate(moved)]
        x = torch.stack(parts).sum(0)
    return x.round()


def _adjust_tone(x: Tensor, settings: AugmentationSettings, rng: Random) -> Tensor:
    count = len(x)
    contrast = 1 + rng.uniform(count, -1, 1)[:, None, None, None] * settings.contrast
    shift = rng.uniform(count, -1, 1)[:, None, None, None] * settings.brightness * 255
    mean = x.mean((2, 3), keepdim=True)
    return ((x - mean) * contrast + mean + shift).round().clamp(0, 255)


def _downscale(x: Tensor, rng: Random) -> Tensor:
    """Return faces shrunk and enlarged again; a few sizes, each for a part of them."""
    parts = []
    for part in x.chunk(4):
        share = float(rng.uniform(1, 0.4, 0.9))
        side = round(x.shape[-1] * share)
        small = functional.interpolate(
            part, (side, side), mode="bilinear", antialias=True, align_corners=False
        )
        parts.append(
            functional.interpolate(small, x.shape[2:], mode="bilinear", align_corners=False)
        )
    return torch.cat(parts).round().clamp(0, 255)


def _jpeg(x: Tensor, rng: Random) -> Tensor:
    """Return faces as JPEG of quality 15 to 80 leaves them."""
    count, _, height, width = x.shape
    quality = rng.uniform(count, 15, 81).floor()
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)[:, None, None, None, None]
    table = torch.tensor(_LUMINANCE, device=x.device, dtype=torch.float32)
    steps = (table * scale).round().clamp(1, 255)
    basis = _dct(x.device)
    blocks = x.reshape(count, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).transpose(2, 3)
    coefficients = basis @ (blocks - 128) @ basis.T
    kept = (coefficients / steps).round() * steps
    decoded = (basis.T @ kept @ basis + 128).transpose(2, 3).reshape(x.shape)
    return decoded.round().clamp(0, 255)


def _dct(device: torch.device) -> Tensor:
    """Return the orthonormal cosine transform, (8, 8)."""
    places = torch.arange(_BLOCK, device=device, dtype=torch.float32)
    angles = (2 * places[None] + 1) * places[:, None] * math.pi / (2 * _BLOCK)
    basis = torch.cos(angles) * math.sqrt(2 / _BLOCK)
    basis[0] /= math.sqrt(2)
    return basis


def _erase(x: Tensor, probability: float, rng: Random) -> Tensor:
    count, _, height, width = x.shape
    area = rng.uniform(count, 0.02, 0.2) * height * width
    aspect = torch.exp(rng.uniform(count, math.log(0.4), math.log(2.5)))
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top = (rng.uniform(count) * (height - tall + 1)).floor()
    left = (rng.uniform(count) * (width - wide + 1)).floor()
    rows = torch.arange(height, device=x.device)[None]
    columns = torch.arange(width, device=x.device)[None]
    inside_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    inside &= rng.happens(count, probability)[:, None, None]
    grey = (rng.uniform(count) * 256).floor()[:, None, None, None]
    return torch.where(inside[:, None], grey, x)


def mixup(
    faces: Tensor, targets: Tensor, settings: AugmentationSettings, rng: Random
) -> tuple[Tensor, Tensor]:
    """Mix faces and what is known of them with those of others (mixup).

    Each face has a share of its own, drawn for ``mix_probability`` of the faces; on the processor
    there is one a batch, for as large a part of the batches.

    Args:
        faces: float32 (N, any, 48, 48).
        targets: float32 (N, any).
        settings: how much is mixed.
        rng: the only source of rng.
    """
    if settings.mixup == 0:
        return faces, targets
    count = len(faces)
    share = torch.where(
        rng.happens(count, settings.mix_probability), rng.beta(count, settings.mixup), 1.0
    )
    partner = rng.permutation(count)
    wide = share[:, None, None, None]
    return (
        (wide * faces + (1 - wide) * faces[partner]).round(),
        share[:, None] * targets + (1 - share[:, None]) * targets[partner],
    )


# ---------------------------------------------------------------- epochs
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
    """Return the seed of a random stream of its own for each key."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return int(seed)


def make_epoch(faces: Faces, config: Config, epoch: int) -> Faces:
    """Return all faces in an epoch's order as its views show them.

    Which depends on the recipe's seed and the epoch alone (and on the kind of device, whose
    generators differ).

    Returns:
        The images are uint8 (N, 1, 48, 48).
    """
    rng = Random(faces.images.device, stream_seed(config.training.seed, _VIEW_STREAM, epoch))
    sharp = config.distill.sharp and bool(config.distill.teachers)
    order = rng.permutation(len(faces))
    beside = torch.cat([faces.targets, faces.weights[:, None]], 1)
    views, aims = [], []
    for chosen in order.split(_CHUNK):
        view = augment(faces.images[chosen], config.augmentation, rng, sharp=sharp)
        aim = beside[chosen]
        if config.is_mixed(epoch):
            view, aim = mixup(view, aim, config.augmentation, rng)
        views.append(view.to(torch.uint8))
        aims.append(aim)
    seen, together = torch.cat(views), torch.cat(aims)
    beside_them = seen[:, 1:] if sharp else None
    return Faces(seen[:, :1], together[:, :-1], together[:, -1], beside_them)


def plain_images(faces: Faces, config: Config, count: int) -> Tensor:
    """Return so many images as they are (fewer if there are not as many), always the same ones."""
    seed = stream_seed(config.training.seed, _PLAIN_STREAM)
    order = Random(faces.images.device, seed).permutation(len(faces))
    return faces.images[order[:count]]
