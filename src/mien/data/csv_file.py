"""The challenge's CSV (``emotion,pixels,Usage``, one image a row), however it is packed.

It may be plain or compressed, in a folder, in a zip or in a tar, as Kaggle and the challenge give
it.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS, FER2013_CSV_ORDER
from mien.core.errors import DataError, reason_of
from mien.core.faces import FACE_SIZE
from mien.core.progress import Progress
from mien.data.dataset import SPLITS, Skipped, Split
from mien.data.sources import (
    CSV_SUFFIXES,
    HEAD_BYTES,
    FolderSource,
    ZipSource,
    is_leftover,
    list_entries,
    open_source,
    packing_of,
    source_kind,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
"""What the column Usage may say, and the split that it means."""

MOST_UNUSABLE = 50_000
"""Most rows of a split that may be skipped; a file with more is another kind of table."""

MAX_UNPACKED_BYTES = 2**30
"""Most bytes unpacked from one source, three times the challenge's CSV: more is a bomb."""

MAX_TAR_FILES = 100_000
"""Most files listed of a tar, three times the images of FER-2013."""

MAX_LINE_CHARACTERS = 2**20
"""Most characters of a line; a row of 2,304 numbers is shorter."""

_DEPTH = 4
_COLUMNS = ("emotion", "pixels", "usage")
_PIXELS = FACE_SIZE * FACE_SIZE
_CODES = {str(code): EMOTIONS.index(emotion) for code, emotion in enumerate(FER2013_CSV_ORDER)}
_DECOMPRESSORS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "gzip": lambda stream: cast("IO[bytes]", gzip.GzipFile(fileobj=stream)),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}


def holds_csv(source: Path) -> bool:
    """Return whether a source is a CSV, or a folder or zip with one and without image files.

    Raises:
        DataError: if the source is no data set.
    """
    if source_kind(source) == "csv":
        return True
    with open_source(source) as opened:
        members = opened.members
    return any(map(_may_hold, members)) and not list_entries(members, val_fraction=0).entries


def read_csv(path: Path, *, quiet: bool = False) -> dict[str, Split]:
    """Read all splits of the challenge's CSV; any of them may turn out empty.

    The first CSV in ``path`` that has the three columns is taken. Its emotion codes are translated
    by name. The images get the names ``SPLIT/CLASS/USAGE_rowNNNNN.png``, NNNNN being the data row,
    from 1. A row that cannot be used is skipped, named ``row N``.

    Raises:
        DataError: if there is no CSV text with the three columns, or it cannot be unpacked.
    """
    images: dict[str, list[tuple[str, int, npt.NDArray[np.uint8]]]] = {name: [] for name in SPLITS}
    skipped: dict[str, list[Skipped]] = {name: [] for name in SPLITS}
    with (
        Progress(f"reading {path.name}", unit="img", quiet=quiet) as progress,
        warnings.catch_warnings(),
    ):
        # NumPy only warns of text that is not a number, and stops reading there.
        warnings.simplefilter("error", DeprecationWarning)
        for number, (code, pixels, usage) in enumerate(_rows(path), start=1):
            progress.advance()
            split = USAGES.get(usage)
            try:
                if code not in _CODES:
                    raise DataError(
                        f"emotion {code[:20]!r} is not a code from 0 to {len(_CODES) - 1}"
                    )
                if split is None:
                    raise DataError(f"usage {usage[:20]!r} is none of {', '.join(USAGES)}")
                image = _parse_pixels(pixels)
            except DataError as error:
                unusable = skipped[split or "train"]
                unusable.append(Skipped(f"row {number}", str(error)))
                if len(unusable) > MOST_UNUSABLE:
                    raise DataError(
                        f"{path} has more than {MOST_UNUSABLE:,} rows that cannot be used, the "
                        f"first: {unusable[0]}"
                    ) from error
                continue
            label = _CODES[code]
            file = f"{split}/{EMOTIONS[label]}/{row_name(usage, number)}.png"
            images[split].append((file, label, image))
    return {
        name: Split.of(name, sorted(images[name], key=lambda row: row[0]), skipped[name])
        for name in SPLITS
    }


def row_name(usage: str, number: int) -> str:
    """Name the image of a data row (from 1); no name of the Kaggle data set looks like it."""
    return f"{usage}_row{number:05d}"


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield emotion, pixels and usage of each row, "" where a short row has none."""
    found: list[str] = []
    try:
        with closing(_csv_files(path)) as files:
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
        raise DataError(f"{path} cannot be read ({reason_of(error)})") from error
    # Damage raises many kinds of errors in csv, codecs and the decompressors.
    except Exception as error:
        reason = reason_of(error)
        raise DataError(f"{path} is not a readable CSV ({reason}): download it again") from error
    got = "; ".join(found[:3]) or "no CSV"
    raise DataError(f"{path}: expected the columns emotion,pixels,Usage, got {got}")


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


# ---------------------------------------------------------------- unpacking
def _csv_files(source: Path) -> Generator[tuple[str, Iterator[str]], None, None]:
    """Yield the name and the lines of each CSV in a source, to be read before the next is asked.

    Raises DataError if a line is too long or more is packed than `MAX_UNPACKED_BYTES`; for damage
    whatever the unpacking libraries raise.
    """
    budget = [MAX_UNPACKED_BYTES]
    if not source.is_dir():
        with source.open("rb") as stream:
            yield from _unpacked(source.name, stream, budget, _DEPTH)
        return
    for member in filter(_may_hold, FolderSource(source).members):
        with (source / member).open("rb") as stream:
            yield from _unpacked(member, stream, budget, _DEPTH)


def _may_hold(member: str) -> bool:
    return PurePosixPath(member).suffix.lower() in CSV_SUFFIXES and not is_leftover(member)


def _unpacked(
    name: str, stream: io.BufferedReader, budget: list[int], depth: int
) -> Iterator[tuple[str, Iterator[str]]]:
    """Yield the CSV files in an open file, packed ``depth`` times at most."""
    packing = packing_of(stream.peek(HEAD_BYTES))
    if depth == 0:
        return
    if packing is None:
        with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            yield name, _lines(text)
    elif packing == "tar":
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for number, info in enumerate(tar):
                if number == MAX_TAR_FILES:
                    raise DataError(f"it holds more than {MAX_TAR_FILES:,} files")
                inner = tar.extractfile(info) if info.isreg() and _may_hold(info.name) else None
                if inner is not None:
                    yield from _unpacked(info.name, _metered(inner, budget), budget, depth - 1)
    elif packing == "zip":
        # A zip is read from its end, so one inside another archive would have to be buffered.
        if stream.seekable():
            with zipfile.ZipFile(stream) as archive:
                for member in filter(_may_hold, ZipSource(archive).members):
                    with archive.open(member) as inner:
                        yield from _unpacked(member, _metered(inner, budget), budget, depth - 1)
    else:
        with _DECOMPRESSORS[packing](stream) as inner:
            yield from _unpacked(name, _metered(inner, budget), budget, depth - 1)


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE_CHARACTERS):
        if len(line) == MAX_LINE_CHARACTERS:
            raise DataError("it has a line of more than a million characters")
        yield line


def _metered(stream: IO[bytes], budget: list[int]) -> io.BufferedReader:
    return io.BufferedReader(_Metered(stream, budget))


class _Metered(io.RawIOBase):
    """A stream that counts what is read of it against the bytes that a source may unpack."""

    def __init__(self, stream: IO[bytes], budget: list[int]) -> None:
        self._stream, self._budget = stream, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._stream.read(len(view))
        self._budget[0] -= len(data)
        if self._budget[0] < 0:
            raise DataError(f"it holds more than {MAX_UNPACKED_BYTES >> 30} GB unpacked")
        view[: len(data)] = data
        return len(data)
