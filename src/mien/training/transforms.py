"""Augmentation of 48-pixel faces in NumPy and OpenCV, independent of the Keras backend.

A view is a reproducible augmentation of all training images, determined by its number. It is
rendered in chunks of a fixed size and in a fixed order, by generators seeded with (seed, view,
chunk), so its pixels do not depend on the batch, epoch or step that uses them. Mixed faces are also
rounded to uint8, so that a student sees the same pixels as its teachers, whose input is uint8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien.training.recipe import AugmentationSettings, Config

Faces = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

CHUNK = 64
"""Images of a view that are rendered together and mixed with one another."""

_VIEW_STREAM = 4  # in seeds; the others are in mien.training.data


@dataclass(frozen=True)
class Batch:
    """Arrays of one training step.

    Attributes:
        faces: float32 (N, 48, 48, 1), 0-255.
        targets: float32 (N, classes), rows sum to 1.
        weights: float32 (N,), weight of each image in the loss.
        votes: FER+ votes, float32 (N, classes), rows sum to at most 1; None if not used.
        soft_targets: the teachers' probabilities, float32 (N, classes); None without teachers.
    """

    faces: Floats
    targets: Floats
    weights: Floats
    votes: Floats | None = None
    soft_targets: Floats | None = None


# ---------------------------------------------------------------- augmentation of single faces
def augment_faces(
    faces: Faces, settings: AugmentationSettings, rng: np.random.Generator, *, sharp: bool = False
) -> Faces:
    """Return randomly augmented copies.

    Args:
        faces: uint8 (N, 48, 48).
        settings: strengths and probabilities; with ``enabled`` false, faces are returned unchanged.
        rng: the only source of randomness.
        sharp: skip blur, downscale and jpeg; everything else is drawn as with them.

    Returns:
        uint8 (N, 48, 48).
    """
    if not settings.enabled or len(faces) == 0:
        return faces
    warped = _warp(faces, settings, rng)
    _equalize_and_blur(warped, settings, rng, sharp=sharp)
    toned = _adjust_tone(warped, settings, rng)
    _degrade(toned, settings, rng, sharp=sharp)
    _erase(toned, settings, rng)
    return toned


def _warp(faces: Faces, settings: AugmentationSettings, rng: np.random.Generator) -> Faces:
    """Rotate, scale, shift and flip in one affine warp."""
    count, height, width = faces.shape
    angles = np.deg2rad(rng.uniform(-1, 1, (count,)) * settings.rotation)
    scales = 1 + rng.uniform(-1, 1, (count,)) * settings.scale
    shifts = rng.uniform(-1, 1, (count, 2)) * settings.shift * (width, height)
    flips = np.where(rng.random(count) < settings.flip, -1.0, 1.0)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    warped = np.empty_like(faces)
    for index in range(count):
        cosine, sine = np.cos(angles[index]), np.sin(angles[index])
        turn = scales[index] * np.array([[cosine, -sine], [sine, cosine]])
        turn[:, 0] *= flips[index]
        matrix = np.column_stack([turn, centre + shifts[index] - turn @ centre])
        cv2.warpAffine(
            faces[index],
            matrix,
            (width, height),
            dst=warped[index],
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return warped


def _equalize_and_blur(
    faces: Faces, settings: AugmentationSettings, rng: np.random.Generator, *, sharp: bool
) -> None:
    equalized = rng.random(len(faces)) < settings.equalize
    blurred = rng.random(len(faces)) < settings.blur
    sigmas = rng.uniform(0.4, 1.2, len(faces))
    for index in np.flatnonzero(equalized):
        faces[index] = cv2.equalizeHist(faces[index])
    for index in np.flatnonzero(blurred & (not sharp)):
        faces[index] = cv2.GaussianBlur(faces[index], (0, 0), float(sigmas[index]))


def _adjust_tone(faces: Faces, settings: AugmentationSettings, rng: np.random.Generator) -> Faces:
    if settings.contrast == 0 and settings.brightness == 0:
        return faces
    shape = (len(faces), 1, 1)
    contrast = 1 + rng.uniform(-1, 1, shape).astype(np.float32) * settings.contrast
    shift = rng.uniform(-1, 1, shape).astype(np.float32) * settings.brightness * 255
    mean = faces.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    toned = (faces - mean) * contrast + mean + shift
    clipped: Faces = np.clip(np.rint(toned), 0, 255).astype(np.uint8)
    return clipped


def _degrade(
    faces: Faces, settings: AugmentationSettings, rng: np.random.Generator, *, sharp: bool
) -> None:
    """Reduce detail: downscale and upscale again, compress as JPEG."""
    if settings.downscale == 0 and settings.jpeg == 0:
        return
    count, height, width = faces.shape
    shrunk = rng.random((count,)) < settings.downscale
    shares = rng.uniform(0.4, 0.9, (count,))
    coded = rng.random((count,)) < settings.jpeg
    qualities = rng.integers(15, 81, (count,))
    if sharp:  # only after drawing, so that the generator's state does not depend on it
        return
    for index in np.flatnonzero(shrunk):
        size = (round(width * shares[index]), round(height * shares[index]))
        small = cv2.resize(faces[index], size, interpolation=cv2.INTER_AREA)
        faces[index] = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    for index in np.flatnonzero(coded):
        quality = (cv2.IMWRITE_JPEG_QUALITY, int(qualities[index]))
        _, data = cv2.imencode(".jpg", faces[index], quality)
        decoded = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
        assert decoded is not None
        faces[index] = decoded


def _erase(faces: Faces, settings: AugmentationSettings, rng: np.random.Generator) -> None:
    """Random erasing (Zhong et al. 2017, 1708.04896) with one grey per rectangle."""
    count, height, width = faces.shape
    erased = np.flatnonzero(rng.random(count) < settings.erasing)
    shares = rng.uniform(0.02, 0.2, (count,))
    aspects = np.exp(rng.uniform(np.log(0.4), np.log(2.5), (count,)))
    corners = rng.random((count, 2))
    greys = rng.integers(0, 256, (count,))
    for index in erased:
        area = shares[index] * height * width
        tall = min(height, max(1, round(float(np.sqrt(area * aspects[index])))))
        wide = min(width, max(1, round(float(np.sqrt(area / aspects[index])))))
        top = int(corners[index, 0] * (height - tall + 1))
        left = int(corners[index, 1] * (width - wide + 1))
        faces[index, top : top + tall, left : left + wide] = greys[index]


# ---------------------------------------------------------------- mixing within a batch
def mix_batch(batch: Batch, settings: AugmentationSettings, rng: np.random.Generator) -> Batch:
    """Mix each face, its targets, weight and votes with those of another face of the batch.

    By mixup (Zhang et al. 2017, 1710.09412) or cutmix (Yun et al. 2019, 1905.04899); if both are
    on, one is drawn per batch.
    """
    alphas = {"mixup": settings.mixup, "cutmix": settings.cutmix}
    active = [name for name, alpha in alphas.items() if alpha > 0]
    if not (settings.enabled and active) or rng.random() >= settings.mix_probability:
        return batch
    kind = active[rng.integers(len(active))]
    share = float(rng.beta(alphas[kind], alphas[kind]))
    partner = rng.permutation(len(batch.faces))
    if kind == "mixup":
        faces = share * batch.faces + (1 - share) * batch.faces[partner]
    else:
        faces, share = _paste(batch.faces, batch.faces[partner], share, rng)
    own_share = np.float32(share)

    def mix(values: Floats) -> Floats:
        return own_share * values + (1 - own_share) * values[partner]

    return Batch(
        faces=faces.astype(np.float32),
        targets=mix(batch.targets),
        weights=mix(batch.weights),
        votes=None if batch.votes is None else mix(batch.votes),
    )


def _paste(
    faces: Floats, others: Floats, share: float, rng: np.random.Generator
) -> tuple[Floats, float]:
    """Paste a rectangle of other faces into all faces; returns them and the share that is left."""
    height, width = faces.shape[1:3]
    side = np.sqrt(1 - share)
    tall, wide = round(height * side), round(width * side)
    top = rng.integers(0, height - tall + 1)
    left = rng.integers(0, width - wide + 1)
    pasted = faces.copy()
    region = np.s_[:, top : top + tall, left : left + wide]
    pasted[region] = others[region]
    return pasted, 1 - tall * wide / (height * width)


# ---------------------------------------------------------------- the data set and its views
@dataclass(frozen=True)
class View:
    """Identity of a view.

    Attributes:
        number: seeds its augmentation.
        mixed: whether its images are mixed (mixup, cutmix).
    """

    number: int
    mixed: bool

    def __str__(self) -> str:
        """Return its name in file names."""
        return f"view{self.number:03d}" + ("-mixed" if self.mixed else "")

    @classmethod
    def of_epoch(cls, config: Config, epoch: int) -> View:
        """Return the view of an epoch, for a recipe with views that repeat."""
        return cls(epoch % config.distill.views, config.is_mixed(epoch))

    @classmethod
    def all_of(cls, config: Config) -> list[View]:
        """Return all views of a run, in the order of their first appearance."""
        epochs = range(config.total_epochs)
        return list(dict.fromkeys(cls.of_epoch(config, epoch) for epoch in epochs))


@dataclass(frozen=True)
class AugmentedDataset:
    """Training images with their targets, either the originals or rendered as a view.

    Attributes:
        images: uint8 (N, 48, 48).
        targets: float32 (N, classes).
        weights: float32 (N,), weight of each image in the loss.
        votes: FER+ votes, float32 (N, classes); None if not used.
        sharp: the images without blur, downscale and jpeg, for teachers, uint8 (N, 48, 48); None
            if the teachers see the same images.
    """

    images: Faces
    targets: Floats
    weights: Floats
    votes: Floats | None = None
    sharp: Faces | None = None

    @property
    def teacher_images(self) -> Faces:
        """Images that the teachers see."""
        return self.images if self.sharp is None else self.sharp

    def batch(self, chosen: npt.NDArray[np.int64], faces: Faces | None = None) -> Batch:
        """Return a batch of the chosen images, or of ``faces`` (N, 48, 48) in their place."""
        images = self.images[chosen] if faces is None else faces
        return Batch(
            faces=images[..., None].astype(np.float32),
            targets=self.targets[chosen],
            weights=self.weights[chosen],
            votes=None if self.votes is None else self.votes[chosen],
        )

    def augment(
        self,
        chosen: npt.NDArray[np.int64],
        settings: AugmentationSettings,
        rng: np.random.Generator,
        *,
        mixed: bool,
        sharp: bool = False,
    ) -> Batch:
        """Return a batch of the chosen images, augmented (see `augment_faces`) and maybe mixed."""
        batch = self.batch(chosen, augment_faces(self.images[chosen], settings, rng, sharp=sharp))
        return mix_batch(batch, settings, rng) if mixed else batch

    def render_view(
        self, config: Config, view: View, chunks: Sequence[AugmentedDataset] = ()
    ) -> AugmentedDataset:
        """Return all images as a view shows them, in their original order.

        ``chunks`` are those of `render_chunks` if other processes have rendered them already.
        """
        order = _view_order(config, view, len(self.images))
        chunks = chunks or list(self.render_chunks(config, view, range(-(-len(order) // CHUNK))))
        return AugmentedDataset.concatenate(chunks).take(np.argsort(order))

    def render_chunks(
        self, config: Config, view: View, numbers: range
    ) -> Iterator[AugmentedDataset]:
        """Render some chunks of a view, in the view's order."""
        settings, order = config.augmentation, _view_order(config, view, len(self.images))
        for number in numbers:
            chosen = order[number * CHUNK : (number + 1) * CHUNK]
            seed = [*_view_seed(config, view), number]
            batch = self.augment(chosen, settings, np.random.default_rng(seed), mixed=view.mixed)
            sharp = None
            if config.distill.sharp:
                rng = np.random.default_rng(seed)
                clear = self.augment(chosen, settings, rng, mixed=view.mixed, sharp=True)
                sharp = to_uint8(clear.faces)
            faces = to_uint8(batch.faces)
            yield AugmentedDataset(faces, batch.targets, batch.weights, batch.votes, sharp)

    @classmethod
    def concatenate(cls, parts: Sequence[AugmentedDataset]) -> AugmentedDataset:
        """Return several data sets as one."""
        columns = zip(*(part._columns() for part in parts), strict=True)
        joined: list[Any] = [None if part[0] is None else np.concatenate(part) for part in columns]
        return cls(*joined)

    def take(self, chosen: npt.NDArray[np.int64]) -> AugmentedDataset:
        """Return the chosen images, in that order."""
        taken: list[Any] = [None if array is None else array[chosen] for array in self._columns()]
        return AugmentedDataset(*taken)

    def _columns(self) -> tuple[Any, ...]:
        return self.images, self.targets, self.weights, self.votes, self.sharp


def _view_seed(config: Config, view: View) -> list[int]:
    return [config.training.seed, _VIEW_STREAM, view.number]


def _view_order(config: Config, view: View, count: int) -> npt.NDArray[np.int64]:
    """Return the order of a view's images in its chunks."""
    return np.random.default_rng(_view_seed(config, view)).permutation(count)


def to_uint8(faces: Floats) -> Faces:
    """Round float faces (N, 48, 48, 1) in 0-255 to uint8 (N, 48, 48)."""
    return np.rint(faces[..., 0]).astype(np.uint8)
