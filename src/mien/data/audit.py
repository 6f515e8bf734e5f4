"""Audit of a data set: class counts, exact and near copies, leaks, blanks, bad files, FER+."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, UsageError
from mien.core.images import FACE_SIZE
from mien.core.progress import Progress
from mien.data.dataset import SPLITS, Skipped, Split
from mien.data.votes import Votes, agreement_mask, align_votes, unusable_mask

COMPARISONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("train", ("train",)),
    ("val", ("val",)),
    ("test", ("test",)),
    ("val", ("train",)),
    ("test", ("train",)),
    ("test", ("train", "val")),
)
"""Splits, and the splits that their copies are counted in: within each, then leaks."""

NEAR_THRESHOLD = 0.95
"""Default minimum cosine similarity of near copies."""

LOWEST_THRESHOLD = 0.8
"""Below it, different people in a similar pose would count as copies."""

NearPairs: TypeAlias = "np.recarray[Any, Any]"
"""Pairs of near copies (P,), with these columns.

``first`` and ``second`` are the images' indices, int64, the second always greater; ``cosine`` is
float32, up to 1; ``flipped`` tells whether one resembles the other's mirror image.
"""

_Floats: TypeAlias = npt.NDArray[np.float32]
_Indices: TypeAlias = npt.NDArray[np.int64]

_PAIR = [("first", "i8"), ("second", "i8"), ("cosine", "f4"), ("flipped", "?")]
_POOLED = FACE_SIZE // 2
_SKETCH = 48
_ROWS, _COLUMNS = 1024, 8192
_MOST_PAIRS = 2_000_000


@dataclass(frozen=True)
class CopyCount:
    """Number of images in a split that have a copy, another image, in certain splits.

    Attributes:
        split: the split whose images are counted.
        within: the splits searched for copies.
        exact: images with a pixel-identical copy.
        exact_other_label: those with such a copy of another label.
        near: images with a near or exact copy.
        near_distinct: number of different images among these.
        near_other_label: those of ``near`` with such a copy of another label.
    """

    split: str
    within: tuple[str, ...]
    exact: int
    exact_other_label: int
    near: int
    near_distinct: int
    near_other_label: int


@dataclass(frozen=True)
class Pair:
    """The files of two images that are exact (cosine 1) or near copies."""

    first: str
    second: str
    cosine: float
    flipped: bool
    same_label: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the pair as JSON."""
        return {**asdict(self), "cosine": round(self.cosine, 4)}


@dataclass(frozen=True)
class VoteCount:
    """FER+ votes on one split."""

    images: int
    voted: int
    agreeing: int
    not_a_face: int

    @property
    def agreement(self) -> float:
        """Share (0-1) of the voted images whose label has the most votes."""
        return self.agreeing / self.voted if self.voted else 0.0


@dataclass(frozen=True)
class Audit:
    """The findings of an audit.

    Attributes:
        images: number of images in all splits.
        distinct: number of pixel-wise different images.
        classes: number of images by split and emotion.
        copies: one count for each of `COMPARISONS`.
        near_threshold: minimum cosine similarity of a near copy.
        exact_pairs: each exact copy with the first of its kind, pairs of different labels first.
        near_pairs: pairs of near copies, most alike first; the first of several exact copies stands
            for all.
        blank: files of one grey value, or almost.
        resized: files that are not 48x48.
        skipped: files that could not be used, by split.
        votes: FER+ votes by split, or None without votes.
    """

    images: int
    distinct: int
    classes: Mapping[str, Mapping[str, int]]
    copies: tuple[CopyCount, ...]
    near_threshold: float
    exact_pairs: tuple[Pair, ...]
    near_pairs: tuple[Pair, ...]
    blank: tuple[str, ...]
    resized: tuple[str, ...]
    skipped: Mapping[str, tuple[Skipped, ...]]
    votes: Mapping[str, VoteCount] | None

    def to_dict(self, source: str) -> dict[str, Any]:
        """Return the findings as JSON, with all files."""
        votes = {
            name: {**asdict(count), "agreement": round(count.agreement, 4)}
            for name, count in (self.votes or {}).items()
        }
        return {
            "schema": "mien-audit/1",
            "source": source,
            **asdict(self),
            "exact_pairs": [pair.to_dict() for pair in self.exact_pairs],
            "near_pairs": [pair.to_dict() for pair in self.near_pairs],
            "votes": None if self.votes is None else votes,
        }


@dataclass(frozen=True)
class _Images:
    """The images of all splits; ``group`` is the index of each image's first exact copy."""

    pixels: npt.NDArray[np.uint8]
    labels: _Indices
    split: _Indices
    files: tuple[str, ...]
    group: _Indices

    def pair(self, first: int, second: int, cosine: float, flipped: bool) -> Pair:
        same_label = bool(self.labels[first] == self.labels[second])
        return Pair(self.files[first], self.files[second], cosine, flipped, same_label)


def audit_splits(
    splits: Mapping[str, Split],
    *,
    votes: Votes | None = None,
    near_threshold: float = NEAR_THRESHOLD,
    quiet: bool = False,
) -> Audit:
    """Count the images, copies and defects of a data set.

    Args:
        splits: all splits, see `mien.data.loading.read_splits`; any may be empty.
        votes: FER+ votes to compare the labels with.
        near_threshold: minimum cosine similarity of near copies (0.8 to 1).
        quiet: show no progress bar.

    Raises:
        DataError: if no split has an image, or the votes are of another data set.
        UsageError: if the threshold is out of range.
    """
    images = _join_splits(splits)
    blank = blank_mask(images.pixels)
    # One image stands for all its exact copies; blank ones are not compared.
    unique = np.flatnonzero((images.group == np.arange(len(images.group))) & ~blank)
    near = find_near_pairs(images.pixels[unique], threshold=near_threshold, quiet=quiet)
    near.first, near.second = unique[near.first], unique[near.second]
    return Audit(
        classes={name: splits[name].class_counts() for name in SPLITS},
        images=len(images.files),
        distinct=len(np.unique(images.group)),
        copies=_count_copies(images, near),
        exact_pairs=_exact_pairs(images),
        near_pairs=tuple(images.pair(*row) for row in near.tolist()),
        near_threshold=near_threshold,
        blank=tuple(images.files[index] for index in np.flatnonzero(blank)),
        resized=tuple(file for name in SPLITS for file in splits[name].resized),
        skipped={name: splits[name].skipped for name in SPLITS},
        votes=None if votes is None else _count_votes(splits, votes),
    )


def _join_splits(splits: Mapping[str, Split]) -> _Images:
    parts = [splits[name] for name in SPLITS]
    if not any(len(part) for part in parts):
        skipped = [file for part in parts for file in part.skipped]
        first = f", the first: {skipped[0]}" if skipped else ""
        raise DataError(f"no usable image; {len(skipped)} files were skipped{first}")
    pixels = np.concatenate([part.images for part in parts])
    return _Images(
        pixels,
        np.concatenate([part.labels for part in parts]),
        np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        tuple(file for part in parts for file in part.files),
        group_copies(pixels),
    )


def _count_copies(images: _Images, near: NearPairs) -> tuple[CopyCount, ...]:
    total = len(images.files)
    # presence[g, s, l]: how many images with split s and label l are in the group that starts at g.
    presence = np.zeros((total, len(SPLITS), len(EMOTIONS)), np.int32)
    np.add.at(presence, (images.group, images.split, images.labels), 1)
    near_presence = np.zeros_like(presence)
    np.add.at(near_presence, near.first, presence[near.second])
    np.add.at(near_presence, near.second, presence[near.first])
    counts = []
    for name, within in COMPARISONS:
        own = np.flatnonzero(images.split == SPLITS.index(name))
        group, label = images.group[own], images.labels[own]
        places = [SPLITS.index(other) for other in within]
        exact = presence[group][:, places].sum(axis=1)
        if name in within:
            exact[np.arange(len(own)), label] -= 1  # an image is no copy of itself
        copies = exact + near_presence[group][:, places].sum(axis=1)
        has_copy = copies.any(axis=1)
        counts.append(
            CopyCount(
                name,
                within,
                exact=int(exact.any(axis=1).sum()),
                exact_other_label=_count_other_label(exact, label),
                near=int(has_copy.sum()),
                near_distinct=len(np.unique(group[has_copy])),
                near_other_label=_count_other_label(copies, label),
            )
        )
    return tuple(counts)


def _count_other_label(counts: npt.NDArray[np.int32], label: _Indices) -> int:
    """Count the rows (N, 7) with copies outside the column of their own label (N,)."""
    same_label = counts[np.arange(len(label)), label]
    return int((counts.sum(axis=1) > same_label).sum())


def _exact_pairs(images: _Images) -> tuple[Pair, ...]:
    later = np.flatnonzero(images.group != np.arange(len(images.group))).tolist()
    pairs = [images.pair(int(images.group[index]), index, 1.0, False) for index in later]
    return tuple(sorted(pairs, key=lambda pair: pair.same_label))


def _count_votes(splits: Mapping[str, Split], votes: Votes) -> dict[str, VoteCount]:
    counts = {}
    for name in SPLITS:
        aligned = align_votes(splits[name], votes)
        counts[name] = VoteCount(
            images=len(aligned),
            voted=int(aligned.any(axis=1).sum()),
            agreeing=int(agreement_mask(aligned, splits[name].labels).sum()),
            not_a_face=int(unusable_mask(aligned).sum()),
        )
    return counts


# ---------------------------------------------------------------- copies
def group_copies(images: npt.NDArray[np.uint8]) -> _Indices:
    """Return for each image (N, H, W) the index of the first one that is pixel-identical, (N,)."""
    first: dict[bytes, int] = {}
    return np.array(
        [first.setdefault(image.tobytes(), index) for index, image in enumerate(images)], np.int64
    )


def blank_mask(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Mark the images (N, H, W) whose grey values have a standard deviation below 2."""
    flat = images.reshape(len(images), -1)
    return np.array([image.std() < 2.0 for image in flat], np.bool_)


def find_near_pairs(
    images: npt.NDArray[np.uint8], *, threshold: float = NEAR_THRESHOLD, quiet: bool = False
) -> NearPairs:
    """Find all pairs of images, uint8 (N, 48, 48), that are near copies, most alike first.

    Two images are near copies if the cosine of their centred 24x24 pixels (means of 2x2) is at
    least ``threshold`` (0.8 to 1), one of them mirrored or not. Brightness and contrast do not
    matter. A constant image is a copy of none.

    The search is exhaustive, but most pairs are excluded by a sketch: for unit vectors x and y and
    an orthogonal projection P, the cosine is at most Px.Py + |x - Px| |y - Py| (Cauchy-Schwarz).
    With the length of the residual as one more coordinate that bound is a dot product of 49 numbers
    instead of 576.

    Raises:
        UsageError: if the threshold is out of range.
        DataError: if there are millions of such pairs, as between the frames of a video.
    """
    if not LOWEST_THRESHOLD <= threshold <= 1:
        raise UsageError(f"expected a threshold from {LOWEST_THRESHOLD} to 1, got {threshold}")
    plain, mirrored = _unit_vectors(images), _unit_vectors(images[:, :, ::-1])
    basis = _principal_basis(plain, mirrored)
    sketch = _sketch(plain, basis)
    # Rounding may lower both the bound and the cosine a little.
    least = np.float32(threshold - 1e-5)
    candidates = ((plain, sketch, False), (mirrored, _sketch(mirrored, basis), True))
    blocks = [_pairs([], [], [], [])]
    with Progress("comparing", len(images), unit="img", quiet=quiet) as progress:
        for top in range(0, len(images), _ROWS):
            rows = sketch[top : top + _ROWS]
            for others, others_sketch, flipped in candidates:
                for left in range(top, len(images), _COLUMNS):
                    bound = rows @ others_sketch[left : left + _COLUMNS].T
                    row, column = np.divmod(np.flatnonzero(bound >= least), bound.shape[1])
                    first, second = row + top, column + left
                    later = second > first  # each pair once
                    first, second = first[later], second[later]
                    cosine = _cosines(plain, others, first, second)
                    keep = cosine >= least
                    mirrors = np.full(int(keep.sum()), flipped)
                    blocks.append(_pairs(first[keep], second[keep], cosine[keep], mirrors))
            if sum(map(len, blocks)) > _MOST_PAIRS:
                raise DataError(
                    f"more than {_MOST_PAIRS:,} pairs of images are alike: raise --near-threshold"
                )
            progress.advance(len(rows))
    return _merge_pairs(blocks)


def _unit_vectors(images: npt.NDArray[np.uint8]) -> _Floats:
    """Return the pooled, centred images as rows of length 1 (of length 0 if constant)."""
    blocks = images.reshape(-1, _POOLED, 2, _POOLED, 2)
    pooled = blocks.mean(axis=(2, 4), dtype=np.float32).reshape(-1, _POOLED * _POOLED)
    pooled -= pooled.mean(axis=1, keepdims=True)
    length = np.linalg.norm(pooled, axis=1, keepdims=True)
    # Constant images have a length of about 1e-4 in float32, not of 0.
    return np.where(length > 1e-2, pooled / np.maximum(length, 1e-2), 0).astype(np.float32)


def _principal_basis(plain: _Floats, mirrored: _Floats) -> _Floats:
    """Return the 48 leading principal directions of all vectors, (576, 48)."""
    covariance = plain.T @ plain + mirrored.T @ mirrored
    _, vectors = np.linalg.eigh(covariance.astype(np.float64))
    return np.ascontiguousarray(vectors[:, -_SKETCH:], np.float32)


def _sketch(vectors: _Floats, basis: _Floats) -> _Floats:
    """Return the projections with the length of the residual as one more coordinate, (N, 49)."""
    projected = vectors @ basis
    residual = (vectors**2).sum(axis=1) - (projected**2).sum(axis=1)
    return np.column_stack([projected, np.sqrt(np.maximum(residual, 0))]).astype(np.float32)


def _cosines(plain: _Floats, others: _Floats, first: _Indices, second: _Indices) -> _Floats:
    """Return the cosines of the pairs (P,), in chunks to save memory."""
    cosines = np.empty(len(first), np.float32)
    for start in range(0, len(first), _COLUMNS):
        chunk = slice(start, start + _COLUMNS)
        cosines[chunk] = np.einsum("ij,ij->i", plain[first[chunk]], others[second[chunk]])
    return cosines


def _pairs(*columns: npt.ArrayLike) -> NearPairs:
    return np.rec.fromarrays(columns, dtype=_PAIR)


def _merge_pairs(blocks: Sequence[NearPairs]) -> NearPairs:
    """Return all pairs, most alike first; one found mirrored and not keeps the greater cosine."""
    found: npt.NDArray[Any] = np.concatenate(blocks)
    first, second, cosine, flipped = (found[name] for name, _ in _PAIR)
    found = found[np.lexsort((flipped, -cosine, second, first))]
    found = found[np.unique(found[["first", "second"]], return_index=True)[1]]
    found = found[np.argsort(-found["cosine"], kind="stable")]
    found["cosine"] = np.minimum(found["cosine"], 1)
    return found.view(np.recarray)
