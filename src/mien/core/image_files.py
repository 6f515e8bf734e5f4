"""Which files are images, by their names."""

from __future__ import annotations

IMAGE_SUFFIXES: tuple[str, ...] = (
    ".apng",
    ".avif",
    ".bmp",
    ".dib",
    ".gif",
    ".ico",
    ".jfif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".jpg_large",
    ".jpg_orig",
    ".jpg_small",
    ".mpo",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
"""What counts as an image in a folder or an archive, in lower case.

`mien.core.images.load_image` reads them all; a file that is named is tried whatever its suffix.
"""
