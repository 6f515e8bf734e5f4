"""One file's bytes to one grey 48x48 face: the pixels that `mien predict` sees of it."""

from __future__ import annotations

import zlib

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import DataError, MienError
from mien.core.faces import FACE_SIZE, standard_face
from mien.core.images import load_image

_FACE_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x30\0\0\0\x30\x08\0\0\0\0"
"""How a PNG of 48x48 pixels, 8-bit grey, not interlaced, begins."""

_ENDS = ((b"\x89PNG", b"IEND\xaeB`\x82"), (b"\xff\xd8\xff", b"\xff\xd9"))
"""How files of a form begin, and what is somewhere in each that was not cut."""

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_HEADER_BYTES = len(_FACE_PNG) + 4  # a checksum follows
_RAW_BYTES = FACE_SIZE * (FACE_SIZE + 1)  # each row has a byte for its filter


def decode_image(data: bytes) -> tuple[npt.NDArray[np.uint8], str | None]:
    """Decode an image of a data set, as `mien.core.images.load_image` does.

    Returns:
        The image, uint8 (48, 48) grey, and its size as ``96x128`` (width x height) if it had
        another one and was resized, else None.

    Raises:
        DataError: with the reason only ("is empty", ...), to be put after the file's name.
    """
    face = _plain_face(data)
    if face is not None:
        return face, None
    if not data:
        raise DataError("is empty")
    # Of other forms, and of files cut elsewhere, the decoder finds that pixels are missing.
    if any(data.startswith(start) and end not in data for start, end in _ENDS):
        raise DataError("is truncated")
    try:
        image = load_image(data)
    except MienError as error:  # of memory that does not suffice, too
        raise DataError(str(error).removeprefix("image ")) from error
    height, width = image.shape[:2]
    is_face = (height, width) == (FACE_SIZE, FACE_SIZE)
    return standard_face(image), None if is_face else f"{width}x{height}"


def crop_face(data: bytes) -> npt.NDArray[np.uint8]:
    """Take an image's bytes for a face crop: its standard face; raises as `decode_image`."""
    return decode_image(data)[0]


def _plain_face(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Decode FER-2013's own kind of file in a third of the time; None for any other.

    A whole PNG of 48x48 8-bit grey pixels that holds nothing else, no palette, transparency,
    gamma or orientation, means the same pixels to every decoder.
    """
    if not data.startswith(_FACE_PNG):
        return None
    start = _HEADER_BYTES + 8
    end = start + int.from_bytes(data[_HEADER_BYTES : _HEADER_BYTES + 4], "big")
    chunk, checksum = data[_HEADER_BYTES + 4 : end], data[end : end + 4]
    if not chunk.startswith(b"IDAT") or data[end + 4 :] != _PNG_END:
        return None
    if zlib.crc32(chunk) != int.from_bytes(checksum, "big"):
        return None
    inflated = zlib.decompressobj()
    try:
        raw = inflated.decompress(chunk[4:], _RAW_BYTES + 1)
    except zlib.error:
        return None
    if len(raw) != _RAW_BYTES or not inflated.eof:
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    return None if image is None else np.asarray(image, np.uint8)
