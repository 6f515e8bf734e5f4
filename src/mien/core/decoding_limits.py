"""Limits on what an image file may cost to decode, checked on its structure beforehand.

Decoding takes time in proportion to pixels and bytes, both of which are limited, unless a file is
crafted to take longer: 23 KB of JPEG scans kept a decoder busy for 15 seconds. A decoder cannot be
stopped from outside, so each limit is several times what is found in honest files.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mien.core.file_types import image_kind

FREE_SCANS = 12
"""Scans of a JPEG that are always decoded; progressive photos have about ten."""

MAX_SCANNED_PIXELS = 800_000_000
"""Scans times pixels beyond which more than `FREE_SCANS` are refused; about a second's work."""

_JPEG_MARKERS = 10_000
_JPEG_FILLING = 4096
_PHOTOSHOP_SEGMENTS = 32  # their records are parsed one by one, in Python
_PNG_PIECES, _PNG_PIECE_BYTES = 10_000, 2048  # some write one a row, most 8 KB a piece
_PNG_OTHER_CHUNKS = 1000
_PNG_PROFILES = 8
_GIF_BLOCKS = 5000
_RLE_SIZE = 4_000_000
_ICON_FRAMES, _ICON_SIDE = 64, 1024
_TIFF_ENTRIES, _TIFF_PARTS, _TIFF_SAMPLES = 4096, 50_000, 6
# The tags that are checked, and the types of their numbers (byte, short, long, long8).
_TIFF_TAGS = frozenset((256, 257, 259, 273, 277, 278, 279, 284, 322, 323, 324, 325))
_TIFF_TYPES = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}
_TIFF_COMPRESSIONS = frozenset((1, 5, 7, 8, 32773, 32946))  # none, LZW, JPEG, deflate, PackBits
_ROOM = 1 << 24

_TOO_MANY_SCANS = "has more than {} scans of {:.0f} megapixels, which take too long to decode"
_Numbers: TypeAlias = "npt.NDArray[np.unsignedinteger[Any]]"
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class _Excess(Exception):
    """What a file has too much of."""


def decoding_excess(content: bytes) -> str | None:
    """Return what would take an encoded image's decoder too long, as "has too many scans ...".

    None if nothing would; files that are damaged, or of no known kind, are the decoder's to refuse.
    """
    check = _CHECKS.get(image_kind(content) or "")
    if check is not None:
        try:
            check(content)
        except _Excess as found:
            return f"{found}: save it anew as JPEG or PNG"
        except (struct.error, IndexError, OverflowError):  # it ends before what it points to
            return None
    return None


def _jpeg(content: bytes) -> None:
    scans = pixels = photoshop = 0
    position = 2
    for _ in range(_JPEG_MARKERS):
        found = _MARKER.search(content, position)
        start = len(content) if found is None else found.start()
        if not scans and start - position > _JPEG_FILLING:
            raise _Excess("has much filling between its segments")
        if found is None:
            return
        marker, position = found[1][0], found.end()
        if marker == 0xD9:  # the image's end; thumbnails and further images may follow
            return
        if marker in (0x01, 0xD8):  # without a length
            continue
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", content, position + 3)
            pixels = max(pixels, height * width)
        photoshop += marker == 0xED
        scans += marker == 0xDA
        if scans > FREE_SCANS and scans * pixels > MAX_SCANNED_PIXELS:
            raise _Excess(_TOO_MANY_SCANS.format(scans - 1, pixels / 1e6))
        if photoshop > _PHOTOSHOP_SEGMENTS:
            raise _Excess("has too many records of Photoshop's")
        position += max(2, struct.unpack_from(">H", content, position)[0])
    raise _Excess(f"has more than {_JPEG_MARKERS:,} segments")


def _png(content: bytes, start: int = 0) -> None:
    position, pieces, others, profiles = start + 8, 0, 0, 0
    most = _PNG_PIECES + (len(content) - start) // _PNG_PIECE_BYTES
    while position + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        if kind == b"IEND":
            return
        of_pixels = kind in (b"IDAT", b"fcTL", b"fdAT")
        pieces += of_pixels
        others += not of_pixels
        profiles += kind == b"iCCP"
        if pieces > most or others > _PNG_OTHER_CHUNKS:
            raise _Excess("is in too many pieces")
        if profiles > _PNG_PROFILES:
            raise _Excess("has too many colour profiles")
        position += length + 12


def _gif(content: bytes) -> None:
    flags = content[10]
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    blocks = 0
    while content[position] == 0x21:  # extensions before the first picture
        position += 2
        while content[position]:
            position += 1 + content[position]
            blocks += 1
            if blocks > _GIF_BLOCKS:
                raise _Excess("has too many comments before its first picture")
        position += 1
        blocks += 1


def _bmp(content: bytes, start: int = 14) -> None:
    size, width, height = struct.unpack_from("<Iii", content, start)
    if size >= 40:  # older heads know no compression
        compression = struct.unpack_from("<I", content, start + 16)[0]
        # Pillow decodes run lengths in Python, and so slowly.
        if compression in (1, 2) and abs(width * height) + len(content) > _RLE_SIZE:
            raise _Excess("has run lengths of many pixels")


def _icon(content: bytes) -> None:
    frames = struct.unpack_from("<H", content, 4)[0]
    if frames > _ICON_FRAMES or len(content) > _ROOM:
        raise _Excess("is too large for an icon")
    for number in range(frames):
        # The sizes in the directory mean nothing: each frame has its own header.
        start = struct.unpack_from("<I", content, 6 + 16 * number + 12)[0]
        if start + 24 > len(content):  # nothing of it is there; others may be
            continue
        if content.startswith(b"\x89PNG\r\n\x1a\n", start):
            width, height = struct.unpack_from(">II", content, start + 16)
            _png(content, start)
        else:
            width, height = struct.unpack_from("<ii", content, start + 4)
            height //= 2  # the mask is counted
            if struct.unpack_from("<I", content, start + 16)[0] in (1, 2):
                raise _Excess("is an icon of run lengths")
        if max(abs(width), abs(height)) > _ICON_SIDE:
            raise _Excess(f"is an icon of {width}x{height}")


# ---------------------------------------------------------------- TIFF
def _tiff(content: bytes) -> None:
    tags = _tiff_tags(content)
    compression = _first(tags, 259, 1)
    if compression not in _TIFF_COMPRESSIONS:
        raise _Excess(f"is a TIFF of an unusual compression ({compression})")
    width, height = _first(tags, 256, 0), _first(tags, 257, 0)
    if _first(tags, 277, 1) > _TIFF_SAMPLES:
        raise _Excess(f"is a TIFF of {_first(tags, 277, 1)} samples a pixel")
    tiled = 322 in tags
    planes = _first(tags, 277, 1) if _first(tags, 284, 1) == 2 else 1
    across, down = (
        (_first(tags, 322, 1), _first(tags, 323, 1))
        if tiled
        else (width, min(height, _first(tags, 278, height)))
    )
    if not (across and down and width and height):
        return
    parts = max(len(tags.get(tag, ())) for tag in (273, 324))
    needed = math.ceil(width / across) * math.ceil(height / down) * planes
    area = max(needed, parts) * across * down
    if parts > _TIFF_PARTS or area > (4 * width * height + _ROOM) * planes:
        raise _Excess("is a TIFF in too many or too large pieces")
    # Strips that share bytes make a small file expensive.
    lengths = tags.get(325 if tiled else 279, np.zeros(0)).astype(np.float64)
    counts = np.minimum(lengths, len(content))
    if counts.sum() > 2 * len(content) + _ROOM:
        raise _Excess("is a TIFF whose pieces are longer than itself")
    if compression == 7 and parts:
        scans = content.count(b"\xff\xda") / parts
        if scans > FREE_SCANS and scans * area > MAX_SCANNED_PIXELS:
            raise _Excess(_TOO_MANY_SCANS.format(FREE_SCANS, area / 1e6))


def _first(tags: dict[int, _Numbers], tag: int, default: int) -> int:
    values = tags.get(tag)
    return default if values is None or not len(values) else int(values[0])


def _tiff_tags(content: bytes) -> dict[int, _Numbers]:
    """Return the whole numbers in the first directory, by their tag."""
    order = "<" if content[:2] == b"II" else ">"
    large = content[2:4] in (b"+\0", b"\0+")
    entry, number, most = (order + "HHQ", "Q", 8) if large else (order + "HHI", "I", 4)
    (start,) = struct.unpack_from(order + number, content, 8 if large else 4)
    (entries,) = struct.unpack_from(order + ("Q" if large else "H"), content, start)
    if entries > _TIFF_ENTRIES:
        raise _Excess("is a TIFF of too many tags")
    tags: dict[int, _Numbers] = {}
    position = start + (8 if large else 2)
    for _ in range(entries):
        tag, kind, count = struct.unpack_from(entry, content, position)
        value = position + struct.calcsize(entry)
        position = value + most
        if tag not in _TIFF_TAGS:
            continue
        # Decoders disagree on duplicates, and accept types that no program writes here.
        if tag in tags or kind not in _TIFF_TYPES:
            raise _Excess(f"is a TIFF with an unusual tag {tag}")
        kind_of = np.dtype(order + _TIFF_TYPES[kind])
        if count * kind_of.itemsize > most:
            (value,) = struct.unpack_from(order + number, content, value)
        if value + count * kind_of.itemsize <= len(content):
            tags[tag] = np.frombuffer(content, kind_of, count, value)
    return tags


_CHECKS: dict[str, Callable[[bytes], None]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "BMP": _bmp,
    "ICO": _icon,
    "TIFF": _tiff,
}
