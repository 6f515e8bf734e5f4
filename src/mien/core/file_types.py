"""Which files are images and videos: by the ending of their name and by their first bytes."""

from __future__ import annotations

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jpg_large", ".jpg_orig", ".jpg_small")
_NETPBM = (".pbm", ".pgm", ".pnm", ".ppm")
_OTHER_IMAGES = (".avif", ".bmp", ".dib", ".gif", ".ico", ".tif", ".tiff", ".webp")
IMAGE_SUFFIXES: tuple[str, ...] = tuple(sorted((*_JPEG, *_NETPBM, *_OTHER_IMAGES, ".png", ".apng")))
"""Suffixes of images in a folder or an archive, in lower case.

`mien.core.images.load_image` reads them all; a file that is named is tried whatever its suffix.
"""

PICTURE_SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".webp")
"""The formats in which pictures are written."""

_MPEG = (".m1v", ".m2t", ".m2ts", ".m2v", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".ts", ".vob")
_MP4 = (".3g2", ".3gp", ".f4v", ".insv", ".lrv", ".m4v", ".mov", ".mp4", ".qt")
_MATROSKA = (".mk3d", ".mkv", ".webm")
_WINDOWS = (".asf", ".avi", ".divx", ".wmv", ".wtv")
_CODECS = (".264", ".265", ".dv", ".h264", ".h265", ".hevc", ".ivf", ".mjpeg", ".mjpg", ".y4m")
_OTHER_VIDEOS = (".flv", ".mxf", ".nut", ".ogm", ".ogv", ".rm", ".rmvb")
VIDEO_SUFFIXES: tuple[str, ...] = tuple(
    sorted((*_MPEG, *_MP4, *_MATROSKA, *_WINDOWS, *_CODECS, *_OTHER_VIDEOS))
)
"""Suffixes of videos, in lower case."""

PLAYLIST_SUFFIXES: tuple[str, ...] = (".m3u8", ".mpd")
"""HLS and DASH."""

WRITTEN_SUFFIXES: tuple[str, ...] = (".mp4", ".m4v", ".mov", ".mkv")
"""The formats in which annotated videos are written."""

MAX_FILE_BYTES = 1 << 30
"""Larger files are refused; an image of `MAX_PIXELS` is smaller."""

HEAD_BYTES = 64
"""Number of leading bytes that identify a file."""

_STARTS: tuple[tuple[bytes, str], ...] = (
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
    # Not read, but named in the error.
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
READABLE = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "ICO")
"""The kinds that are read, by Pillow's names: those that people have photos and faces in.

Pillow knows thirty more. None of these runs another program, as EPS does, and what each costs to
decode can be told beforehand, as that of JPEG 2000 can not. MPO, the 3D photo, is a JPEG by its
start.
"""


def image_kind(head: bytes | bytearray) -> str | None:
    """Return what a file is by its first `HEAD_BYTES`, None if that is not known.

    Returns:
        One of `READABLE`, or the name of something that is not read ("HEIC", "a video").
    """
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF":
        return {b"WEBP": "WEBP", b"AVI ": "a video"}.get(bytes(head[8:12]))
    if head[4:8] == b"ftyp":
        return _BRANDS.get(bytes(head[8:12]), "a video")
    if head[:1] == b"P" and head[1:2] in b"123456f" and head[2:3] in b" \t\r\n\v\f#":
        return "PPM"
    return None
