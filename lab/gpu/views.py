"""Random changes of many 48-pixel faces at once, on the device: those of `augmentation`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from mien.training.recipe import AugmentationSettings

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


class Chance:
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


def augmented(
    faces: Tensor, settings: AugmentationSettings, chance: Chance, *, sharp: bool = False
) -> Tensor:
    """Return randomly changed copies.

    Args:
        faces: uint8 (N, 48, 48).
        settings: strengths and probabilities; mixing is not done here.
        chance: the only source of chance.
        sharp: return the same without blur, downscale and jpeg beside them.

    Returns:
        float32 (N, 1, 48, 48), whole greys in 0-255; with ``sharp`` (N, 2, 48, 48), the second
        ones sharp.
    """
    x = faces[:, None].float()
    sides = 2 if sharp else 1
    if not settings.enabled:
        return x.repeat(1, sides, 1, 1)
    x = _moved(x, settings, chance)
    _change_some(x, _equalized, settings.equalize, chance)
    x = x.repeat(1, sides, 1, 1)
    seen = x[:, :1]  # a part of the same memory
    _change_some(seen, lambda some: _blurred(some, chance), settings.blur, chance)
    x = _toned(x, settings, chance)
    seen = x[:, :1]
    _change_some(seen, lambda some: _shrunk(some, chance), settings.downscale, chance)
    _change_some(seen, lambda some: _coded(some, chance), settings.jpeg, chance)
    return _erased(x, settings.erasing, chance).round().clamp(0, 255)


def _change_some(
    x: Tensor, change: Callable[[Tensor], Tensor], probability: float, chance: Chance
) -> None:
    """Change some of the faces in place."""
    if probability == 0:
        return
    chosen = chance.happens(len(x), probability).nonzero()[:, 0]
    if len(chosen):
        x[chosen] = change(x[chosen])


def _moved(x: Tensor, settings: AugmentationSettings, chance: Chance) -> Tensor:
    count = len(x)
    angles = chance.uniform(count, -1, 1) * math.radians(settings.rotation)
    scales = 1 + chance.uniform(count, -1, 1) * settings.scale
    flips = torch.where(chance.happens(count, settings.flip), -1.0, 1.0)
    shifts = torch.stack([chance.uniform(count, -1, 1) for _ in range(2)], 1) * 2 * settings.shift
    cosine, sine = torch.cos(angles) / scales, torch.sin(angles) / scales
    rows = [torch.stack([cosine * flips, sine, shifts[:, 0]], 1)]
    rows.append(torch.stack([-sine * flips, cosine, shifts[:, 1]], 1))
    grid = functional.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    moved = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return moved.round()


def _equalized(x: Tensor) -> Tensor:
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


def _blurred(x: Tensor, chance: Chance) -> Tensor:
    sigmas = chance.uniform(len(x), 0.4, 1.2)[:, None]
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


def _toned(x: Tensor, settings: AugmentationSettings, chance: Chance) -> Tensor:
    count = len(x)
    contrast = 1 + chance.uniform(count, -1, 1)[:, None, None, None] * settings.contrast
    shift = chance.uniform(count, -1, 1)[:, None, None, None] * settings.brightness * 255
    mean = x.mean((2, 3), keepdim=True)
    return ((x - mean) * contrast + mean + shift).round().clamp(0, 255)


def _shrunk(x: Tensor, chance: Chance) -> Tensor:
    """Return faces shrunk and enlarged again; a few sizes, each for a part of them."""
    parts = []
    for part in x.chunk(4):
        share = float(chance.uniform(1, 0.4, 0.9))
        side = round(x.shape[-1] * share)
        small = functional.interpolate(
            part, (side, side), mode="bilinear", antialias=True, align_corners=False
        )
        parts.append(
            functional.interpolate(small, x.shape[2:], mode="bilinear", align_corners=False)
        )
    return torch.cat(parts).round().clamp(0, 255)


def _coded(x: Tensor, chance: Chance) -> Tensor:
    """Return faces as JPEG of quality 15 to 80 leaves them."""
    count, _, height, width = x.shape
    quality = chance.uniform(count, 15, 81).floor()
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)[:, None, None, None, None]
    table = torch.tensor(_LUMINANCE, device=x.device, dtype=torch.float32)
    steps = (table * scale).round().clamp(1, 255)
    basis = _cosines(x.device)
    blocks = x.reshape(count, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).transpose(2, 3)
    coefficients = basis @ (blocks - 128) @ basis.T
    kept = (coefficients / steps).round() * steps
    decoded = (basis.T @ kept @ basis + 128).transpose(2, 3).reshape(x.shape)
    return decoded.round().clamp(0, 255)


def _cosines(device: torch.device) -> Tensor:
    """Return the orthonormal cosine transform, (8, 8)."""
    places = torch.arange(_BLOCK, device=device, dtype=torch.float32)
    angles = (2 * places[None] + 1) * places[:, None] * math.pi / (2 * _BLOCK)
    basis = torch.cos(angles) * math.sqrt(2 / _BLOCK)
    basis[0] /= math.sqrt(2)
    return basis


def _erased(x: Tensor, probability: float, chance: Chance) -> Tensor:
    count, _, height, width = x.shape
    area = chance.uniform(count, 0.02, 0.2) * height * width
    aspect = torch.exp(chance.uniform(count, math.log(0.4), math.log(2.5)))
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top = (chance.uniform(count) * (height - tall + 1)).floor()
    left = (chance.uniform(count) * (width - wide + 1)).floor()
    rows = torch.arange(height, device=x.device)[None]
    columns = torch.arange(width, device=x.device)[None]
    inside_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    inside &= chance.happens(count, probability)[:, None, None]
    grey = (chance.uniform(count) * 256).floor()[:, None, None, None]
    return torch.where(inside[:, None], grey, x)


def mixed(
    faces: Tensor, targets: Tensor, settings: AugmentationSettings, chance: Chance
) -> tuple[Tensor, Tensor]:
    """Mix faces and what is known of them with those of others (mixup).

    Each face has a share of its own, drawn for ``mix_probability`` of the faces; on the processor
    there is one a batch, for as large a part of the batches.

    Args:
        faces: float32 (N, any, 48, 48).
        targets: float32 (N, any).
        settings: how much is mixed.
        chance: the only source of chance.
    """
    if settings.mixup == 0:
        return faces, targets
    count = len(faces)
    share = torch.where(
        chance.happens(count, settings.mix_probability), chance.beta(count, settings.mixup), 1.0
    )
    partner = chance.permutation(count)
    wide = share[:, None, None, None]
    return (
        (wide * faces + (1 - wide) * faces[partner]).round(),
        share[:, None] * targets + (1 - share[:, None]) * targets[partner],
    )
