"""One photo, one face: the largest, as a standard face."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import NoFaceError, UnreadableImage
from mien.core.images import ImageSource, load_image
from mien.inference.alignment import turn_of
from mien.inference.choice import FaceChoice
from mien.inference.crops import cut_face
from mien.inference.detectors import Detector


def largest_face(
    detector: Detector, choice: FaceChoice | None = None
) -> Callable[[ImageSource], npt.NDArray[np.uint8]]:
    """Return a function from an image to the standard face, uint8 (48, 48), of its largest face.

    It is cut out as `Recognizer.analyze` would with the same choice. It raises UnreadableImage if
    the image cannot be read or is too much for the detector, and NoFaceError if there is no face.
    """
    choice = choice or FaceChoice()

    def face_of(source: ImageSource) -> npt.NDArray[np.uint8]:
        pixels = load_image(source)
        try:
            found = choice.chosen(detector.detect(pixels))
        except (cv2.error, MemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnreadableImage(f"image fails in face detection: {reason}") from error
        if not found:
            least = f" of {choice.min_face} pixels or more" if choice.min_face else ""
            raise NoFaceError(f"has no face{least} that {detector.name} finds")
        largest = max(found, key=lambda one: one.box.area)
        turn = turn_of(largest.landmarks, choice.align)
        return cut_face(pixels, largest.box, detector.framing, turn=turn)

    return face_of
