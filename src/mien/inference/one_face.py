"""One photo, one face: the largest, as a standard face."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mien.core.errors import NoFaceError, UnreadableImage
from mien.core.images import ImageSource
from mien.inference.choice import FaceChoice
from mien.inference.detectors import Detector
from mien.inference.seeing import see


def largest_face(
    detector: Detector, choice: FaceChoice | None = None
) -> Callable[[ImageSource], npt.NDArray[np.uint8]]:
    """Return a function from an image to the standard face, uint8 (48, 48), of its largest face.

    It is cut out as `Recognizer.analyze` would with the same choice. It raises UnreadableImage if
    the image cannot be read or is too much for the detector, and NoFaceError if there is no face.
    """
    choice = choice or FaceChoice()

    def face_of(source: ImageSource) -> npt.NDArray[np.uint8]:
        seen = see(source, detector, choice)
        if seen.error is not None:
            raise UnreadableImage(seen.error)
        if not seen.detections:
            least = f" of {choice.min_face} pixels or more" if choice.min_face else ""
            raise NoFaceError(f"has no face{least} that {detector.name} finds")
        areas = [found.box.area for found in seen.detections]
        return seen.faces[areas.index(max(areas))]

    return face_of
