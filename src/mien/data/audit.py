"""Audit of a data set: class counts, copies, leaks between splits, blanks, bad files, FER+."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError
from mien.data.dataset import SPLITS, Skipped, Split
from mien.data.duplicates import (
    NEAR_THRESHOLD,
    NearPairs,
    blank_mask,
    find_near_pairs,
    group_copies,
)
from mien.data.votes import Votes, agrees, align_votes, unusable

COMPARISONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("train", ("train",)),
    ("val", ("val",)),
    ("test", ("test",)),
    ("val", ("train",)),
    ("test", ("train",)),
    ("test", ("train", "val")),
)
"""Splits, and the splits in which their copies are counted: within each, then leaks."""


@dataclass(frozen=True)
class CopyCount:
    """How many images of a split have a copy, another image, in other splits or in its own.

    Attributes:
        split: whose images are counted.
        within: where the copies are.
        exact: images with a pixel-identical copy.
        exact_other_label: those with such a copy that has another label.
        near: images with a near or exact copy.
        near_distinct: how many different images these are.
        near_other_label: those of ``near`` with such a copy that has another label.
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
    """Two images that are copies (cosine 1) or near copies, by their files."""

    first: str
    second: str
    cosine: float
    flipped: bool
    same_label: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the pair ready for JSON."""
        return {**asdict(self), "cosine": round(self.cosine, 4)}


@dataclass(frozen=True)
class VoteCount:
    """What FER+ says of one split."""

    images: int
    voted: int
    agreeing: int
    not_a_face: int

    @property
    def agreement(self) -> float:
        """Return the share (0-1) of the voted images whose label is the vote's."""
        return self.agreeing / self.voted if self.voted else 0.0


@dataclass(frozen=True)
class Audit:
    """The findings of an audit.

    Attributes:
        images: how many there are in all.
        distinct: how many of them are pixel-wise different.
        classes: for each split, how many images each emotion has.
        copies: one count for each of `COMPARISONS`.
        near_threshold: the least cosine of a near copy.
        exact_pairs: each image with the first one it is a copy of, other labels first.
        near_pairs: near copies that are not exact ones, most alike first; of exact copies, the
            first stands for all.
        blank: files of one grey value, or almost.
        resized: files of another size than 48x48.
        skipped: files that could not be used, for each split.
        votes: FER+ for each split, or None without votes.
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
        """Return the findings ready for JSON, with every file that they name."""
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
    """All splits' images; ``group`` is the index of each one's first exact copy."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    split: npt.NDArray[np.int64]
    files: tuple[str, ...]
    group: npt.NDArray[np.int64]


def audit_splits(
    splits: Mapping[str, Split],
    *,
    votes: Votes | None = None,
    near_threshold: float = NEAR_THRESHOLD,
    quiet: bool = False,
) -> Audit:
    """Count what is in a data set and what is wrong with it.

    Args:
        splits: as `mien.data.loading.read_splits` gives them; any may be empty.
        votes: FER+, to compare the labels with.
        near_threshold: the least cosine of near copies (0.8 to 1).
        quiet: draw no progress bar.

    Raises:
        DataError: if no split has an image, or the votes are of another data set.
        UsageError: if the threshold is out of range.
    """
    images = _join(splits)
    blank = blank_mask(images.pixels)
    # One image stands for all its exact copies; blank ones are not compared.
    alone = np.flatnonzero((images.group == np.arange(len(images.group))) & ~blank)
    found = find_near_pairs(images.pixels[alone], threshold=near_threshold, quiet=quiet)
    near = NearPairs(alone[found.first], alone[found.second], found.cosine, found.flipped)
    return Audit(
        classes={name: splits[name].class_counts() for name in SPLITS},
        images=len(images.files),
        distinct=len(np.unique(images.group)),
        copies=_count_copies(images, near),
        exact_pairs=_exact_pairs(images),
        near_pairs=_near_pairs(images, near),
        near_threshold=near_threshold,
        blank=tuple(images.files[index] for index in np.flatnonzero(blank)),
        resized=tuple(file for name in SPLITS for file in splits[name].resized),
        skipped={name: splits[name].skipped for name in SPLITS},
        votes=None if votes is None else _count_votes(splits, votes),
    )


def _join(splits: Mapping[str, Split]) -> _Images:
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
    around = np.zeros_like(presence)
    np.add.at(around, near.first, presence[near.second])
    np.add.at(around, near.second, presence[near.first])
    counts = []
    for name, within in COMPARISONS:
        mine = np.flatnonzero(images.split == SPLITS.index(name))
        group, label = images.group[mine], images.labels[mine]
        places = [SPLITS.index(other) for other in within]
        exact = presence[group][:, places].sum(axis=1)
        if name in within:
            exact[np.arange(len(mine)), label] -= 1  # an image is no copy of itself
        alike = exact + around[group][:, places].sum(axis=1)
        has_near = alike.any(axis=1)
        counts.append(
            CopyCount(
                name,
                within,
                exact=int(exact.any(axis=1).sum()),
                exact_other_label=_with_other_label(exact, label),
                near=int(has_near.sum()),
                near_distinct=len(np.unique(group[has_near])),
                near_other_label=_with_other_label(alike, label),
            )
        )
    return tuple(counts)


def _with_other_label(counts: npt.NDArray[np.int32], label: npt.NDArray[np.int64]) -> int:
    """Count the rows (N, 7) with something outside the column that ``label`` (N,) names."""
    own = counts[np.arange(len(label)), label]
    return int((counts.sum(axis=1) > own).sum())


def _exact_pairs(images: _Images) -> tuple[Pair, ...]:
    later = np.flatnonzero(images.group != np.arange(len(images.group)))
    pairs = [_pair(images, int(images.group[index]), int(index), 1.0, False) for index in later]
    return tuple(sorted(pairs, key=lambda pair: pair.same_label))


def _near_pairs(images: _Images, near: NearPairs) -> tuple[Pair, ...]:
    columns = (near.first, near.second, near.cosine, near.flipped)
    return tuple(
        _pair(images, int(one), int(other), float(cosine), bool(flipped))
        for one, other, cosine, flipped in zip(*columns, strict=True)
    )


def _pair(images: _Images, one: int, other: int, cosine: float, flipped: bool) -> Pair:
    same = bool(images.labels[one] == images.labels[other])
    return Pair(images.files[one], images.files[other], cosine, flipped, same)


def _count_votes(splits: Mapping[str, Split], votes: Votes) -> dict[str, VoteCount]:
    counts = {}
    for name in SPLITS:
        aligned = align_votes(splits[name], votes)
        counts[name] = VoteCount(
            images=len(aligned),
            voted=int(aligned.any(axis=1).sum()),
            agreeing=int(agrees(aligned, splits[name].labels).sum()),
            not_a_face=int(unusable(aligned).sum()),
        )
    return counts
