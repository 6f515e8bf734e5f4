"""Occlusion: a face is covered bit by bit, and what is lost of a score is seen.

Zeiler and Fergus 2014, 1311.2901, section 4.2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mien.core.faces import FACE_SIZE
from mien.inference.classifier import Classifier

PATCH = 12
"""Side of the square that occlusion covers, in pixels of the 48: an eye, or half a mouth."""

STRIDE = 4
"""By how much that square is moved; each pixel is covered (PATCH / STRIDE) ** 2 = 9 times."""


def occlusion_maps(
    classifier: Classifier,
    faces: npt.NDArray[np.uint8],
    chosen: npt.NDArray[np.intp],
    scores: npt.NDArray[np.float32],
    batch_size: int,
) -> npt.NDArray[np.float32]:
    """Return the score that is lost where each pixel is covered, float32 (N, 48, 48).

    It is the mean over the patches that cover the pixel, in whose middle it is counting more. Below
    0 where covering the pixel raises the score.

    Args:
        classifier: the model.
        faces: uint8 (N, 48, 48), grey.
        chosen: (N,), the index of each face's class.
        scores: float32 (N, classes), what the model says of the faces.
        batch_size: images that go through the network at once.

    Raises:
        ModelError: if the network fails.
    """
    line = patch_line()
    maps = np.zeros(faces.shape, np.float32)
    for number, (face, index) in enumerate(zip(faces, chosen, strict=True)):
        left = classifier.classify(covered_faces(face), batch_size=batch_size)[:, index]
        lost = (scores[number, index] - left).reshape(len(line), len(line))
        maps[number] = line.T @ lost @ line
    return maps


def covered_faces(face: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a face (48, 48) with a patch covered, once for each place, uint8 (196, 48, 48).

    A patch is filled with the face's mean grey: the network was trained on faces with such patches
    (random erasing), so that a hole alone does not mislead it. They go row by row.
    """
    places = patch_line() > 0
    patches = (places[:, None, :, None] & places[None, :, None, :]).reshape(-1, *face.shape)
    return np.where(patches, np.uint8(round(float(face.mean()))), face)


def patch_line() -> npt.NDArray[np.float32]:
    """Return where patches lie along a side, float32 (14, 48): a smooth bump each, else 0.

    Columns sum to 1. Patches reach over the border, so that each pixel is covered equally often.
    """
    starts = np.arange(STRIDE - PATCH, FACE_SIZE, STRIDE)
    distance = np.arange(FACE_SIZE) + 0.5 - (starts[:, None] + PATCH / 2)
    bumps = np.where(abs(distance) < PATCH / 2, np.cos(np.pi * distance / PATCH) ** 2, 0.0)
    return np.asarray(bumps / bumps.sum(axis=0), np.float32)
