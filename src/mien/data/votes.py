"""FER+ (Barsoum et al. 2016): the votes of ten annotators for each image of FER-2013.

The majority agrees with FER-2013's label on six images in ten. Two kinds of file are read:

- ``split,file,neutral,...,NF``: keyed by mien's split ("train", "val", "test") and the file's name,
  whose ending does not matter;
- FER+'s own ``fer2013new.csv`` (``Usage,Image name,neutral,...,NF``): keyed by the row, so it fits
  a data set that comes from the challenge's CSV, whose rows are the same.
"""

from __future__ import annotations

import csv
import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS, find_emotion
from mien.core.errors import DataError, reason_of
from mien.data.csv_file import USAGES, row_name
from mien.data.dataset import Split

_log = logging.getLogger(__name__)

VOTE_NAMES: tuple[str, ...] = (
    "neutral",
    "happy",
    "surprise",
    "sad",
    "angry",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "not_a_face",
)
"""Choices of a vote in FER+'s order (so that ties are broken alike), in mien's words."""

Votes: TypeAlias = "Mapping[tuple[str, str], npt.NDArray[np.int64]]"
"""From split and file name without its ending to counts, int64 (R, 10), as `VOTE_NAMES` says.

R is 1, but for a name that stands in several class folders: then it has a row for each of them."""

_NOT_A_FACE = VOTE_NAMES.index("not_a_face")
EMOTION_COLUMNS = np.array([VOTE_NAMES.index(emotion) for emotion in EMOTIONS])
"""The columns of the seven emotions, in their order."""

_LEAST_COVERAGE = 0.5


def load_votes(path: Path | str) -> Votes:
    """Read a file of votes.

    Raises:
        DataError: if the file is missing, is no such CSV, or a row has something else than counts.
    """
    rows: dict[tuple[str, str], list[npt.NDArray[np.int64]]] = {}
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text)
            header = [name.strip().lower() for name in next(reader, [])]
            places = _find_columns(path, header)
            for number, row in enumerate(reader, start=1):
                if row:
                    key, counts = _parse_row(path, number, row, header, places)
                    rows.setdefault(key, []).append(counts)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable CSV of votes ({error})") from error
    except OSError as error:
        raise DataError(f"cannot read the votes {path}: {reason_of(error)}") from error
    return {key: np.stack(counts) for key, counts in rows.items()}


def align_votes(split: Split, votes: Votes) -> npt.NDArray[np.int64]:
    """Return the votes for each image of a split, int64 (N, 10); zeros where there are none.

    FER-2013 has two names that are in two class folders each. Such images get the rows of that name
    in the order of their folders, if there are as many rows as images; else they count as without
    votes, which is logged.

    Raises:
        DataError: if fewer than half of the images have any: the votes are of another data set.
    """
    aligned = np.zeros((len(split), len(VOTE_NAMES)), np.int64)
    places: dict[str, list[int]] = {}
    for place in sorted(range(len(split)), key=lambda place: split.files[place]):
        places.setdefault(PurePosixPath(split.files[place]).stem, []).append(place)
    for stem, same_name in places.items():
        rows = votes.get((split.name, stem))
        if rows is None:
            continue
        if len(rows) == len(same_name):
            aligned[same_name] = rows
        else:
            _log.warning(
                "%d images of %s are called %s but %d rows of votes: these are not used",
                len(same_name), split.name, stem, len(rows),
            )  # fmt: skip
    found = int(np.count_nonzero(aligned.any(axis=1)))
    if len(split) and found < _LEAST_COVERAGE * len(split):
        raise DataError(
            f"votes for only {found} of the {len(split)} images of {split.name}: expected the "
            "votes of the same data set, with the same file names (a data set from the challenge's "
            "CSV goes with fer2013new.csv)"
        )
    return aligned


def not_a_face_mask(split: Split, votes: Votes) -> npt.NDArray[np.bool_]:
    """Mark the images (N,) that most annotators called no face, or that FER+ left out.

    Raises as `align_votes`.
    """
    return unusable(align_votes(split, votes))


def emotion_shares(split: Split, votes: Votes) -> npt.NDArray[np.float32]:
    """Return the votes as soft labels, float32 (N, 7); raises as `align_votes`.

    Each row sums to 1, or is all 0 where nobody voted for one of the seven.
    """
    counts = emotion_votes(split, votes).astype(np.float32)
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), np.float32)


def emotion_votes(split: Split, votes: Votes) -> npt.NDArray[np.int64]:
    """Return the votes for each emotion, int64 (N, 7); raises as `align_votes`."""
    return align_votes(split, votes)[:, EMOTION_COLUMNS]


def with_majority(split: Split, votes: Votes) -> Split:
    """Return the images with a majority among the votes for the seven emotions, labelled by it.

    Raises:
        DataError: if the votes are of another data set, or none has a majority.
    """
    emotions = emotion_votes(split, votes)
    keep = 2 * emotions.max(axis=1) > emotions.sum(axis=1)
    if not keep.any():
        raise DataError(f"no image of {split.name} has a majority of votes for one emotion")
    chosen = split.take(keep)
    return dataclasses.replace(chosen, labels=emotions[keep].argmax(axis=1))


def agrees(aligned: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return for each image (N,) whether the choice with the most votes is its label.

    All ten choices of the aligned votes (N, 10) count; of equal ones the first in FER+'s order. No
    votes never agree. The labels (N,) are indices into `EMOTIONS`.
    """
    winner = aligned.argmax(axis=1)
    return np.asarray(aligned.any(axis=1) & (winner == EMOTION_COLUMNS[labels]), np.bool_)


def unusable(aligned: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mark the images (N,) of `not_a_face_mask`, from their votes (see `align_votes`)."""
    return np.asarray(~aligned.any(axis=1) | (aligned.argmax(axis=1) == _NOT_A_FACE), np.bool_)


def _find_columns(path: Path, header: list[str]) -> list[int]:
    """Return the columns of `VOTE_NAMES`, in any order and under any synonym."""
    meanings = ["not_a_face" if name == "nf" else find_emotion(name) or name for name in header]
    missing = [name for name in VOTE_NAMES if name not in meanings]
    named = {"split", "file"} <= set(header) or "usage" in header
    if missing or not named:
        raise DataError(
            f"{path} is no file of FER+ votes: expected the columns split,file (or Usage) and "
            f"neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF, "
            f"got {','.join(header)[:120] or 'nothing'}"
        )
    return [meanings.index(name) for name in VOTE_NAMES]


def _parse_row(
    path: Path, number: int, row: list[str], header: list[str], places: list[int]
) -> tuple[tuple[str, str], npt.NDArray[np.int64]]:
    try:
        counts = np.array([int(row[place]) for place in places], np.int64)
        if "split" in header:
            split, file = row[header.index("split")].strip(), row[header.index("file")].strip()
            key = split, PurePosixPath(file).stem
        else:
            usage = row[header.index("usage")].strip()
            key = USAGES[usage], row_name(usage, number)
    except (ValueError, OverflowError, IndexError, KeyError) as error:
        raise DataError(f"{path}: row {number} is not a name and ten counts") from error
    if counts.min() < 0:
        raise DataError(f"{path}: row {number} has a negative count")
    return key, counts
