"""Image and video file types: suffixes, signatures, and limits on what an image costs to decode."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable

# ---------------------------------------------------------------- suffixes
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jpg_large", ".jpg_orig", ".jpg_small")
_NETPBM = (".pbm", ".pgm", ".pnm", ".ppm")
_OTHER_IMAGES = (".avif", ".bmp", ".dib", ".gif", ".ico", ".tif", ".tiff", ".webp")
IMAGE_SUFFIXES: tuple[str, ...] = tuple(sorted((*_JPEG, *_NETPBM, *_OTHER_IMAGES, ".png", ".apng")))
"""Lower-case suffixes of images in folders and archives.

`mien.core.images.load_image` reads them all. A file given by name is tried whatever its suffix.
"""

OUTPUT_IMAGE_SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".webp")
"""Formats in which pictures are written."""

_MPEG = (".m1v", ".m2t", ".m2ts", ".m2v", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".ts", ".vob")
_MP4 = (".3g2", ".3gp", ".f4v", ".insv", ".lrv", ".m4v", ".mov", ".mp4", ".qt")
_MATROSKA = (".mk3d", ".mkv", ".webm")
_WINDOWS = (".asf", ".avi", ".divx", ".wmv", ".wtv")
_CODECS = (".264", ".265", ".dv", ".h264", ".h265", ".hevc", ".ivf", ".mjpeg", ".mjpg", ".y4m")
_OTHER_VIDEOS = (".flv", ".mxf", ".nut", ".ogm", ".ogv", ".rm", ".rmvb")
VIDEO_SUFFIXES: tuple[str, ...] = tuple(
    sorted((*_MPEG, *_MP4, *_MATROSKA, *_WINDOWS, *_CODECS, *_OTHER_VIDEOS))
)
"""Lower-case suffixes of videos."""

PLAYLIST_SUFFIXES: tuple[str, ...] = (".m3u8", ".mpd")
"""Lower-case suffixes of HLS and DASH playlists."""

OUTPUT_VIDEO_SUFFIXES: tuple[str, ...] = (".mp4", ".m4v", ".mov", ".mkv")
"""Formats in which annotated videos are written."""

# ---------------------------------------------------------------- signatures
MAX_FILE_BYTES = 1 << 30
"""Largest image file that is read; an uncompressed image of `MAX_PIXELS` is smaller."""

HEAD_BYTES = 64
"""Number of leading bytes that identify a file."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\1\0", "ICO"),
    # Not supported, but named in the error.
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"<svg", "SVG"),
    (b"\x1aE\xdf\xa3", "a video"),
)
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis", b"mif1", b"msf1"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"hevs"), "HEIC"),
}
READABLE_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "ICO")
"""Supported image formats, by their Pillow names.

Pillow supports thirty more, but few photos are stored in them, some run other programs (EPS), and
for some the decoding time cannot be bounded beforehand (JPEG 2000). MPO, the 3D photo format, has
the signature of JPEG.
"""


def sniff_format(head: bytes | bytearray) -> str | None:
    """Return the format of a file from its first `HEAD_BYTES`, or None if it is unknown.

    Returns:
        One of `READABLE_FORMATS`, or the name of an unsupported format ("HEIC", "a video").
    """
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF":
        return {b"WEBP": "WEBP", b"AVI ": "a video"}.get(bytes(head[8:12]))
    if head[4:8] == b"ftyp":
        return _BRANDS.get(bytes(head[8:12]), "a video")
    if head[:1] == b"P" and head[1:2] in b"123456f" and head[2:3] in b" \t\r\n\v\f#":
        return "PPM"
    return None


# ---------------------------------------------------------------- decoding cost
# Decoding time is proportional to pixels and bytes, both of which are limited, unless a file is
# crafted: 23 KB of JPEG scans kept a decoder busy for 15 seconds. A decoder cannot be interrupted,
# so the structure is checked first. Each limit is several times what genuine files contain.
MAX_SCANS = 12
"""JPEG scans that are decoded at any size; progressive photos have about ten."""

MAX_SCANNED_PIXELS = 800_000_000
"""Limit on scans times pixels beyond `MAX_SCANS`: about one second of decoding."""

_JPEG_SEGMENTS = 10_000
_JPEG_PADDING_BYTES = 4096
_PHOTOSHOP_SEGMENTS = 32  # their records are parsed one by one, in Python
_PNG_PIECES, _PNG_PIECE_BYTES = 10_000, 2048  # some encoders write one a row, most 8 KB a piece
_PNG_OTHER_CHUNKS = 1000
_PNG_PROFILES = 8
_GIF_BLOCKS = 5000
_RLE_SIZE = 4_000_000
_ICON_FRAMES, _ICON_SIDE = 64, 1024
_TIFF_ENTRIES, _TIFF_PARTS, _TIFF_SAMPLES = 4096, 50_000, 6
_SLACK = 1 << 24

_TOO_MANY_SCANS = "has more than {} scans of {:.0f} megapixels, which take too long to decode"
_TIFF_TOO_MANY_PIECES = "is a TIFF in too many or too large pieces"
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class _Hazard(Exception):
    """A structure that takes too long to decode; the message continues "FILE ..."."""


def decoding_hazard(content: bytes) -> str | None:
    """Return why an encoded image would take too long to decode ("has too many scans ...").

    None if nothing is wrong. Damaged files and unknown formats are left to the decoder.
    """
    check = _CHECKS.get(sniff_format(content) or "")
    if check is not None:
        try:
            check(content)
        except _Hazard as hazard:
            return f"{hazard}: save it again as JPEG or PNG"
        except (struct.error, IndexError, OverflowError):  # truncated
            return None
    return None


def _check_jpeg(content: bytes) -> None:
    scans = pixels = photoshop = 0
    position = 2
    for _ in range(_JPEG_SEGMENTS):
        match = _MARKER.search(content, position)
        start = len(content) if match is None else match.start()
        if not scans and start - position > _JPEG_PADDING_BYTES:
            raise _Hazard("has much padding between its segments")
        if match is None:
            return
        marker, position = match[1][0], match.end()
        if marker == 0xD9:  # end of the image; thumbnails and further images may follow
            return
        if marker in (0x01, 0xD8):  # markers without a length
            continue
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", content, position + 3)
            pixels = max(pixels, height * width)
        photoshop += marker == 0xED
        scans += marker == 0xDA
        if scans > MAX_SCANS and scans * pixels > MAX_SCANNED_PIXELS:
            raise _Hazard(_TOO_MANY_SCANS.format(scans - 1, pixels / 1e6))
        if photoshop > _PHOTOSHOP_SEGMENTS:
            raise _Hazard("has too many Photoshop records")
        position += max(2, struct.unpack_from(">H", content, position)[0])
    raise _Hazard(f"has more than {_JPEG_SEGMENTS:,} segments")


def _check_png(content: bytes, start: int = 0) -> None:
    position, pieces, others, profiles = start + 8, 0, 0, 0
    max_pieces = _PNG_PIECES + (len(content) - start) // _PNG_PIECE_BYTES
    while position + 8 <= len(content):
        length, chunk_type = struct.unpack_from(">I4s", content, position)
        if chunk_type == b"IEND":
            return
        has_pixels = chunk_type in (b"IDAT", b"fcTL", b"fdAT")
        pieces += has_pixels
        others += not has_pixels
        profiles += chunk_type == b"iCCP"
        if pieces > max_pieces or others > _PNG_OTHER_CHUNKS:
            raise _Hazard("is in too many pieces")
        if profiles > _PNG_PROFILES:
            raise _Hazard("has too many colour profiles")
        position += length + 12


def _check_gif(content: bytes) -> None:
    flags = content[10]
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    blocks = 0
    while content[position] == 0x21:  # extensions before the first frame
        position += 2
        while content[position]:
            position += 1 + content[position]
            blocks += 1
            if blocks > _GIF_BLOCKS:
                raise _Hazard("has too many comments before its first picture")
        position += 1
        blocks += 1


def _check_bmp(content: bytes) -> None:
    size, width, height = struct.unpack_from("<Iii", content, 14)
    if size >= 40:  # older headers have no compression
        compression = struct.unpack_from("<I", content, 30)[0]
        # Pillow decodes run lengths in Python.
        if compression in (1, 2) and abs(width * height) + len(content) > _RLE_SIZE:
            raise _Hazard("has run lengths of many pixels")


def _check_icon(content: bytes) -> None:
    frames = struct.unpack_from("<H", content, 4)[0]
    if frames > _ICON_FRAMES or len(content) > _SLACK:
        raise _Hazard("is too large for an icon")
    for number in range(frames):
        # The sizes in the directory are ignored by decoders: each frame has its own header.
        start = struct.unpack_from("<I", content, 6 + 16 * number + 12)[0]
        if start + 24 > len(content):  # truncated, but other frames may be complete
            continue
        if content.startswith(b"\x89PNG\r\n\x1a\n", start):
            width, height = struct.unpack_from(">II", content, start + 16)
            _check_png(content, start)
        else:
            width, height = struct.unpack_from("<ii", content, start + 4)
            height //= 2  # it includes the mask
            if struct.unpack_from("<I", content, start + 16)[0] in (1, 2):
                raise _Hazard("is an icon of run lengths")
        if max(abs(width), abs(height)) > _ICON_SIDE:
            raise _Hazard(f"is an icon of {width}x{height}")


# The TIFF tags that are checked, and the struct formats of their types (byte, short, long, long8).
_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES, _ROWS_PER_STRIP, _PLANES = 256, 257, 259, 277, 278, 284
_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES = 273, 279, 324, 325
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_TIFF_TAGS = frozenset(
    (
        *(_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES, _ROWS_PER_STRIP, _PLANES),
        *(_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES, _TILE_WIDTH, _TILE_HEIGHT),
    )
)
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_TIFF_COMPRESSIONS = frozenset((1, 5, 7, 8, 32773, 32946))  # none, LZW, JPEG, deflate, PackBits


def _check_tiff(content: bytes) -> None:
    tags = _tiff_tags(content)

    def first(tag: int, default: int) -> int:
        return tags[tag][0] if tags.get(tag) else default

    compression, samples = first(_COMPRESSION, 1), first(_SAMPLES, 1)
    if compression not in _TIFF_COMPRESSIONS:
        raise _Hazard(f"is a TIFF of an unusual compression ({compression})")
    if samples > _TIFF_SAMPLES:
        raise _Hazard(f"is a TIFF of {samples} samples a pixel")
    width, height = first(_WIDTH, 0), first(_HEIGHT, 0)
    planes = samples if first(_PLANES, 1) == 2 else 1
    if _TILE_WIDTH in tags:
        part_width, part_height = first(_TILE_WIDTH, 1), first(_TILE_HEIGHT, 1)
        part_bytes = tags.get(_TILE_BYTES, ())
    else:
        part_width, part_height = width, min(height, first(_ROWS_PER_STRIP, height))
        part_bytes = tags.get(_STRIP_BYTES, ())
    if not (part_width and part_height and width and height):
        return
    parts = max(len(tags.get(tag, ())) for tag in (_STRIP_OFFSETS, _TILE_OFFSETS))
    needed = math.ceil(width / part_width) * math.ceil(height / part_height) * planes
    area = max(needed, parts) * part_width * part_height
    if area > (4 * width * height + _SLACK) * planes:
        raise _Hazard(_TIFF_TOO_MANY_PIECES)
    # Strips that share bytes make a small file expensive.
    if sum(min(size, len(content)) for size in part_bytes) > 2 * len(content) + _SLACK:
        raise _Hazard("is a TIFF whose pieces are longer than itself")
    if compression == 7 and parts:
        scans = content.count(b"\xff\xda") / parts
        if scans > MAX_SCANS and scans * area > MAX_SCANNED_PIXELS:
            raise _Hazard(_TOO_MANY_SCANS.format(MAX_SCANS, area / 1e6))


def _tiff_tags(content: bytes) -> dict[int, tuple[int, ...]]:
    """Return the values of `_TIFF_TAGS` in the first directory."""
    order = "<" if content[:2] == b"II" else ">"
    is_big = content[2:4] in (b"+\0", b"\0+")
    entry, offset, inline_bytes = (order + "HHQ", "Q", 8) if is_big else (order + "HHI", "I", 4)
    (start,) = struct.unpack_from(order + offset, content, 8 if is_big else 4)
    (entries,) = struct.unpack_from(order + ("Q" if is_big else "H"), content, start)
    if entries > _TIFF_ENTRIES:
        raise _Hazard("is a TIFF of too many tags")
    tags: dict[int, tuple[int, ...]] = {}
    position = start + (8 if is_big else 2)
    for _ in range(entries):
        tag, value_type, count = struct.unpack_from(entry, content, position)
        value = position + struct.calcsize(entry)
        position = value + inline_bytes
        if tag not in _TIFF_TAGS:
            continue
        # Decoders disagree on duplicates, and accept types that no program writes here.
        if tag in tags or value_type not in _TIFF_TYPES:
            raise _Hazard(f"is a TIFF with an unusual tag {tag}")
        if count > _TIFF_PARTS:
            raise _Hazard(_TIFF_TOO_MANY_PIECES)
        values = f"{order}{count}{_TIFF_TYPES[value_type]}"
        if struct.calcsize(values) > inline_bytes:
            (value,) = struct.unpack_from(order + offset, content, value)
        if value + struct.calcsize(values) <= len(content):
            tags[tag] = struct.unpack_from(values, content, value)
    return tags


_CHECKS: dict[str, Callable[[bytes], None]] = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "GIF": _check_gif,
    "BMP": _check_bmp,
    "ICO": _check_icon,
    "TIFF": _check_tiff,
}
