"""The challenge's CSV: one image a row, ``emotion,pixels,Usage``."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS, FER2013_CSV_ORDER
from mien.core.errors import DataError
from mien.core.faces import FACE_SIZE
from mien.core.progress import Progress
from mien.data.csv_archive import csv_files
from mien.data.dataset import SPLITS, Skipped, Split

USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
"""What the column Usage may say, and the split that it means."""

MOST_UNUSABLE = 50_000
"""Rows of a split that may be skipped; a file with more of them is another kind of table."""

_COLUMNS = ("emotion", "pixels", "usage")
_PIXELS = FACE_SIZE * FACE_SIZE


def read_csv(path: Path, *, quiet: bool = False) -> dict[str, Split]:
    """Read all splits of the challenge's CSV; any of them may turn out empty.

    The file may be packed, as Kaggle gives it: the first CSV with the three columns that
    `mien.data.csv_archive.csv_files` finds in ``path`` is taken.

    Its emotion codes are in the challenge's order (`FER2013_CSV_ORDER`) and are translated by name.
    The images have no names; they get ``SPLIT/CLASS/USAGE_rowNNNNN.png``, NNNNN being the data
    row, from 1. A row that cannot be used is skipped, named ``row N``.

    Raises:
        DataError: if there is no CSV text with the three columns, or it cannot be unpacked.
    """
    images: dict[str, list[npt.NDArray[np.uint8]]] = {split: [] for split in SPLITS}
    files: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
    skipped: dict[str, list[Skipped]] = {split: [] for split in SPLITS}
    with (
        Progress(f"reading {path.name}", unit="img", quiet=quiet) as progress,
        warnings.catch_warnings(),
    ):
        # numpy only warns of text that is no number, and stops there: that must not pass.
        warnings.simplefilter("error", DeprecationWarning)
        for number, (code, pixels, usage) in enumerate(_rows(path), start=1):
            progress.advance()
            split = USAGES.get(usage)
            try:
                label = _parse_label(code)
                if split is None:
                    raise DataError(f"usage {usage[:20]!r} is none of {', '.join(USAGES)}")
                image = _parse_pixels(pixels)
            except DataError as error:
                unusable = skipped[split or "train"]
                unusable.append(Skipped(f"row {number}", str(error)))
                if len(unusable) > MOST_UNUSABLE:
                    raise DataError(
                        f"{path} has more than {MOST_UNUSABLE:,} rows that cannot be used, the "
                        f"first: {unusable[0].file} {unusable[0].reason}"
                    ) from error
                continue
            images[split].append(image)
            files[split].append((f"{split}/{EMOTIONS[label]}/{row_name(usage, number)}.png", label))
    return {
        split: _to_split(split, images[split], files[split], skipped[split]) for split in SPLITS
    }


def row_name(usage: str, number: int) -> str:
    """Name the image of a data row (from 1); no name of the Kaggle data set looks like it."""
    return f"{usage}_row{number:05d}"


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield emotion, pixels and usage of each row, "" where a short row has none."""
    found: list[str] = []
    try:
        with closing(csv_files(path)) as files:
            for name, lines in files:
                reader = csv.reader(lines)
                header = [cell.strip().lower() for cell in next(reader, [])]
                if any(column not in header for column in _COLUMNS):
                    found.append(f"{','.join(header)[:80] or 'nothing'} in {name}")
                    continue
                places = [header.index(column) for column in _COLUMNS]
                for row in reader:
                    if row:
                        cells = [row[place].strip() if place < len(row) else "" for place in places]
                        yield cells[0], cells[1], cells[2]
                return
    except DataError as error:
        raise DataError(f"{path} is not a readable CSV: {error}") from error
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise DataError(f"{path} cannot be read ({reason})") from error
    # csv, codecs and what unpacks zip, tar, gzip, bzip2 and xz meet damage with many errors.
    except Exception as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise DataError(f"{path} is not a readable CSV ({reason}): download it again") from error
    got = "; ".join(found[:3]) or "no CSV"
    raise DataError(f"{path}: expected the columns emotion,pixels,Usage, got {got}")


def _parse_label(code: str) -> int:
    """Return the index into EMOTIONS of a challenge code "0" to "6"."""
    codes = {str(number): emotion for number, emotion in enumerate(FER2013_CSV_ORDER)}
    if code not in codes:
        raise DataError(f"emotion {code[:20]!r} is not a code from 0 to {len(codes) - 1}")
    return EMOTIONS.index(codes[code])


def _parse_pixels(text: str) -> npt.NDArray[np.uint8]:
    """Return the image (48, 48) of 2,304 blank-separated numbers from 0 to 255."""
    try:
        values = np.fromstring(text, dtype=np.int64, sep=" ")
    except (DeprecationWarning, ValueError) as error:
        raise DataError("pixels are not all whole numbers") from error
    if values.size != _PIXELS:
        raise DataError(f"has {values.size} pixels, expected {_PIXELS}")
    if values.min() < 0 or values.max() > 255:
        raise DataError("has a pixel outside 0 to 255")
    return values.astype(np.uint8).reshape(FACE_SIZE, FACE_SIZE)


def _to_split(
    name: str,
    images: list[npt.NDArray[np.uint8]],
    files: list[tuple[str, int]],
    skipped: list[Skipped],
) -> Split:
    order = sorted(range(len(files)), key=lambda index: files[index][0])
    stacked = np.empty((len(order), FACE_SIZE, FACE_SIZE), np.uint8)
    for place, index in enumerate(order):
        stacked[place] = images[index]
    labels = np.array([files[index][1] for index in order], np.int64)
    return Split(name, stacked, labels, tuple(files[index][0] for index in order), tuple(skipped))
