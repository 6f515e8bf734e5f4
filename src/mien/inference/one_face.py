"""One photo, one face: the largest, as a standard face."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import NoFaceError, UnreadableImage
from mien.core.images import ImageSource, load_image
from mien.inference.crops import cut_face
from mien.inference.detectors import Detector


def largest_face(detector: Detector) -> Callable[[ImageSource], npt.NDArray[np.uint8]]:
    """Return a function from an image to the standard face, uint8 (48, 48), of its largest face.

    It raises UnreadableImage if the image cannot be read or is too much for the detector, and
    NoFaceError if there is no face.
    """

    def face_of(source: ImageSource) -> npt.NDArray[np.uint8]:
        pixels = load_image(source)
        try:
            found = list(detector.detect(pixels))
        except (cv2.error, MemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnreadableImage(f"image fails in face detection: {reason}") from error
        if not found:
            raise NoFaceError(f"has no face that {detector.name} finds")
        box = max(found, key=lambda one: one.box.area).box
        return cut_face(pixels, box, detector.framing)

    return face_of
