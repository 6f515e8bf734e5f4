"""Writing pictures: in the format of their name, whole or not at all, and marked as mien's."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from mien.core.files import SOFTWARE, write_atomically

_SOFTWARE_TAG = 0x0131  # of EXIF
_QUALITY = 92


def write_picture(picture: Image.Image, path: Path, *, optimize: bool = False) -> None:
    """Write an RGB or grey picture in the format that its name ends in (see `mien.core.files`).

    Args:
        picture: what to write.
        path: where to; its folder is made if need be.
        optimize: take longer for a smaller file.

    Raises:
        OutputError: if it cannot be written.
    """
    exif = Image.Exif()
    exif[_SOFTWARE_TAG] = SOFTWARE
    kind = Image.registered_extensions()[path.suffix.lower()]
    content = io.BytesIO()
    picture.save(content, kind, quality=_QUALITY, optimize=optimize, exif=exif)
    write_atomically(path, content.getvalue())
