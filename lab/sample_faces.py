"""The sample picture: one expressive face for each emotion that shows no real person.

Each face is the mean of a few hundred typical Training faces, so the picture can be published with
the project, unlike a photo or an image of the data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, UsageError
from mien.core.images import FACE_SIZE, write_picture

FACES_EACH = 200
"""Faces per mean: enough that no person shows through, few enough to keep the expression."""

CANDIDATES = 5
"""With a model, candidates per face of the mean: those it is most confident of."""

CANDIDATE_SHARE = 0.3
"""With a model, largest share of an emotion's images that are candidates, so that those of a rare
emotion are selected too."""

LEAST_CONTRAST = 8.0
"""Standard deviation of the grey values below which an image is blank or nearly so."""

_DISTINCTIVE = 0.5  # weight of the difference from the mean of all; above 1, shadows dominate
_SHARPENING = 1.0
_SHARPENING_RADIUS = 1.5
_GREY_MEAN, _GREY_SPREAD = 128.0, 50.0

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """Sizes of the sample picture in pixels.

    Attributes:
        side: side of a face.
        aside: space to the right of each face, for the chart of an annotated copy.
        gap: space between rows and around the picture, which detectors need.
        feather: width of the border in which a face fades into the background.
        columns: faces per row; a shorter last row is centred.
        background: grey value, 0-255.
    """

    side: int = 224
    aside: int = 184
    gap: int = 72
    feather: int = 24
    columns: int = 4
    background: int = 72


def prototypes(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    *,
    probabilities: npt.NDArray[np.floating[Any]] | None = None,
    count: int = FACES_EACH,
) -> npt.NDArray[np.uint8]:
    """Return a typical face of each emotion: the mean of its most typical images.

    Images are standardised (mean 0, deviation 1) and used along with their mirror images. Typical
    images are similar to the mean of their emotion, and to its difference from the mean of all;
    with a model, only those it classifies correctly with high confidence are candidates.

    Args:
        images: uint8 (N, 48, 48), Training.
        labels: (N,), indices into `EMOTIONS`.
        probabilities: (N, 7), of a trained model; None without.
        count: faces per mean.

    Returns:
        uint8 (7, 48, 48), in the order of `EMOTIONS`.

    Raises:
        UsageError: if ``count`` is below 1 or shapes differ.
        DataError: if an emotion has no image with any contrast.
    """
    if count < 1:
        raise UsageError(f"expected 1 face or more in a mean, got {count}")
    if probabilities is not None and probabilities.shape != (len(labels), len(EMOTIONS)):
        raise UsageError(
            f"expected probabilities ({len(labels)}, {len(EMOTIONS)}), got {probabilities.shape}"
        )
    values = images.reshape(len(images), -1).astype(np.float32)
    usable = values.std(axis=1) >= LEAST_CONTRAST
    everyone = _mirrored_mean(_standardised(values[usable]))
    faces = []
    for label, emotion in enumerate(EMOTIONS):
        indices = np.flatnonzero((labels == label) & usable)
        if len(indices) == 0:
            raise DataError(f"no usable image of {emotion}: expected at least one")
        if probabilities is not None:
            surest = np.argsort(-probabilities[indices, label], kind="stable")
            most = max(1, min(CANDIDATES * count, int(CANDIDATE_SHARE * len(indices))))
            indices = indices[surest[:most]]
        faces.append(_typical_face(_standardised(values[indices]), everyone, count))
    return np.stack(faces)


def _standardised(values: _Floats) -> _Floats:
    centred = values - values.mean(axis=1, keepdims=True)
    return np.asarray(centred / centred.std(axis=1, keepdims=True), np.float32)


def _mirrored(values: _Floats) -> _Floats:
    return values.reshape(-1, FACE_SIZE, FACE_SIZE)[:, :, ::-1].reshape(values.shape)


def _mirrored_mean(values: _Floats) -> _Floats:
    mean = values.mean(axis=0, keepdims=True)
    return np.asarray((mean + _mirrored(mean))[0] / 2, np.float32)


def _typical_face(values: _Floats, everyone: _Floats, count: int) -> npt.NDArray[np.uint8]:
    """Average the ``count`` most typical of standardised faces, (N, 48 * 48), and their mirrors."""
    mean = _mirrored_mean(values)
    apart = mean - everyone
    # Both directions are symmetric, so a face and its mirror image are equally typical.
    typicality = values @ _unit(mean) + _DISTINCTIVE * (values @ _unit(apart))
    chosen = values[np.argsort(-typicality, kind="stable")[:count]]
    return _sharpened(_mirrored_mean(chosen).reshape(FACE_SIZE, FACE_SIZE))


def _unit(direction: _Floats) -> _Floats:
    # With a single class, the direction is zero and stays so.
    return np.asarray(direction / max(float(np.linalg.norm(direction)), 1e-6), np.float32)


def _sharpened(face: _Floats) -> npt.NDArray[np.uint8]:
    """Sharpen a mean face, and scale it to 8 bits."""
    blurred = cv2.GaussianBlur(face, (0, 0), _SHARPENING_RADIUS)
    sharp = face + _SHARPENING * (face - blurred)
    spread = max(float(sharp.std()), 1e-6)
    grey = _GREY_MEAN + _GREY_SPREAD * (sharp - sharp.mean()) / spread
    return np.asarray(np.clip(np.rint(grey), 0, 255), np.uint8)


def lay_out(faces: npt.NDArray[np.uint8], layout: Layout | None = None) -> npt.NDArray[np.uint8]:
    """Enlarge faces, uint8 (N, 48, 48), and lay them out on one canvas, uint8 (H, W)."""
    form = Layout() if layout is None else layout
    across, down = form.side + form.aside, form.side + form.gap
    rows = -(-len(faces) // form.columns)
    shape = (rows * down + form.gap, form.columns * across + form.gap)
    canvas = np.full(shape, form.background, np.float32)
    mask = _feathered(form.side, form.feather)
    for number, face in enumerate(faces):
        row, column = divmod(number, form.columns)
        in_row = min(form.columns, len(faces) - row * form.columns)
        left = form.gap + column * across + (form.columns - in_row) * across // 2
        top = form.gap + row * down
        size = (form.side, form.side)
        large = cv2.resize(face, size, interpolation=cv2.INTER_LANCZOS4).astype(np.float32)
        place = canvas[top : top + form.side, left : left + form.side]
        place += mask * (large - place)
    return np.asarray(np.rint(canvas), np.uint8)


def _feathered(side: int, feather: int) -> _Floats:
    """Return weights (side, side): 1 inside, fading to 0 towards the border."""
    distance = np.minimum(np.arange(side) + 1, side - np.arange(side))
    ramp = np.clip(distance / max(1, feather), 0, 1)
    smooth = ramp * ramp * (3 - 2 * ramp)
    return np.asarray(np.outer(smooth, smooth), np.float32)


def write_sample(picture: npt.NDArray[np.uint8], path: Path) -> None:
    """Write a grey picture, uint8 (H, W), as a PNG; raises OutputError if it cannot be written."""
    write_picture(Image.fromarray(picture), path, optimize=True)
