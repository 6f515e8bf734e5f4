"""What may happen to a face before it reaches the network, done to the images of a data set.

Each change takes standard faces, uint8 (N, 48, 48), and returns as many of the same kind; none of
them draws random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.faces import FACE_SIZE, standard_face

Faces: TypeAlias = npt.NDArray[np.uint8]

BLUR_SIGMA = 1.0
"""In pixels of the standard face."""

JPEG_QUALITY = 30

LIGHT_FACTORS = (0.7, 1.3)
"""By which brightness and contrast are multiplied: 30 % less, 30 % more."""


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        name: as tables and JSON have it.
        apply: uint8 (N, 48, 48) to uint8 (N, 48, 48); the argument is left as it is.
    """

    name: str
    apply: Callable[[Faces], Faces]


def changes() -> tuple[Change, ...]:
    """Return the changes that a model has to bear, in the order in which they are reported."""
    light = [
        Change(f"{what} {100 * (factor - 1):+.0f} %", partial(change, factor=factor))
        for what, change in (("brightness", brightened), ("contrast", contrasted))
        for factor in LIGHT_FACTORS
    ]
    return (
        Change("histogram equalised", equalised),
        Change(f"blurred, sigma {BLUR_SIGMA:g} px", blurred),
        Change("half the resolution", halved),
        Change(f"JPEG, quality {JPEG_QUALITY}", jpeg_coded),
        *light,
    )


def equalised(faces: Faces) -> Faces:
    """Spread each face's greys evenly (its histogram equalised)."""
    return _each(faces, cv2.equalizeHist)


def blurred(faces: Faces, *, sigma: float = BLUR_SIGMA) -> Faces:
    """Blur with a Gaussian of ``sigma`` pixels."""
    return _each(faces, lambda face: cv2.GaussianBlur(face, (0, 0), sigma))


def halved(faces: Faces) -> Faces:
    """Shrink faces to half their side and enlarge them as any small face is (`standard_face`)."""
    half = (FACE_SIZE // 2, FACE_SIZE // 2)

    def small(face: Faces) -> Faces:
        return np.asarray(cv2.resize(face, half, interpolation=cv2.INTER_AREA), np.uint8)

    return _each(faces, lambda face: standard_face(small(face)))


def jpeg_coded(faces: Faces, *, quality: int = JPEG_QUALITY) -> Faces:
    """Code faces as JPEG and decode them again."""

    def coded(face: Faces) -> Faces:
        _, content = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), np.uint8)

    return _each(faces, coded)


def brightened(faces: Faces, *, factor: float) -> Faces:
    """Multiply all greys by a factor; what leaves 0-255 is cut off."""
    return _rounded(faces * np.float32(factor))


def contrasted(faces: Faces, *, factor: float) -> Faces:
    """Multiply each grey's distance from its face's mean; what leaves 0-255 is cut off."""
    means = faces.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    return _rounded((faces - means) * np.float32(factor) + means)


def _each(faces: Faces, change: Callable[[Faces], npt.ArrayLike]) -> Faces:
    # Not np.stack: there may be no face at all.
    result = np.empty_like(faces)
    for place, face in enumerate(faces):
        result[place] = change(np.ascontiguousarray(face))
    return result


def _rounded(greys: npt.NDArray[np.float32]) -> Faces:
    return np.clip(np.rint(greys), 0, 255).astype(np.uint8)
