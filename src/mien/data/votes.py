"""FER+ (Barsoum et al. 2016): the votes of ten annotators for each image of FER-2013.

The majority agrees with FER-2013's label on six images in ten. Two kinds of file are read:

- ``split,file,neutral,...,NF``: keyed by split ("train", "val", "test") and file name, without its
  suffix;
- FER+'s own ``fer2013new.csv`` (``Usage,Image name,neutral,...,NF``): keyed by row, for data sets
  read from the challenge's CSV, whose rows are the same.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS, find_emotion
from mien.core.errors import DataError, error_reason
from mien.core.files import read_text
from mien.data.dataset import Split
from mien.data.loading import USAGES, row_name

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
"""The choices of a vote in FER+'s order, which breaks ties."""

Votes: TypeAlias = "Mapping[tuple[str, str], npt.NDArray[np.int64]]"
"""From split and file name without suffix to counts, int64 (R, 10), columns as `VOTE_NAMES`.

R is 1, or the number of class folders that have a file of this name.
"""

EMOTION_COLUMNS = np.array([VOTE_NAMES.index(emotion) for emotion in EMOTIONS])
"""The columns of the seven emotions, in the order of `EMOTIONS`."""

_NOT_A_FACE = VOTE_NAMES.index("not_a_face")
_LEAST_COVERAGE = 0.5


def load_votes(path: Path | str) -> Votes:
    """Read a file of votes.

    Raises:
        DataError: if the file is missing, not a CSV of votes, or has a row without ten counts.
    """
    rows: dict[tuple[str, str], list[npt.NDArray[np.int64]]] = {}
    path = Path(path)
    try:
        reader = csv.reader(io.StringIO(read_text(path), newline=""))
        header = [name.strip().lower() for name in next(reader, [])]
        columns = _find_columns(path, header)
        for number, row in enumerate(reader, start=1):
            if row:
                key, counts = _parse_row(path, number, row, header, columns)
                rows.setdefault(key, []).append(counts)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable CSV of votes ({error})") from error
    except OSError as error:
        raise DataError(f"cannot read the votes {path}: {error_reason(error)}") from error
    return {key: np.stack(counts) for key, counts in rows.items()}


def align_votes(split: Split, votes: Votes) -> npt.NDArray[np.int64]:
    """Return the votes for each image of a split, int64 (N, 10); zeros where there are none.

    Two names of FER-2013 occur in two class folders each. Such images get the rows of their name in
    the order of the folders, if there are as many rows as images; otherwise they get none, which is
    logged.

    Raises:
        DataError: if fewer than half of the images have votes: they are of another data set.
    """
    aligned = np.zeros((len(split), len(VOTE_NAMES)), np.int64)
    indices: dict[str, list[int]] = {}
    for index in sorted(range(len(split)), key=lambda index: split.files[index]):
        indices.setdefault(PurePosixPath(split.files[index]).stem, []).append(index)
    for stem, same_name in indices.items():
        rows = votes.get((split.name, stem))
        if rows is None:
            continue
        if len(rows) == len(same_name):
            aligned[same_name] = rows
        else:
            _log.warning(
                "%d images of %s are called %s but there are %d rows of votes: these are ignored",
                len(same_name), split.name, stem, len(rows),
            )  # fmt: skip
    voted = int(np.count_nonzero(aligned.any(axis=1)))
    if len(split) and voted < _LEAST_COVERAGE * len(split):
        raise DataError(
            f"votes for only {voted} of the {len(split)} images of {split.name}: expected the "
            "votes of the same data set, with the same file names (fer2013new.csv fits only data "
            "read from the challenge's CSV)"
        )
    return aligned


def not_a_face_mask(split: Split, votes: Votes) -> npt.NDArray[np.bool_]:
    """Mark the images (N,) that most annotators called no face, or that FER+ left out.

    Raises as `align_votes`.
    """
    return unusable_mask(align_votes(split, votes))


def emotion_shares(split: Split, votes: Votes) -> npt.NDArray[np.float32]:
    """Return the votes as soft labels, float32 (N, 7); raises as `align_votes`.

    Rows sum to 1, or are all 0 for images without a vote for one of the seven emotions.
    """
    counts = emotion_votes(split, votes).astype(np.float32)
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), np.float32)


def emotion_votes(split: Split, votes: Votes) -> npt.NDArray[np.int64]:
    """Return the votes for each emotion, int64 (N, 7); raises as `align_votes`."""
    return align_votes(split, votes)[:, EMOTION_COLUMNS]


def with_majority(split: Split, votes: Votes) -> Split:
    """Return the images with a majority of votes for one of the seven emotions, labelled by it.

    Raises:
        DataError: if the votes are of another data set, or no image has a majority.
    """
    emotions = emotion_votes(split, votes)
    keep = 2 * emotions.max(axis=1) > emotions.sum(axis=1)
    if not keep.any():
        raise DataError(f"no image of {split.name} has a majority of votes for one emotion")
    return dataclasses.replace(split.take(keep), labels=emotions[keep].argmax(axis=1))


def agreement_mask(
    aligned: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Mark the images (N,) whose label is the choice with the most votes.

    Args:
        aligned: votes (N, 10), see `align_votes`. All ten choices count, ties go to the first in
            FER+'s order, and images without votes never agree.
        labels: indices into `EMOTIONS`, (N,).
    """
    winner = aligned.argmax(axis=1)
    return np.asarray(aligned.any(axis=1) & (winner == EMOTION_COLUMNS[labels]), np.bool_)


def unusable_mask(aligned: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mark the images (N,) of `not_a_face_mask`, from their votes (N, 10), see `align_votes`."""
    return np.asarray(~aligned.any(axis=1) | (aligned.argmax(axis=1) == _NOT_A_FACE), np.bool_)


def _find_columns(path: Path, header: list[str]) -> list[int]:
    """Return the columns of `VOTE_NAMES`, in any order and under any synonym."""
    choices = ["not_a_face" if name == "nf" else find_emotion(name) or name for name in header]
    has_key = {"split", "file"} <= set(header) or "usage" in header
    if not (has_key and set(VOTE_NAMES) <= set(choices)):
        raise DataError(
            f"{path} is not a file of FER+ votes: expected the columns split,file (or Usage) and "
            f"neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF, "
            f"got {','.join(header)[:120] or 'nothing'}"
        )
    return [choices.index(name) for name in VOTE_NAMES]


def _parse_row(
    path: Path, number: int, row: list[str], header: list[str], columns: list[int]
) -> tuple[tuple[str, str], npt.NDArray[np.int64]]:
    try:
        counts = np.array([int(row[column]) for column in columns], np.int64)
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
