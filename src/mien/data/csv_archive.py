"""The CSV files in a source, wherever they lie: in a folder, compressed, inside a zip or a tar."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, cast

from mien.core.errors import DataError
from mien.data.listing import is_leftover, list_entries
from mien.data.sources import (
    CSV_SUFFIXES,
    PACKING_BYTES,
    FolderSource,
    ZipSource,
    open_source,
    packing_of,
    source_kind,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_UNPACKED_BYTES = 2**30
"""More than this is not unpacked of one source, thrice the challenge's CSV: it is a bomb."""

MAX_TAR_FILES = 100_000
"""Names of more files are not looked at, thrice the images of FER-2013: millions take minutes."""

MAX_LINE_CHARACTERS = 2**20
"""A longer line is no row of 2,304 numbers, and is not read into memory."""

_DEPTH = 4
_DECOMPRESSORS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "gzip": lambda stream: cast("IO[bytes]", gzip.GzipFile(fileobj=stream)),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}


def holds_csv(source: Path) -> bool:
    """Say whether a data set is in a CSV: it is one, or no image is laid out but one may be there.

    Raises:
        DataError: if the source is no data set.
    """
    if source_kind(source) == "csv":
        return True
    with open_source(source) as opened:
        members = opened.members()
    return any(map(_may_hold, members)) and not list_entries(members, val_fraction=0).entries


def csv_files(source: Path) -> Generator[tuple[str, Iterator[str]], None, None]:
    """Yield the name and the lines of each CSV in a source, to be read before the next is asked.

    Raises:
        DataError: if a line is too long, or more is packed than `MAX_UNPACKED_BYTES`; and for
            damage whatever the libraries that unpack it raise.
    """
    meter = _Meter()
    if not source.is_dir():
        with source.open("rb") as stream:
            yield from _unpacked(source.name, stream, meter, _DEPTH)
        return
    for member in filter(_may_hold, FolderSource(source).members()):
        with (source / member).open("rb") as stream:
            yield from _unpacked(member, stream, meter, _DEPTH)


def _may_hold(member: str) -> bool:
    return PurePosixPath(member).suffix.lower() in CSV_SUFFIXES and not is_leftover(member)


def _unpacked(
    name: str, stream: io.BufferedReader, meter: _Meter, depth: int
) -> Iterator[tuple[str, Iterator[str]]]:
    """Yield the CSV files in one that is open, however it is packed, ``depth`` times at most."""
    packing = packing_of(stream.peek(PACKING_BYTES))
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
                    yield from _unpacked(info.name, meter.count(inner), meter, depth - 1)
    elif packing == "zip":
        # A zip is read from its end: one inside of something else would have to be kept.
        if stream.seekable():
            with zipfile.ZipFile(stream) as archive:
                for member in filter(_may_hold, ZipSource(archive).members()):
                    with archive.open(member) as inner:
                        yield from _unpacked(member, meter.count(inner), meter, depth - 1)
    else:
        with _DECOMPRESSORS[packing](stream) as inner:
            yield from _unpacked(name, meter.count(inner), meter, depth - 1)


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE_CHARACTERS):
        if len(line) == MAX_LINE_CHARACTERS:
            raise DataError("it has a line of more than a million characters")
        yield line


class _Meter:
    """How much may still be unpacked of a source, by all its streams together."""

    def __init__(self) -> None:
        self.left = MAX_UNPACKED_BYTES

    def count(self, stream: IO[bytes]) -> io.BufferedReader:
        """Return a stream that counts what is read of another one."""
        return io.BufferedReader(_Metered(stream, self))


class _Metered(io.RawIOBase):
    def __init__(self, stream: IO[bytes], meter: _Meter) -> None:
        self._stream, self._meter = stream, meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._stream.read(len(view))
        self._meter.left -= len(data)
        if self._meter.left < 0:
            raise DataError(f"it holds more than {MAX_UNPACKED_BYTES >> 30} GB unpacked")
        view[: len(data)] = data
        return len(data)
