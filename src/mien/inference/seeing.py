"""From an image to the faces in it, cut out: what comes before reading."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import MienError, UnreadableImage, UsageError, shown
from mien.core.images import ImageSource, load_image
from mien.inference.alignment import turn_of
from mien.inference.choice import FaceChoice
from mien.inference.crops import cut_face
from mien.inference.detectors import Detection, Detector


@dataclass(frozen=True)
class Seen:
    """What is kept of an image between detection and classification: its faces, not its pixels.

    Attributes:
        source: the image's name, if it has one.
        width: in pixels; None if the image cannot be read.
        height: in pixels; None if the image cannot be read.
        detections: the faces that are to be read, left to right.
        turns: by how many degrees each face's crop was turned back.
        faces: the standard face of each, uint8 (48, 48).
        status: "ok", "no_face", "unreadable" or "error".
        error: what happened, if the status is one of the last two.
    """

    source: str | None
    width: int | None = None
    height: int | None = None
    detections: tuple[Detection, ...] = ()
    turns: tuple[float, ...] = ()
    faces: tuple[npt.NDArray[np.uint8], ...] = ()
    status: str = "ok"
    error: str | None = None


def see(
    image: ImageSource,
    detector: Detector,
    choice: FaceChoice,
    *,
    color: str | None = None,
    source: str | None = None,
) -> Seen:
    """Read an image, find its faces, and cut out those that are to be read.

    An image that cannot be read, or fails in the detector, is told by the status.

    Args:
        image: as `Recognizer.analyze` takes it.
        detector: finds faces.
        choice: which of them are read, and which are levelled.
        color: the order of an array's channels, "rgb" or "bgr".
        source: the image's name.

    Raises:
        UsageError: if an array is not as it should be.
    """
    try:
        pixels = load_image(image, color=color)
    except UsageError:
        raise
    except MienError as error:
        status = "unreadable" if isinstance(error, UnreadableImage) else "error"
        return Seen(source, status=status, error=str(error))
    height, width = pixels.shape[:2]
    try:
        detections = choice.chosen(detector.detect(pixels))
        framing = detector.framing
        turns = tuple(
            0.0 if framing is None else turn_of(found.landmarks, choice.align, found.turn)
            for found in detections
        )
        faces = tuple(
            cut_face(pixels, found.box, framing, turn=turn)
            for found, turn in zip(detections, turns, strict=True)
        )
    # One image that is too much for OpenCV or the memory does not end a thousand others.
    except (cv2.error, MemoryError) as error:
        is_memory = isinstance(error, MemoryError) or error.code == cv2.Error.StsNoMem
        reason = "there is not enough memory" if is_memory else " ".join(str(error).split())
        message = f"{shown(source or 'the image')}: face detection failed: {reason}"
        return Seen(source, width, height, status="error", error=message)
    status = "ok" if detections else "no_face"
    return Seen(source, width, height, detections, turns, faces, status)
