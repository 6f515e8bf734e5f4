"""Random changes of 48-pixel faces while training, in NumPy and OpenCV, the same on any backend."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mien.training.settings import AugmentationSettings

Faces = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MixedBatch:
    """A batch ready for a training step.

    Attributes:
        faces: float32 (N, 48, 48, 1), 0-255.
        targets: float32 (N, classes), rows sum to 1.
        weights: float32 (N,), weight of each image in the loss.
        taught: float32 (N, classes), what the teachers say of these faces; None without any.
        votes: float32 (N, classes), the FER+ votes, rows sum to at most 1; None without any.
    """

    faces: Floats
    targets: Floats
    weights: Floats
    taught: Floats | None = None
    votes: Floats | None = None


def augment_faces(
    faces: Faces,
    settings: AugmentationSettings,
    random: np.random.Generator,
    *,
    sharp: bool = False,
) -> Faces:
    """Return randomly changed copies.

    Args:
        faces: uint8 (N, 48, 48).
        settings: strengths and probabilities; with ``enabled`` false the faces come back unchanged.
        random: the only source of chance: same generator state, same result.
        sharp: leave out blur, downscale and jpeg; all else comes out as with them.

    Returns:
        uint8 (N, 48, 48).
    """
    if not settings.enabled or len(faces) == 0:
        return faces
    moved = _move(faces, settings, random)
    _equalize_and_blur(moved, settings, random, sharp=sharp)
    toned = _tone(moved, settings, random)
    _degrade(toned, settings, random, sharp=sharp)
    _erase(toned, settings, random)
    return toned


def _move(faces: Faces, settings: AugmentationSettings, random: np.random.Generator) -> Faces:
    count, height, width = faces.shape
    angles = np.deg2rad(random.uniform(-1, 1, (count,)) * settings.rotation)
    scales = 1 + random.uniform(-1, 1, (count,)) * settings.scale
    shifts = random.uniform(-1, 1, (count, 2)) * settings.shift * (width, height)
    flips = np.where(random.random(count) < settings.flip, -1.0, 1.0)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    moved = np.empty_like(faces)
    for index in range(count):
        cosine, sine = np.cos(angles[index]), np.sin(angles[index])
        turn = scales[index] * np.array([[cosine, -sine], [sine, cosine]])
        turn[:, 0] *= flips[index]
        matrix = np.column_stack([turn, centre + shifts[index] - turn @ centre])
        cv2.warpAffine(
            faces[index],
            matrix,
            (width, height),
            dst=moved[index],
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return moved


def _equalize_and_blur(
    faces: Faces, settings: AugmentationSettings, random: np.random.Generator, *, sharp: bool
) -> None:
    equalized = random.random(len(faces)) < settings.equalize
    blurred = random.random(len(faces)) < settings.blur
    sigmas = random.uniform(0.4, 1.2, len(faces))
    for index in np.flatnonzero(equalized):
        faces[index] = cv2.equalizeHist(faces[index])
    for index in np.flatnonzero(blurred & (not sharp)):
        faces[index] = cv2.GaussianBlur(faces[index], (0, 0), float(sigmas[index]))


def _tone(faces: Faces, settings: AugmentationSettings, random: np.random.Generator) -> Faces:
    if settings.contrast == 0 and settings.brightness == 0:
        return faces
    shape = (len(faces), 1, 1)
    contrast = 1 + random.uniform(-1, 1, shape).astype(np.float32) * settings.contrast
    shift = random.uniform(-1, 1, shape).astype(np.float32) * settings.brightness * 255
    mean = faces.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    toned = (faces - mean) * contrast + mean + shift
    clipped: Faces = np.clip(np.rint(toned), 0, 255).astype(np.uint8)
    return clipped


def _degrade(
    faces: Faces, settings: AugmentationSettings, random: np.random.Generator, *, sharp: bool
) -> None:
    if settings.downscale == 0 and settings.jpeg == 0:
        return
    count, height, width = faces.shape
    shrunk = random.random((count,)) < settings.downscale
    shares = random.uniform(0.4, 0.9, (count,))
    coded = random.random((count,)) < settings.jpeg
    qualities = random.integers(15, 81, (count,))
    if sharp:  # only now: what is drawn after this must not depend on it
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


def _erase(faces: Faces, settings: AugmentationSettings, random: np.random.Generator) -> None:
    count, height, width = faces.shape
    erased = np.flatnonzero(random.random(count) < settings.erasing)
    shares = random.uniform(0.02, 0.2, (count,))
    aspects = np.exp(random.uniform(np.log(0.4), np.log(2.5), (count,)))
    corners = random.random((count, 2))
    greys = random.integers(0, 256, (count,))
    for index in erased:
        area = shares[index] * height * width
        tall = min(height, max(1, round(float(np.sqrt(area * aspects[index])))))
        wide = min(width, max(1, round(float(np.sqrt(area / aspects[index])))))
        top = int(corners[index, 0] * (height - tall + 1))
        left = int(corners[index, 1] * (width - wide + 1))
        faces[index, top : top + tall, left : left + wide] = greys[index]


def mix_batch(
    batch: MixedBatch, settings: AugmentationSettings, random: np.random.Generator
) -> MixedBatch:
    """Mix each face with another of its batch (mixup or cutmix), targets and weights alike.

    Mixup: Zhang et al. 2017, 1710.09412. Cutmix: Yun et al. 2019, 1905.04899. Where both are on,
    one of the two is drawn for the batch.
    """
    alphas = {"mixup": settings.mixup, "cutmix": settings.cutmix}
    active = [name for name, alpha in alphas.items() if alpha > 0]
    if not (settings.enabled and active) or random.random() >= settings.mix_probability:
        return batch
    kind = active[random.integers(len(active))]
    share = float(random.beta(alphas[kind], alphas[kind]))
    partner = random.permutation(len(batch.faces))
    if kind == "mixup":
        faces = share * batch.faces + (1 - share) * batch.faces[partner]
    else:
        faces, share = _paste(batch.faces, batch.faces[partner], share, random)
    kept = np.float32(share)
    return MixedBatch(
        faces=faces.astype(np.float32),
        targets=kept * batch.targets + (1 - kept) * batch.targets[partner],
        weights=kept * batch.weights + (1 - kept) * batch.weights[partner],
    )


def _paste(
    faces: Floats, others: Floats, share: float, random: np.random.Generator
) -> tuple[Floats, float]:
    height, width = faces.shape[1:3]
    side = np.sqrt(1 - share)
    tall, wide = round(height * side), round(width * side)
    top = random.integers(0, height - tall + 1)
    left = random.integers(0, width - wide + 1)
    pasted = faces.copy()
    region = np.s_[:, top : top + tall, left : left + wide]
    pasted[region] = others[region]
    return pasted, 1 - tall * wide / (height * width)
