"""Preprocessing: load an image, find its faces, cut them out level, as 48x48 grey."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat, zip_longest
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from mien.core.errors import MienError, NoFaceError, UnreadableImage, UsageError, shown
from mien.core.faces import FACE_SIZE, standard_face
from mien.core.images import ImageSource, Tensor, is_file_object, is_tensor, load_image
from mien.core.results import Box
from mien.inference.detectors import Detection, Detector, crop_scale_of
from mien.inference.detectors.base import Landmarks, square_crop

ALIGN: tuple[str, ...] = ("auto", "on", "off")
"""Level the eyes of faces that lean by `AUTO_ROLL` or more, of all, or of none."""

AUTO_ROLL = 10.0
"""Degrees from which on "auto" levels the eyes: FER-2013's own faces lean by less, mostly, and are
read a little worse when they are turned."""


@dataclass(frozen=True)
class FaceChoice:
    """Which faces of an image are read, and how they are cut out.

    Attributes:
        min_face: a face whose box has a smaller side than this, in pixels, is left out.
        max_faces: only so many are read, the largest; of equal ones those of highest confidence;
            None for all.
        align: one of `ALIGN`; for detectors that find eyes.
    """

    min_face: int = 0
    max_faces: int | None = None
    align: str = ALIGN[0]

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        if self.align not in ALIGN:
            raise UsageError(f"expected align={', '.join(map(repr, ALIGN))}, got {self.align!r}")
        _check_count("min_face", self.min_face, 0)
        if self.max_faces is not None:
            _check_count("max_faces", self.max_faces, 1)

    def chosen(self, detections: Iterable[Detection]) -> tuple[Detection, ...]:
        """Return the detections that are read, in their order."""
        kept = [one for one in detections if min(one.box.w, one.box.h) >= self.min_face]
        if self.max_faces is None or len(kept) <= self.max_faces:
            return tuple(kept)
        ranked = sorted(
            range(len(kept)), key=lambda place: (-kept[place].box.area, -kept[place].confidence)
        )
        return tuple(kept[place] for place in sorted(ranked[: self.max_faces]))


def _check_count(what: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"expected {what} as a whole number of {least} or more, got {value!r}")


# ---------------------------------------------------------------- from an image to its faces
@dataclass(frozen=True)
class FaceBatch:
    """The faces of one image, ready for the classifier; its pixels are not kept.

    Attributes:
        source: the image's name, if it has one.
        width: in pixels; None if the image cannot be read.
        height: in pixels; None if the image cannot be read.
        detections: the faces that are to be read, left to right.
        turns: degrees by which each face's crop was turned back.
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


def preprocess(
    image: ImageSource,
    detector: Detector,
    choice: FaceChoice,
    *,
    color: str | None = None,
    source: str | None = None,
    allow_private: bool = False,
) -> FaceBatch:
    """Load an image, find its faces, and cut out those that are to be read.

    An image that cannot be read, or fails in the detector, has a status that says so. Arguments as
    `Recognizer.analyze_many`, for one image.

    Raises:
        UsageError: if an array is not as it should be.
    """
    try:
        pixels = load_image(image, color=color, allow_private=allow_private)
    except UsageError:
        raise
    except MienError as error:
        status = "unreadable" if isinstance(error, UnreadableImage) else "error"
        return FaceBatch(source, status=status, error=str(error))
    height, width = pixels.shape[:2]
    try:
        detections = choice.chosen(detector.detect(pixels))
        scale = crop_scale_of(detector)
        turns = tuple(
            0.0 if scale is None else turn_of(found.landmarks, choice.align, found.turn)
            for found in detections
        )
        faces = tuple(
            cut_face(pixels, found.box, scale, turn=turn)
            for found, turn in zip(detections, turns, strict=True)
        )
    # One image that is too much for OpenCV or the memory does not end a thousand others.
    except (cv2.error, MemoryError) as error:
        is_memory = isinstance(error, MemoryError) or error.code == cv2.Error.StsNoMem
        reason = "there is not enough memory" if is_memory else " ".join(str(error).split())
        message = f"{shown(source or 'the image')}: face detection failed: {reason}"
        return FaceBatch(source, width, height, status="error", error=message)
    status = "ok" if detections else "no_face"
    return FaceBatch(source, width, height, detections, turns, faces, status)


def largest_face(
    image: ImageSource, detector: Detector, choice: FaceChoice | None = None
) -> npt.NDArray[np.uint8]:
    """Return an image's largest face as a standard face, uint8 (48, 48), cut as `preprocess` does.

    Raises:
        UnreadableImage: if the image cannot be read or is too much for the detector.
        NoFaceError: if there is no face.
    """
    choice = choice or FaceChoice()
    batch = preprocess(image, detector, choice)
    if batch.error is not None:
        raise UnreadableImage(batch.error)
    if not batch.detections:
        least = f" of {choice.min_face} pixels or more" if choice.min_face else ""
        raise NoFaceError(f"has no face{least} that {detector.name} finds")
    areas = [found.box.area for found in batch.detections]
    return batch.faces[areas.index(max(areas))]


# ---------------------------------------------------------------- crops
def face_crop(
    image: npt.NDArray[np.uint8], box: Box, crop_scale: float | None, *, turn: float = 0.0
) -> npt.NDArray[np.uint8]:
    """Cut a face out as FER-2013 shows faces: square, filled by the face, centred on its box.

    Args:
        image: uint8 (H, W, 3) RGB.
        box: inside the image.
        crop_scale: the detector's (see `Detector.crop_scale`); None cuts the box out as it is.
        turn: degrees, clockwise, by which the face leans, to be turned back; not for a
            ``crop_scale`` of None.

    Returns:
        uint8 (S, S, 3), or (h, w, 3) of the box. Where the square reaches over the image's border,
        the border's pixels are repeated.
    """
    if crop_scale is None:
        left, top, right, bottom = box.xyxy
        return image[top:bottom, left:right]
    side = crop_scale * math.sqrt(box.w * box.h)
    return _turned_crop(image, box, side, turn) if turn else square_crop(image, box, side)


def cut_face(
    image: npt.NDArray[np.uint8], box: Box, crop_scale: float | None, *, turn: float = 0.0
) -> npt.NDArray[np.uint8]:
    """Return the standard face, uint8 (48, 48) grey, of a box; arguments as `face_crop`."""
    return standard_face(face_crop(image, box, crop_scale, turn=turn))


def _turned_crop(
    image: npt.NDArray[np.uint8], box: Box, side: float, turn: float
) -> npt.NDArray[np.uint8]:
    """Cut out a square of ``side`` pixels that leans by ``turn`` degrees about the box's centre.

    It comes out as 48 k pixels with k the least that loses none: making it a standard face then
    takes the mean of k x k pixels, so that the picture is interpolated once.
    """
    size = FACE_SIZE * max(1, math.ceil(side / FACE_SIZE))
    scale, angle = side / size, math.radians(turn)
    along, across = scale * math.cos(angle), scale * math.sin(angle)
    # From a pixel of the crop to its place in the image; pixels' centres lie at half coordinates.
    matrix = np.array([[along, -across, 0.0], [across, along, 0.0]])
    centre = np.array([box.x + box.w / 2 - 0.5, box.y + box.h / 2 - 0.5])
    matrix[:, 2] = centre - matrix[:, :2] @ np.full(2, size / 2 - 0.5)
    # OpenCV warps no image with a side of 32,767 pixels or more, so the region comes first. Its
    # corner is in whole pixels, and it has a margin for interpolation: the crop stays the same.
    reach = math.ceil((abs(along) + abs(across)) * size / 2) + 2
    (x, y), (height, width) = np.rint(centre).astype(int), image.shape[:2]
    left, top = max(0, int(x) - reach), max(0, int(y) - reach)
    region = image[top : min(height, int(y) + reach + 1), left : min(width, int(x) + reach + 1)]
    matrix[:, 2] -= left, top
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    edge = cv2.BORDER_REPLICATE
    return np.asarray(cv2.warpAffine(region, matrix, (size, size), flags=flags, borderMode=edge))


def roll_of(landmarks: Landmarks) -> float:
    """Return how far a face leans, in degrees, clockwise as one looks at the picture.

    The line of the eyes and the line from their middle to the mouth's count together: the first
    one is short in a face that is turned away.
    """
    points = np.asarray(landmarks, np.float64)
    eyes = points[1] - points[0]
    down = (points[3] + points[4] - points[0] - points[1]) / 2
    return math.degrees(math.atan2(eyes[1] - down[0], eyes[0] + down[1]))


def turn_of(landmarks: Landmarks | None, align: str, quarter: float = 0.0) -> float:
    """Return by how many degrees, -180 to 180, a face's crop is to be turned back.

    Args:
        landmarks: as `Detection` has them.
        align: one of `ALIGN`.
        quarter: degrees by which the image was turned back to find the face; its crop is, too,
            whatever ``align`` says.
    """
    if landmarks is None or align == "off":
        return quarter
    roll = roll_of(landmarks)
    lean = math.remainder(roll - quarter, 360.0)
    return roll if align == "on" or abs(lean) >= AUTO_ROLL else quarter


# ---------------------------------------------------------------- test-time augmentation
TTA_SHIFT = 3
"""How far the shifted views are moved, in pixels of the standard face."""

TTA_SHIFTS: tuple[tuple[int, int], ...] = (
    (0, 0),
    (0, -TTA_SHIFT),
    (0, TTA_SHIFT),
    (-TTA_SHIFT, 0),
    (TTA_SHIFT, 0),
)
"""(down, right): as it is, left, right, up, down."""


def tta_views(faces: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield ten views of faces, each uint8 (N, 48, 48): `TTA_SHIFTS`, then those mirrored."""
    for pictures in (faces, faces[:, :, ::-1]):
        for down, right in TTA_SHIFTS:
            yield shifted(pictures, down, right)


def shifted(faces: npt.NDArray[np.uint8], down: int, right: int) -> npt.NDArray[np.uint8]:
    """Move faces (N, 48, 48) by whole pixels, repeating the border's pixels in what opens up."""
    height, width = faces.shape[1:]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return faces[:, rows[:, None], columns[None, :]]


# ---------------------------------------------------------------- lists of images
def is_one_image(images: object) -> bool:
    """Say whether this is one image, not a list: an array would pass for a list of its rows."""
    if isinstance(images, np.ndarray):
        return images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3, 4))
    if is_tensor(images):
        sides = tuple(images.shape)
        return len(sides) == 2 or (len(sides) == 3 and bool({1, 3, 4} & {sides[0], sides[2]}))
    one = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image)
    return one or is_file_object(images)


def with_sources(
    images: Iterable[ImageSource], sources: Sequence[str | None] | None
) -> Iterator[tuple[ImageSource, str | None]]:
    """Pair each image with its given name, None for all without ``sources``.

    Raises:
        UsageError: once the images, or the sources, are found to be fewer than the others.
    """
    if sources is None:
        yield from zip(images, repeat(None))
        return
    missing = object()
    for image, name in zip_longest(images, sources, fillvalue=missing):
        if image is missing or name is missing:
            raise UsageError(f"expected a source for each image, got {len(sources)} sources")
        yield image, name  # type: ignore[misc]


def standard_faces(
    crops: Iterable[npt.NDArray[Any] | Tensor], *, color: str | None = None
) -> list[npt.NDArray[np.uint8]]:
    """Return the standard face, uint8 (48, 48), of each crop; `Recognizer.classify` says of which.

    Raises:
        UsageError: if this is one crop and not a list, or a crop is not as it should be.
    """
    if is_one_image(crops):
        raise UsageError(
            f"expected a list of face crops, got one {type(crops).__name__}: "
            "put a single crop into a list"
        )
    faces = []
    for crop in crops:
        if not (isinstance(crop, np.ndarray) or is_tensor(crop)):
            raise UsageError(
                f"expected a list of face crops as arrays, got a {type(crop).__name__} in it"
            )
        faces.append(standard_face(load_image(crop, color=color)))
    return faces
