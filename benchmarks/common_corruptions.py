"""Fifteen common corruptions at five strengths (Hendrycks and Dietterich 2019) for grey faces.

Strengths are those of Tiny-ImageNet-C, whose images have 64 pixels; lengths are scaled to the 48
pixels of a face. (Existing packages have only the strengths for 224 pixels, which destroy images of
48.) Frost is synthetic, where the authors use photographs: streaks of the same brightness and
contrast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from mien.core.images import FACE_SIZE, standard_face
from mien.evaluation.robustness import compress_jpeg

Faces: TypeAlias = npt.NDArray[np.uint8]
Greys: TypeAlias = npt.NDArray[np.float32]
"""Faces (N, 48, 48) as grey levels 0-1; results of corruptions may leave that range."""

STRENGTHS = (1, 2, 3, 4, 5)
LENGTH = FACE_SIZE / 64
"""Scale from lengths for 64 pixels to lengths for a face."""

_PLASMA_SIDE = 64
_FROST_LEVELS, _FROST_CONTRASTS = (0.43, 0.79), (0.06, 0.13)
_FROST_STREAK = (6, 1.5)


@dataclass(frozen=True)
class Corruption:
    """One corruption.

    Attributes:
        name: name in tables.
        group: "noise", "blur", "weather" or "digital".
        change: function of greys, a random generator and a setting, returning greys.
        settings: the settings of the five strengths.
    """

    name: str
    group: str
    change: Callable[[Greys, np.random.Generator, Any], Greys]
    settings: tuple[Any, ...]

    def apply(self, faces: Faces, strength: int, seed: int = 0) -> Faces:
        """Return corrupted copies of faces, uint8 (N, 48, 48).

        Args:
            faces: uint8 (N, 48, 48).
            strength: 1-5.
            seed: random seed; results are reproducible for the same number of faces.
        """
        random = np.random.default_rng((seed, strength, *self.name.encode()))
        greys = faces.astype(np.float32) / np.float32(255)
        changed = self.change(greys, random, self.settings[strength - 1])
        return np.rint(255 * np.clip(changed, 0, 1)).astype(np.uint8)


# ---------------------------------------------------------------- noise
def gaussian_noise(greys: Greys, random: np.random.Generator, sigma: float) -> Greys:
    """Add Gaussian noise, as of a sensor in poor light."""
    return greys + np.float32(sigma) * random.standard_normal(greys.shape, np.float32)


def shot_noise(greys: Greys, random: np.random.Generator, photons: float) -> Greys:
    """Draw Poisson photon counts, with a mean of ``photons`` for white."""
    return (random.poisson(greys * photons) / photons).astype(np.float32)


def impulse_noise(greys: Greys, random: np.random.Generator, share: float) -> Greys:
    """Make a share of the pixels white or black."""
    drawn = random.random(greys.shape, np.float32)
    extremes = np.where(drawn < share / 2, np.float32(0), np.float32(1))
    return np.where(drawn < share, extremes, greys)


# ---------------------------------------------------------------- blur
def defocus_blur(greys: Greys, _: np.random.Generator, setting: tuple[float, float]) -> Greys:
    """Blur with a disk: (radius, sigma of its edge)."""
    radius, edge = (LENGTH * length for length in setting)
    fine = 9  # samples along a pixel
    places = (np.arange(9 * fine) - (9 * fine - 1) / 2) / fine
    disk = (places[:, None] ** 2 + places**2 <= radius**2).astype(np.float32)
    disk = disk.reshape(9, fine, 9, fine).mean(axis=(1, 3))
    kernel = cv2.GaussianBlur(disk / disk.sum(), (3, 3), edge)
    return _map_layers(greys, lambda face: cv2.filter2D(face, -1, kernel))


def glass_blur(greys: Greys, random: np.random.Generator, setting: tuple[float, int, int]) -> Greys:
    """Blur, swap neighbouring pixels, blur: (sigma, maximum distance, repetitions)."""
    sigma, reach, rounds = setting
    mixed, every = _blurred(greys, LENGTH * sigma), np.arange(len(greys))
    for _ in range(rounds):
        for y in range(FACE_SIZE - reach, reach, -1):
            for x in range(FACE_SIZE - reach, reach, -1):
                dy, dx = random.integers(-reach, reach, (2, len(greys)))
                other = mixed[every, y + dy, x + dx]
                mixed[every, y + dy, x + dx] = mixed[:, y, x]
                mixed[:, y, x] = other
    return _blurred(mixed, LENGTH * sigma)


def motion_blur(greys: Greys, random: np.random.Generator, setting: tuple[int, float]) -> Greys:
    """Blur each face along a line at a random angle up to 45 degrees: (radius, sigma)."""
    return _motion_blurred(greys, random.uniform(-45, 45, len(greys)), *setting)


def zoom_blur(greys: Greys, _: np.random.Generator, most: float) -> Greys:
    """Average the face and its enlargements by 1.00, 1.01, ... up to ``most``."""
    factors = np.linspace(1.0, most, round((most - 1) * 100) + 1)

    def mean(face: Greys) -> Greys:
        return np.asarray(np.mean([face, *(_enlarged(face, by) for by in factors)], axis=0))

    return _map_layers(greys, mean)


# ---------------------------------------------------------------- weather
def snow(greys: Greys, random: np.random.Generator, setting: tuple[float, ...]) -> Greys:
    """Whiten the face and add falling flakes.

    The setting: mean and standard deviation of the noise that becomes flakes, their size, their
    threshold, radius and sigma of their motion blur, and weight of the face.
    """
    mean, deviation, size, least, radius, sigma, left = setting
    noise = random.normal(mean, deviation, greys.shape).astype(np.float32)
    flakes = _map_layers(noise, lambda layer: _enlarged(layer, size))
    flakes = np.clip(np.where(flakes < least, np.float32(0), flakes), 0, 1)
    flakes = _motion_blurred(flakes, random.uniform(-135, -45, len(greys)), int(radius), sigma)
    whitened = left * greys + (1 - left) * np.maximum(greys, 1.5 * greys + 0.5)
    return np.asarray(whitened + flakes + flakes[:, ::-1, ::-1], np.float32)


def frost(greys: Greys, random: np.random.Generator, setting: tuple[float, float]) -> Greys:
    """Blend the face with a frosted pane: (weight of the face, weight of the pane)."""
    count = len(greys)
    noise = random.standard_normal(greys.shape, np.float32)
    streaks = _motion_blurred(noise, random.uniform(0, 180, count), *_FROST_STREAK)
    streaks /= streaks.std(axis=(1, 2), keepdims=True)
    levels, contrasts = (
        random.uniform(*bounds, (count, 1, 1)).astype(np.float32)
        for bounds in (_FROST_LEVELS, _FROST_CONTRASTS)
    )
    face, pane = setting
    return np.asarray(face * greys + pane * (levels + contrasts * streaks), np.float32)


def fog(greys: Greys, random: np.random.Generator, setting: tuple[float, float]) -> Greys:
    """Add a plasma fractal: (thickness, decay of its detail per step)."""
    thickness, decay = setting
    brightest = greys.max(axis=(1, 2), keepdims=True)
    clouds = plasma(len(greys), random, decay)[:, :FACE_SIZE, :FACE_SIZE]
    return np.asarray((greys + thickness * clouds) * brightest / (brightest + thickness))


# ---------------------------------------------------------------- digital
def brightness(greys: Greys, _: np.random.Generator, added: float) -> Greys:
    """Add a constant to all grey levels."""
    return greys + np.float32(added)


def contrast(greys: Greys, _: np.random.Generator, factor: float) -> Greys:
    """Multiply the distance of grey levels from the mean of their face."""
    means = greys.mean(axis=(1, 2), keepdims=True)
    return np.asarray((greys - means) * np.float32(factor) + means)


def elastic(greys: Greys, random: np.random.Generator, setting: tuple[float, ...]) -> Greys:
    """Deform the face: (displacement, sigma of its field, displacement of the corners).

    All three are shares of the side.
    """
    reach, sigma, corner = (FACE_SIZE * share for share in setting)
    middle, third = FACE_SIZE // 2, FACE_SIZE // 3
    corners = np.array([(third, third), (third, -third), (-third, -third)], np.float32) + middle
    there = np.indices((FACE_SIZE, FACE_SIZE), np.float32)

    def stretched(face: Greys) -> npt.ArrayLike:
        moved = corners + random.uniform(-corner, corner, corners.shape).astype(np.float32)
        affine = cv2.getAffineTransform(corners, moved)
        sides = (FACE_SIZE, FACE_SIZE)
        warped = cv2.warpAffine(face, affine, sides, borderMode=cv2.BORDER_REFLECT_101)
        if not reach:
            return warped
        field = random.uniform(-1, 1, there.shape).astype(np.float32)
        y, x = there + reach * _blurred(field, sigma)
        return cv2.remap(warped, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)

    return _map_layers(greys, stretched)


def pixelate(greys: Greys, _: np.random.Generator, share: float) -> Greys:
    """Downscale the face to a share of its side and upscale it in squares."""
    small, box = int(share * FACE_SIZE), Image.Resampling.BOX

    def squared(face: Greys) -> npt.ArrayLike:
        picture = Image.fromarray(face).resize((small, small), box)
        return np.asarray(picture.resize((FACE_SIZE, FACE_SIZE), box))

    return _map_layers(greys, squared)


def jpeg(greys: Greys, _: np.random.Generator, quality: int) -> Greys:
    """Encode faces as JPEG and decode them."""
    coded = compress_jpeg(np.rint(255 * greys).astype(np.uint8), quality=quality)
    return coded.astype(np.float32) / np.float32(255)


CORRUPTIONS: tuple[Corruption, ...] = (
    Corruption("Gaussian noise", "noise", gaussian_noise, (0.04, 0.08, 0.12, 0.15, 0.18)),
    Corruption("shot noise", "noise", shot_noise, (250, 100, 50, 30, 15)),
    Corruption("impulse noise", "noise", impulse_noise, (0.01, 0.02, 0.05, 0.08, 0.14)),
    Corruption(
        "defocus", "blur", defocus_blur, ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1))
    ),
    Corruption(
        "frosted glass",
        "blur",
        glass_blur,
        ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    ),
    Corruption("motion", "blur", motion_blur, ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3))),
    Corruption("zoom", "blur", zoom_blur, (1.05, 1.10, 1.15, 1.20, 1.25)),
    Corruption(
        "snow",
        "weather",
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
    ),
    Corruption(
        "frost", "weather", frost, ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55))
    ),
    Corruption("fog", "weather", fog, ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75))),
    Corruption("brightness", "weather", brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    Corruption("contrast", "digital", contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    Corruption(
        "elastic",
        "digital",
        elastic,
        (
            (0, 0, 0.08),
            (0.05, 0.3, 0.06),
            (0.1, 0.08, 0.06),
            (0.1, 0.03, 0.03),
            (0.16, 0.03, 0.02),
        ),
    ),
    Corruption("pixelation", "digital", pixelate, (0.9, 0.8, 0.7, 0.6, 0.5)),
    Corruption("JPEG", "digital", jpeg, (65, 58, 50, 40, 25)),
)
"""In the paper's order."""


# ---------------------------------------------------------------- crop and resolution
def shifted(faces: Faces, share: float, random: np.random.Generator) -> Faces:
    """Shift each face by a share of its side in a random direction.

    Here and below, pixels outside the image repeat its border.
    """
    angles = random.uniform(0, 2 * np.pi, len(faces))
    moves = share * FACE_SIZE * np.stack((np.cos(angles), np.sin(angles)), axis=1)
    return _moved(faces, [np.array([[1, 0, x], [0, 1, y]]) for x, y in moves])


def scaled(faces: Faces, factor: float, _: np.random.Generator) -> Faces:
    """Scale faces within their images by a factor."""
    return _moved(faces, [_turn(0, factor)] * len(faces))


def turned(faces: Faces, degrees: float, random: np.random.Generator) -> Faces:
    """Rotate each face about its centre, randomly to the left or right."""
    signs = random.choice((-1, 1), len(faces))
    return _moved(faces, [_turn(degrees * sign, 1) for sign in signs])


def sized(faces: Faces, pixels: float, _: np.random.Generator) -> Faces:
    """Resize faces to a side of so many pixels, and back with `standard_face`."""
    side = (int(pixels), int(pixels))
    how = cv2.INTER_AREA if pixels < FACE_SIZE else cv2.INTER_CUBIC

    def resized(face: Faces) -> npt.ArrayLike:
        return standard_face(np.asarray(cv2.resize(face, side, interpolation=how), np.uint8))

    return _map_layers(faces, resized)


# ---------------------------------------------------------------- helpers
def plasma(count: int, random: np.random.Generator, decay: float) -> Greys:
    """Return clouds (N, 64, 64), 0-1, from the diamond-square algorithm on a torus."""
    side = _PLASMA_SIDE
    clouds, step, wibble = np.zeros((count, side, side), np.float32), side, 1.0
    while step >= 2:
        half = step // 2

        def noisy(total: Greys, wibble: float = wibble) -> Greys:
            return np.asarray(total / 4 + random.uniform(-wibble, wibble, total.shape), np.float32)

        corners = clouds[:, ::step, ::step]
        below = corners + np.roll(corners, -1, axis=1)
        clouds[:, half::step, half::step] = noisy(below + np.roll(below, -1, axis=2))
        middles = clouds[:, half::step, half::step]
        beside = corners + np.roll(corners, -1, axis=2)
        clouds[:, ::step, half::step] = noisy(middles + np.roll(middles, 1, axis=1) + beside)
        beside = middles + np.roll(middles, 1, axis=2)
        clouds[:, half::step, ::step] = noisy(beside + below)
        step, wibble = half, wibble / decay**2
    clouds -= clouds.min(axis=(1, 2), keepdims=True)
    return np.asarray(clouds / clouds.max(axis=(1, 2), keepdims=True), np.float32)


def motion_kernel(angle: float, radius: int, sigma: float) -> Greys:
    """Return half a Gaussian along a line from the centre, as ImageMagick's motion blur does."""
    steps = np.arange(2 * max(1, round(LENGTH * radius)) + 1)
    weights = np.exp(-(steps**2) / (2 * (LENGTH * sigma) ** 2))
    reach = int(steps[-1])
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    radians = np.deg2rad(angle)
    rows, columns = (
        reach + np.rint(steps * factor).astype(int) for factor in (np.sin(radians), np.cos(radians))
    )
    np.add.at(kernel, (rows, columns), weights)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _motion_blurred(layers: Greys, angles: npt.ArrayLike, radius: int, sigma: float) -> Greys:
    result = np.empty_like(layers)
    for place, angle in enumerate(np.asarray(angles)):
        kernel = motion_kernel(float(angle), radius, sigma)
        result[place] = cv2.filter2D(layers[place], -1, kernel, borderType=cv2.BORDER_REPLICATE)
    return result


def _enlarged(layer: Greys, factor: float) -> Greys:
    sides = (FACE_SIZE, FACE_SIZE)
    turn = _turn(0, factor)
    return np.asarray(cv2.warpAffine(layer, turn, sides, borderMode=cv2.BORDER_REPLICATE))


def _turn(degrees: float, factor: float) -> npt.NDArray[np.float64]:
    middle = (FACE_SIZE - 1) / 2
    return np.asarray(cv2.getRotationMatrix2D((middle, middle), float(degrees), float(factor)))


def _moved(faces: Faces, ways: Sequence[npt.NDArray[np.float64]]) -> Faces:
    warp = partial(
        cv2.warpAffine,
        dsize=(FACE_SIZE, FACE_SIZE),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    result = np.empty_like(faces)
    for place, way in enumerate(ways):
        result[place] = warp(faces[place], way)
    return result


def _blurred(layers: Greys, sigma: float) -> Greys:
    return _map_layers(layers, lambda layer: cv2.GaussianBlur(layer, (0, 0), sigma))


def _map_layers(
    layers: npt.NDArray[Any], change: Callable[[Any], npt.ArrayLike]
) -> npt.NDArray[Any]:
    result = np.empty_like(layers)
    for place, layer in enumerate(layers):
        result[place] = change(np.ascontiguousarray(layer))
    return result
