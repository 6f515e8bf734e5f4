"""Duplicate images, exact and near: an exhaustive search with an exact bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mien.core.errors import DataError, UsageError
from mien.core.faces import FACE_SIZE
from mien.core.progress import Progress

NEAR_THRESHOLD = 0.95
"""The least cosine of near copies."""

LOWEST_THRESHOLD = 0.8
"""Below it, different people in a similar pose would count as copies."""

_POOLED = FACE_SIZE // 2
_SKETCH = 48
_ROWS, _COLUMNS = 1024, 8192
_MOST_PAIRS = 2_000_000

_Part: TypeAlias = (
    "tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], bool]"
)


@dataclass(frozen=True)
class NearPairs:
    """Pairs of near copies.

    Attributes:
        first: int64 (P,), index of one image.
        second: int64 (P,), index of the other, always greater than ``first``.
        cosine: float32 (P,), up to 1.
        flipped: bool (P,), whether one is the other's mirror image.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    cosine: npt.NDArray[np.float32]
    flipped: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.first)


def group_copies(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return for each image (N, H, W) the index of the first one that is pixel-identical, (N,)."""
    first: dict[bytes, int] = {}
    return np.array(
        [first.setdefault(image.tobytes(), index) for index, image in enumerate(images)], np.int64
    )


def blank_mask(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Mark the images (N, H, W) whose grey values hardly vary (standard deviation below 2)."""
    flat = images.reshape(len(images), -1)
    return np.array([image.std() < 2.0 for image in flat], np.bool_)


def find_near_pairs(
    images: npt.NDArray[np.uint8], *, threshold: float = NEAR_THRESHOLD, quiet: bool = False
) -> NearPairs:
    """Find all pairs of images, uint8 (N, 48, 48), that are near copies of each other.

    Two images are near copies if the cosine of their centred 24x24 pixels (means of 2x2) is at
    least ``threshold`` (0.8 to 1), one of them mirrored or not. Brightness and contrast do not
    matter. A constant image is a copy of none.

    Most pairs are excluded by a sketch: for unit vectors x and y and an orthogonal projection P,
    the cosine is at most Px.Py + |x - Px| |y - Py| (Cauchy-Schwarz). With the length of the rest as
    one more coordinate that bound is a dot product of 49 numbers in place of 576, and no pair is
    missed.

    Raises:
        UsageError: if the threshold is out of range.
        DataError: if there are millions of such pairs, as between the frames of a film.
    """
    if not LOWEST_THRESHOLD <= threshold <= 1:
        raise UsageError(f"expected a threshold from {LOWEST_THRESHOLD} to 1, got {threshold}")
    plain, mirrored = _unit_vectors(images), _unit_vectors(images[:, :, ::-1])
    basis = _common_basis(plain, mirrored)
    sketch = _sketch(plain, basis)
    # Rounding may take a little from both the bound and the cosine.
    least = np.float32(threshold - 1e-5)
    both = ((plain, sketch, False), (mirrored, _sketch(mirrored, basis), True))
    parts: list[_Part] = []
    found = 0
    with Progress("comparing", len(images), unit="img", quiet=quiet) as progress:
        for start in range(0, len(images), _ROWS):
            rows = slice(start, start + _ROWS)
            for others, others_sketch, flipped in both:
                # Each pair once: the second image comes after the first.
                for left in range(start, len(images), _COLUMNS):
                    columns = slice(left, left + _COLUMNS)
                    bound = sketch[rows] @ others_sketch[columns].T
                    top, side = np.divmod(np.flatnonzero(bound >= least), bound.shape[1])
                    later = side + left > top + start
                    first, second = top[later] + start, side[later] + left
                    cosine = _cosines(plain, others, first, second)
                    keep = cosine >= least
                    parts.append((first[keep], second[keep], cosine[keep], flipped))
                    found += int(keep.sum())
            if found > _MOST_PAIRS:
                raise DataError(
                    f"more than {_MOST_PAIRS:,} pairs of images are alike: raise --near-threshold"
                )
            progress.advance(len(sketch[rows]))
    return _join(parts)


def _unit_vectors(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the pooled, centred images as rows of length 1 (of length 0 if constant)."""
    blocks = images.reshape(-1, _POOLED, 2, _POOLED, 2)
    pooled = blocks.mean(axis=(2, 4), dtype=np.float32).reshape(-1, _POOLED * _POOLED)
    pooled -= pooled.mean(axis=1, keepdims=True)
    length = np.linalg.norm(pooled, axis=1, keepdims=True)
    # A constant image comes out of float32 with a length of some 1e-4, not of 0.
    return np.where(length > 1e-2, pooled / np.maximum(length, 1e-2), 0).astype(np.float32)


def _common_basis(
    plain: npt.NDArray[np.float32], mirrored: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the 48 leading principal directions of all vectors, (576, 48)."""
    covariance = plain.T @ plain + mirrored.T @ mirrored
    _, vectors = np.linalg.eigh(covariance.astype(np.float64))
    return np.ascontiguousarray(vectors[:, -_SKETCH:], np.float32)


def _sketch(
    vectors: npt.NDArray[np.float32], basis: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the projections with the length of the rest as one more coordinate, (N, 49)."""
    projected = vectors @ basis
    rest = (vectors**2).sum(axis=1) - (projected**2).sum(axis=1)
    return np.column_stack([projected, np.sqrt(np.maximum(rest, 0))]).astype(np.float32)


def _cosines(
    plain: npt.NDArray[np.float32],
    others: npt.NDArray[np.float32],
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """Return the cosines of the pairs, some thousands at a time so that memory stays small."""
    cosines = np.empty(len(first), np.float32)
    for start in range(0, len(first), _COLUMNS):
        some = slice(start, start + _COLUMNS)
        cosines[some] = np.einsum("ij,ij->i", plain[first[some]], others[second[some]])
    return cosines


def _join(parts: list[_Part]) -> NearPairs:
    """Merge the parts, most alike first; a pair found both ways keeps the greater cosine."""
    best: dict[tuple[int, int], tuple[float, bool]] = {}
    for first, second, cosine, flipped in parts:
        for one, other, value in zip(first.tolist(), second.tolist(), cosine.tolist(), strict=True):
            if value > best.get((one, other), (-1.0, False))[0]:
                best[one, other] = (value, flipped)
    order = sorted(best, key=lambda pair: (-best[pair][0], pair))
    return NearPairs(
        np.array([one for one, _ in order], np.int64),
        np.array([other for _, other in order], np.int64),
        np.array([min(1.0, best[pair][0]) for pair in order], np.float32),
        np.array([best[pair][1] for pair in order], np.bool_),
    )
