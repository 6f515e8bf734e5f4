"""What an MP4's header claims to hold, counted before FFmpeg takes memory for all of it.

A table that gives one size for all samples says in 12 bytes how many there are, and FFmpeg's index
has 24 for each: two gigabytes for a file of 1.6 KB. The tables are looked for by their names
instead of by the boxes around them, so that no box can be read here in another way than there.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from typing import IO

from mien.core.errors import UnreadableImage

_FREE_SAMPLES = 1_000_000
_BYTES_A_SAMPLE = 3  # of the file, on average; sound that is not compressed has 2 to 6 a sample
_OTHER_FORMATS = (b"\x1aE\xdf\xa3", b"RIFF", b"OggS")  # FFmpeg never takes these for an MP4
# What follows is looked at alone: one table may begin in what looks like another one.
_SIZES = re.compile(rb"stsz(?=.{4}(?!\0{4}).{4}(.{4}))", re.DOTALL)  # one size, and how many
_RUN = re.compile(rb"trun(?=.{2}(.).(.{4}))", re.DOTALL)  # its flags, and how many
_SIZE_OF_EACH = 0x0F  # of the flags: a sample has bytes of its own


def check_claims(file: IO[bytes], name: str) -> None:
    """Refuse a video whose header claims far more than a file of its size can hold.

    Args:
        file: a file of the system's, not empty.
        name: what errors call it.

    Raises:
        UnreadableImage: if it does, or its header is compressed.
    """
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] in _OTHER_FORMATS or data.find(b"trak") < 0:
            return
        spans = list(_headers(data))
        if any(data.find(b"cmvd", *span) >= 0 for span in spans):
            raise UnreadableImage(f"{name}: its header is compressed, which is not read here")
        if any(data.find(b"sidx", *span) >= 0 for span in spans):
            spans = [(0, len(data))]  # an index that may lead to a header within the media data
        claimed = sum(_claimed(data, *span) for span in spans)
        if claimed > _FREE_SAMPLES + len(data) // _BYTES_A_SAMPLE:
            raise UnreadableImage(
                f"{name}: its header is damaged: {claimed:,} samples in {len(data):,} bytes"
            )


def _headers(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Yield where there is anything but media data."""
    begin = at = 0
    while at + 16 <= len(data):
        size, kind, large = struct.unpack_from(">I4sQ", data, at)
        size = {0: len(data) - at, 1: large}.get(size, size)
        if not 8 <= size <= len(data) - at:
            break
        if kind == b"mdat":
            yield begin, at
            begin = at + size
        at += size
    yield begin, len(data)


def _claimed(data: mmap.mmap, begin: int, end: int) -> int:
    """Return how many samples tables claim that have no bytes for each."""
    sizes = (int.from_bytes(found[1], "big") for found in _SIZES.finditer(data, begin, end))
    runs = (
        int.from_bytes(found[2], "big")
        for found in _RUN.finditer(data, begin, end)
        if not found[1][0] & _SIZE_OF_EACH
    )
    return sum(sizes) + sum(runs)
