"""Load FER-2013 from a folder, a zip or the challenge's CSV; the arrays are cached."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import logging
import lzma
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS, FER2013_CSV_ORDER
from mien.core.errors import DataError, MienError, OutputError, error_reason
from mien.core.files import cache_folder, expand_home
from mien.core.images import FACE_SIZE, load_image, standard_face
from mien.core.progress import Progress
from mien.data.dataset import ARRAYS_SUFFIX, SPLITS, Skipped, Split, load_splits, save_splits
from mien.data.sources import (
    CSV_SUFFIXES,
    HEAD_BYTES,
    LAYOUT_HINT,
    VAL_FRACTION,
    Entry,
    FolderSource,
    Listing,
    Source,
    ZipSource,
    is_leftover,
    list_entries,
    open_source,
    packing_of,
    source_kind,
    source_state,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
"""Values of the CSV's column Usage, and their splits."""

MOST_UNUSABLE = 50_000
"""Most rows of a CSV's split that may be skipped; a file with more is another kind of table."""

MAX_UNPACKED_BYTES = 2**30
"""Most bytes unpacked from one source, three times the challenge's CSV: more is a bomb."""

MAX_TAR_FILES = 100_000
"""Most files listed of a tar, three times the images of FER-2013."""

MAX_LINE_CHARACTERS = 2**20
"""Longest line of a CSV; a row of 2,304 numbers is shorter."""

Decoded: TypeAlias = "tuple[npt.NDArray[np.uint8], str | None]"
"""A face, uint8 (48, 48), and its size in the file (``96x128``) if it was resized, else None."""

Images: TypeAlias = "Iterator[tuple[Entry, bytes, Decoded | Skipped]]"
"""Each image of a data set: its entry, its file's bytes (none in a CSV), its face or its defect."""

_log = logging.getLogger(__name__)

_CACHE_FORMAT = "2"
"""Raise this when reading or the layout of the cache changes."""

_CSV_COLUMNS = ("emotion", "pixels", "usage")
_CODES = {str(code): EMOTIONS.index(emotion) for code, emotion in enumerate(FER2013_CSV_ORDER)}
_MOST_NESTED = 4
_DECOMPRESSORS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "gzip": lambda stream: cast("IO[bytes]", gzip.GzipFile(fileobj=stream)),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}

_FACE_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x30\0\0\0\x30\x08\0\0\0\0"
"""Start of a PNG of 48x48 pixels, 8-bit grey, not interlaced; a checksum follows."""

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"

_ENDS = ((b"\x89PNG", b"IEND\xaeB`\x82"), (b"\xff\xd8\xff", b"\xff\xd9"))
"""First bytes of a format, and bytes that every complete file contains."""


# ---------------------------------------------------------------- loading
def load_split(source: Path | str, split: str, *, cache: bool = True, quiet: bool = False) -> Split:
    """Load one split of a data set; see `load_dataset`."""
    return load_dataset(source, splits=(split,), cache=cache, quiet=quiet)[split]


def load_dataset(
    source: Path | str,
    *,
    splits: Sequence[str] = SPLITS,
    cache: bool = True,
    quiet: bool = False,
) -> dict[str, Split]:
    """Load splits of a data set into memory, sorted by file.

    Unusable files are skipped: each split lists them with the reason, and one warning is logged.
    Images of another size are resized to 48x48 and listed in `Split.resized`.

    Args:
        source: a folder or zip with ``train|val|test/CLASS/IMAGE`` (see `mien.data.sources` for
            other layouts), the challenge's CSV, packed or not, or the faces of a fine-tuning run
            (``faces.npz``), which may have any classes.
        splits: which of "train", "val", "test" to return.
        cache: keep the arrays in mien's cache folder, and use them as long as the source's path,
            sizes and modification times stay the same.
        quiet: show no progress bar.

    Raises:
        DataError: if the source is none of these, a split has no usable image, or train lacks a
            class.
    """
    path = expand_home(source)
    unknown = [name for name in splits if name not in SPLITS]
    if unknown:
        raise DataError(f"unknown split {unknown[0]!r}: expected one of {', '.join(SPLITS)}")
    if path.suffix == ARRAYS_SUFFIX:
        loaded = load_splits(path)
    elif cache:
        loaded = _load_cached(path, splits, quiet)
    else:
        loaded = read_splits(path, quiet=quiet)
    missing = [name for name in splits if name not in loaded]
    if missing:
        raise DataError(f"{path} has no {missing[0]}: expected one of {', '.join(loaded)}")
    chosen = {name: loaded[name] for name in splits}
    for split in chosen.values():
        _check_classes(split, path)
        _warn_of_skipped(split, path)
    return chosen


def _load_cached(path: Path, splits: Sequence[str], quiet: bool) -> dict[str, Split]:
    """Load the arrays from the cache, or read the source and cache it; cache errors are logged."""
    state = source_state(path)
    source_key = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    state_key = hashlib.sha256(f"{_CACHE_FORMAT}\0{state}".encode()).hexdigest()
    cached: Path | None = None
    try:
        folder = cache_folder() / "datasets"
        cached = folder / f"{source_key[:16]}-{state_key[:16]}.npz"
        if cached.is_file():
            return load_splits(cached, splits)
    except DataError as error:
        _log.warning("%s; done now, from %s", error, path)
    except OSError:
        pass  # another user's folder: saving reports it
    except OutputError as error:  # no cache folder
        _log.warning("the data set is not cached: %s", error)
    loaded = read_splits(path, quiet=quiet)
    if cached is not None:
        try:
            save_splits(cached, loaded)
            for stale in cached.parent.glob(f"{source_key[:16]}-*.npz"):
                if stale != cached:
                    stale.unlink(missing_ok=True)
        except (OutputError, OSError) as error:
            _log.warning("the data set is not cached: %s", error)
    return loaded


def _check_classes(split: Split, path: Path) -> None:
    """Raise DataError if a split is empty or train lacks a class; elsewhere warn of that."""
    if len(split) == 0:
        raise DataError(
            f"{path} has no usable image for {split.name}{first_skipped(split.skipped)}"
        )
    missing = [emotion for emotion, count in split.class_counts().items() if count == 0]
    if not missing:
        return
    message = f"{path}: no usable image of {', '.join(missing)} in {split.name}"
    if split.name == "train":
        expected = f"expected all of {', '.join(split.classes)}"
        raise DataError(f"{message} ({expected}){first_skipped(split.skipped)}")
    _log.warning(message)


def first_skipped(skipped: Sequence[Skipped]) -> str:
    """Return the end of an error that no image is usable: the first one skipped, or a hint."""
    if not skipped:
        return f": {LAYOUT_HINT}"
    return f": {len(skipped)} files were skipped, the first: {skipped[0]}"


def _warn_of_skipped(split: Split, path: Path) -> None:
    if split.skipped:
        _log.warning(
            "%s: %d files of %s skipped, the first: %s (`mien data audit` lists all)",
            path, len(split.skipped), split.name, split.skipped[0],
        )  # fmt: skip
    if split.resized:
        _log.warning(
            "%s: %d images of %s are not 48x48 and were resized, the first: %s",
            path, len(split.resized), split.name, split.resized[0],
        )  # fmt: skip


# ---------------------------------------------------------------- reading
def read_splits(source: Path, *, quiet: bool = False) -> dict[str, Split]:
    """Read all splits without cache, checks or warnings: any of them may be empty.

    Raises:
        DataError: if the source is not a data set.
    """
    with open_images(source, f"reading {source.name}", quiet=quiet) as (images, listing):
        splits = collect_splits(images, listing.skipped)
    # The rows of a CSV are in another order.
    orders = {name: np.argsort(np.array(split.files, str)) for name, split in splits.items()}
    return {name: split.take(orders[name]) for name, split in splits.items()}


@contextmanager
def open_images(
    source: Path, label: str, *, seed: int = 0, val_fraction: float = VAL_FRACTION, quiet: bool
) -> Iterator[tuple[Images, Listing]]:
    """Open a data set, to read its images one by one with a progress bar.

    A CSV, also in a folder or zip without image files, has an empty listing. Refused files of a
    folder or zip are listed as skipped from train.

    Raises:
        DataError: if the source is not a data set, or has no image files.
    """
    if source_kind(source) != "csv":
        with open_source(source) as opened:
            listing = list_entries(opened.members, seed=seed, val_fraction=val_fraction)
            if listing.entries or not any(map(may_hold_csv, opened.members)):
                for note in listing.merged:
                    _log.warning("%s: %s", source, note)
                listing.skipped["train"] += tuple(opened.refused)
                if not listing.entries and not any(listing.skipped.values()):
                    raise DataError(f"no images in {source}: {LAYOUT_HINT}")
                with Progress(label, len(listing.entries), unit="img", quiet=quiet) as progress:
                    yield decode_entries(opened, listing.entries, decode_image, progress), listing
                return
    with Progress(label, unit="img", quiet=quiet) as progress:
        yield _csv_images(source, progress), Listing((), dict.fromkeys(SPLITS, ()), "usage")


def decode_entries(
    source: Source,
    entries: Sequence[Entry],
    decode: Callable[[bytes], Decoded],
    progress: Progress,
) -> Images:
    """Read and decode the listed files."""
    for entry in entries:
        progress.advance()
        content = b""
        result: Decoded | Skipped
        try:
            content = source.read(entry.member)
            result = decode(content)
        except MienError as error:
            # Errors about bytes begin with "image"; here the file's name comes first.
            result = Skipped(entry.member, str(error).removeprefix("image "))
        yield entry, content, result


def collect_splits(
    images: Images,
    skipped: Mapping[str, Sequence[Skipped]],
    classes: tuple[str, ...] = EMOTIONS,
) -> dict[str, Split]:
    """Build the splits named by ``skipped``, which has the files left out so far."""
    rows: dict[str, list[tuple[Entry, npt.NDArray[np.uint8]]]] = {name: [] for name in skipped}
    left_out = {name: list(files) for name, files in skipped.items()}
    resized: dict[str, list[str]] = {name: [] for name in skipped}
    for entry, _, result in images:
        if isinstance(result, Skipped):
            left_out[entry.split].append(result)
            continue
        face, other_size = result
        rows[entry.split].append((entry, face))
        if other_size is not None:
            resized[entry.split].append(entry.file)
    return {
        name: Split(
            name,
            np.array([face for _, face in own], np.uint8).reshape(-1, FACE_SIZE, FACE_SIZE),
            np.array([entry.label for entry, _ in own], np.int64),
            tuple(entry.file for entry, _ in own),
            tuple(left_out[name]),
            tuple(resized[name]),
            classes,
        )
        for name, own in rows.items()
    }


# ---------------------------------------------------------------- decoding
def decode_image(data: bytes) -> Decoded:
    """Decode an image file to the same pixels that `mien predict` reads.

    Raises:
        DataError: with the reason only ("is empty", ...), to follow the file's name.
    """
    face = _decode_face_png(data)
    if face is not None:
        return face, None
    if not data:
        raise DataError("is empty")
    # In other formats, the decoder detects truncation.
    if any(data.startswith(start) and end not in data for start, end in _ENDS):
        raise DataError("is truncated")
    try:
        image = load_image(data)
    except MienError as error:  # also if memory does not suffice
        raise DataError(str(error).removeprefix("image ")) from error
    height, width = image.shape[:2]
    is_face = (height, width) == (FACE_SIZE, FACE_SIZE)
    return standard_face(image), None if is_face else f"{width}x{height}"


def decode_face(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the standard face (48, 48) of a face crop's file; raises as `decode_image`."""
    return decode_image(data)[0]


def _decode_face_png(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Decode FER-2013's own kind of file in a third of the time; None for any other.

    A whole PNG of 48x48 8-bit grey pixels without palette, transparency, gamma or orientation means
    the same pixels to every decoder.
    """
    start = len(_FACE_PNG) + 4
    end = start + 8 + int.from_bytes(data[start : start + 4], "big")
    chunk = data[start + 4 : end]
    checksum = zlib.crc32(chunk).to_bytes(4, "big")
    if not (data.startswith(_FACE_PNG) and chunk.startswith(b"IDAT")):
        return None
    if data[end:] != checksum + _PNG_END:
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    return None if image is None else np.asarray(image, np.uint8)


# ---------------------------------------------------------------- the challenge's CSV
def _csv_images(path: Path, progress: Progress) -> Images:
    """Read the challenge's CSV (``emotion,pixels,Usage``), whose images have no files.

    The CSV may be compressed, and in a folder, a zip or a tar; the first one with the three columns
    is read. Emotion codes are translated by name. Images are named
    ``SPLIT/CLASS/USAGE_rowNNNNN.png`` by their data row, from 1; unusable rows are skipped as
    ``row N``.

    Raises:
        DataError: if there is no CSV with the three columns, or it cannot be unpacked.
    """
    unusable: dict[str, list[Skipped]] = {name: [] for name in SPLITS}
    for number, (code, pixels, usage) in enumerate(_csv_rows(path), start=1):
        progress.advance()
        split, row = USAGES.get(usage, "train"), f"row {number}"
        try:
            label, image = _parse_row(code, pixels, usage)
        except DataError as error:
            skipped = Skipped(row, str(error))
            unusable[split].append(skipped)
            if len(unusable[split]) > MOST_UNUSABLE:
                raise DataError(
                    f"{path} has more than {MOST_UNUSABLE:,} rows that cannot be used, the first: "
                    f"{unusable[split][0]}"
                ) from error
            yield Entry(split, 0, row, row), b"", skipped
            continue
        file = f"{split}/{EMOTIONS[label]}/{row_name(usage, number)}.png"
        yield Entry(split, label, file, row), b"", (image, None)


def row_name(usage: str, number: int) -> str:
    """Return the name of a data row's image (from 1), unlike any name of Kaggle's copy."""
    return f"{usage}_row{number:05d}"


def _csv_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield emotion, pixels and usage of each row, "" where a row is too short."""
    headers: list[str] = []
    try:
        with closing(_csv_files(path)) as files:
            for name, lines in files:
                reader = csv.reader(lines)
                header = [cell.strip().lower() for cell in next(reader, [])]
                if any(column not in header for column in _CSV_COLUMNS):
                    headers.append(f"{','.join(header)[:80] or 'nothing'} in {name}")
                    continue
                places = [header.index(column) for column in _CSV_COLUMNS]
                for row in filter(None, reader):
                    cells = [row[place].strip() if place < len(row) else "" for place in places]
                    yield cells[0], cells[1], cells[2]
                return
    except DataError as error:
        raise DataError(f"{path} is not a readable CSV: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error_reason(error)})") from error
    # Damage raises many kinds of errors in csv, codecs and the decompressors.
    except Exception as error:
        reason = error_reason(error)
        raise DataError(f"{path} is not a readable CSV ({reason}): download it again") from error
    got = "; ".join(headers[:3]) or "no CSV"
    raise DataError(f"{path}: expected the columns emotion,pixels,Usage, got {got}")


def _parse_row(code: str, pixels: str, usage: str) -> tuple[int, npt.NDArray[np.uint8]]:
    """Return the label and the image (48, 48), from 2,304 blank-separated numbers 0 to 255."""
    if code not in _CODES:
        raise DataError(f"emotion {code[:20]!r} is not a code from 0 to {len(_CODES) - 1}")
    if usage not in USAGES:
        raise DataError(f"usage {usage[:20]!r} is none of {', '.join(USAGES)}")
    try:
        with warnings.catch_warnings():
            # NumPy only warns of text that is not a number, and stops reading there.
            warnings.simplefilter("error", DeprecationWarning)
            values = np.fromstring(pixels, dtype=np.int64, sep=" ")
    except (DeprecationWarning, ValueError) as error:
        raise DataError("pixels are not all whole numbers") from error
    if values.size != FACE_SIZE**2:
        raise DataError(f"has {values.size} pixels, expected {FACE_SIZE**2}")
    if values.min() < 0 or values.max() > 255:
        raise DataError("has a pixel outside 0 to 255")
    return _CODES[code], values.astype(np.uint8).reshape(FACE_SIZE, FACE_SIZE)


# ---------------------------------------------------------------- unpacking the CSV
def _csv_files(source: Path) -> Generator[tuple[str, Iterator[str]], None, None]:
    """Yield the name and the lines of each CSV in a source; read the lines before the next one.

    Raises DataError if a line is too long or more than `MAX_UNPACKED_BYTES` are packed, and for
    damage whatever the unpacking libraries raise.
    """
    budget = [MAX_UNPACKED_BYTES]
    if not source.is_dir():
        with source.open("rb") as stream:
            yield from _unpack(source.name, stream, budget, _MOST_NESTED)
        return
    for member in filter(may_hold_csv, FolderSource(source).members):
        with (source / member).open("rb") as stream:
            yield from _unpack(member, stream, budget, _MOST_NESTED)


def may_hold_csv(member: str) -> bool:
    """Return True for the name of a file that may be the challenge's CSV, packed or not."""
    return PurePosixPath(member).suffix.lower() in CSV_SUFFIXES and not is_leftover(member)


def _unpack(
    name: str, stream: io.BufferedReader, budget: list[int], depth: int
) -> Iterator[tuple[str, Iterator[str]]]:
    """Yield the CSV files in an open file, packed at most ``depth`` times."""
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
                inner = tar.extractfile(info) if info.isreg() and may_hold_csv(info.name) else None
                if inner is not None:
                    yield from _unpack(info.name, _metered(inner, budget), budget, depth - 1)
    elif packing == "zip":
        # A zip is read from its end, so one inside another archive would have to be buffered.
        if stream.seekable():
            with zipfile.ZipFile(stream) as archive:
                for member in filter(may_hold_csv, ZipSource(archive).members):
                    with archive.open(member) as inner:
                        yield from _unpack(member, _metered(inner, budget), budget, depth - 1)
    else:
        with _DECOMPRESSORS[packing](stream) as inner:
            yield from _unpack(name, _metered(inner, budget), budget, depth - 1)


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE_CHARACTERS):
        if len(line) == MAX_LINE_CHARACTERS:
            raise DataError("it has a line of more than a million characters")
        yield line


def _metered(stream: IO[bytes], budget: list[int]) -> io.BufferedReader:
    return io.BufferedReader(_MeteredStream(stream, budget))


class _MeteredStream(io.RawIOBase):
    """A stream whose bytes count against the limit of what one source may unpack to."""

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
