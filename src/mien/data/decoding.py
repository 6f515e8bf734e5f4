"""One file's bytes to one grey 48x48 image, or the reason why not."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import DataError
from mien.core.faces import FACE_SIZE, standard_face

_PNG_START, _PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_TAIL = 64


def decode_image(data: bytes) -> tuple[npt.NDArray[np.uint8], str | None]:
    """Decode a data set's image.

    Returns:
        The image, uint8 (48, 48) grey, and its size as ``96x128`` (width x height) if it had
        another one and was resized, else None.

    Raises:
        DataError: with the reason only ("is truncated", ...), to be put after the file's name.
    """
    if not data:
        raise DataError("is empty")
    # A decoder may fill the missing end of an image with grey and say nothing, so ask for the end.
    tail = data[-_TAIL:]
    if (data.startswith(_PNG_START) and _PNG_END not in tail) or (
        data.startswith(_JPEG_START) and _JPEG_END not in tail
    ):
        raise DataError("is truncated")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error as error:
        raise DataError("is not an image that can be decoded") from error
    if image is None:
        raise DataError("is not an image that can be decoded")
    height, width = image.shape
    if (height, width) == (FACE_SIZE, FACE_SIZE):
        return np.asarray(image, np.uint8), None
    return standard_face(np.asarray(image, np.uint8)), f"{width}x{height}"
