"""Preprocessing: load an image, detect its faces, crop them level to 48x48 grey, assess quality."""

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

from mien.core.checks import check_choice, check_integer, check_list
from mien.core.errors import MienError, NoFaceError, UnreadableImage, UsageError, abbreviate
from mien.core.images import (
    FACE_SIZE,
    ImageSource,
    Tensor,
    is_file_object,
    is_tensor,
    load_image,
    standard_face,
)
from mien.core.results import Box, Quality
from mien.inference.detectors import Detection, Detector, Landmarks, crop_scale_of
from mien.inference.detectors.search import crop_square

ALIGN: tuple[str, ...] = ("auto", "on", "off")
"""Alignment modes: level the eyes of faces that lean by `AUTO_ROLL` or more, of all, or of none."""

AUTO_ROLL = 10.0
"""Roll, in degrees, from which on "auto" levels the eyes. FER-2013's own faces mostly lean by less,
and are classified slightly worse when aligned."""


@dataclass(frozen=True)
class FaceChoice:
    """Selection of the faces of an image, and their alignment.

    Attributes:
        min_face: smallest side of a face's box, in pixels.
        max_faces: number of faces to keep: the largest, the more confident of equal ones; all if
            None.
        align: one of `ALIGN`; requires a detector with landmarks.
    """

    min_face: int = 0
    max_faces: int | None = None
    align: str = ALIGN[0]

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        check_choice("align", self.align, ALIGN)
        check_integer("min_face", self.min_face, 0)
        if self.max_faces is not None:
            check_integer("max_faces", self.max_faces, 1)

    def select(self, detections: Iterable[Detection]) -> tuple[Detection, ...]:
        """Return the selected detections in their order."""
        kept = [face for face in detections if min(face.box.w, face.box.h) >= self.min_face]
        if self.max_faces is None or len(kept) <= self.max_faces:
            return tuple(kept)
        ranked = sorted(
            range(len(kept)), key=lambda index: (-kept[index].box.area, -kept[index].confidence)
        )
        return tuple(kept[index] for index in sorted(ranked[: self.max_faces]))


# ---------------------------------------------------------------- from an image to its faces
@dataclass(frozen=True)
class FaceBatch:
    """The faces of one image, ready for the classifier; the image itself is not kept."""

    source: str | None  # the image's name
    width: int | None = None  # of the image; None if it is unreadable
    height: int | None = None
    detections: tuple[Detection, ...] = ()  # the selected faces, left to right
    turns: tuple[float, ...] = ()  # clockwise tilt in degrees that each crop undoes
    faces: tuple[npt.NDArray[np.uint8], ...] = ()  # standard faces, uint8 (48, 48)
    status: str = "ok"  # or "no_face", "unreadable", "error"
    error: str | None = None  # message of the last two

    @classmethod
    def failed(cls, source: str | None, error: MienError) -> FaceBatch:
        """Return the batch of an image that could not be loaded."""
        status = "unreadable" if isinstance(error, UnreadableImage) else "error"
        return cls(source, status=status, error=str(error))


def preprocess(
    image: ImageSource,
    detector: Detector,
    choice: FaceChoice,
    *,
    color: str | None = None,
    source: str | None = None,
    allow_private: bool = False,
) -> FaceBatch:
    """Load an image, detect its faces, and crop the selected ones.

    Arguments as `Recognizer.analyze_many`, for one image. If loading or detection fails, the
    batch's status says so.

    Raises:
        UsageError: if an array is invalid.
    """
    try:
        pixels = load_image(image, color=color, allow_private=allow_private)
    except UsageError:
        raise
    except MienError as error:
        return FaceBatch.failed(source, error)
    height, width = pixels.shape[:2]
    try:
        detections = choice.select(detector.detect(pixels))
        scale = crop_scale_of(detector)
        turns = tuple(
            0.0 if scale is None else alignment_angle(face.landmarks, choice.align, face.turn)
            for face in detections
        )
        faces = tuple(
            cut_face(pixels, face.box, scale, turn=turn)
            for face, turn in zip(detections, turns, strict=True)
        )
    # An image that is too much for OpenCV or the memory must not end a batch of thousands.
    except (cv2.error, MemoryError) as error:
        is_memory = isinstance(error, MemoryError) or error.code == cv2.Error.StsNoMem
        reason = "there is not enough memory" if is_memory else " ".join(str(error).split())
        message = f"{abbreviate(source or 'the image')}: face detection failed: {reason}"
        return FaceBatch(source, width, height, status="error", error=message)
    status = "ok" if detections else "no_face"
    return FaceBatch(source, width, height, detections, turns, faces, status)


def largest_face(
    image: ImageSource, detector: Detector, choice: FaceChoice | None = None
) -> npt.NDArray[np.uint8]:
    """Return the largest face of an image as a standard face, uint8 (48, 48).

    Raises:
        UnreadableImage: if the image cannot be read, or detection fails.
        NoFaceError: if there is no face.
    """
    choice = choice or FaceChoice()
    batch = preprocess(image, detector, choice)
    if batch.error is not None:
        raise UnreadableImage(batch.error)
    if not batch.detections:
        least = f" of {choice.min_face} pixels or more" if choice.min_face else ""
        raise NoFaceError(f"has no face{least} that {detector.name} detects")
    areas = [face.box.area for face in batch.detections]
    return batch.faces[areas.index(max(areas))]


# ---------------------------------------------------------------- crops
def face_crop(
    image: npt.NDArray[np.uint8], box: Box, crop_scale: float | None, *, turn: float = 0.0
) -> npt.NDArray[np.uint8]:
    """Crop a face as FER-2013 frames it: a square centred on the box and filled by the face.

    Args:
        image: uint8 (H, W, 3) RGB.
        box: inside the image.
        crop_scale: see `Detector.crop_scale`; None crops the box itself.
        turn: clockwise tilt of the face in degrees, which the crop undoes; unused if ``crop_scale``
            is None.

    Returns:
        uint8 (S, S, 3), or (h, w, 3) of the box. Border pixels are repeated where the square
        reaches beyond the image.
    """
    if crop_scale is None:
        left, top, right, bottom = box.xyxy
        return image[top:bottom, left:right]
    side = crop_scale * math.sqrt(box.w * box.h)
    return _rotated_crop(image, box, side, turn) if turn else crop_square(image, box, side)


def cut_face(
    image: npt.NDArray[np.uint8], box: Box, crop_scale: float | None, *, turn: float = 0.0
) -> npt.NDArray[np.uint8]:
    """Return the standard face, uint8 (48, 48) grey, of a box; arguments as `face_crop`."""
    return standard_face(face_crop(image, box, crop_scale, turn=turn))


def _rotated_crop(
    image: npt.NDArray[np.uint8], box: Box, side: float, turn: float
) -> npt.NDArray[np.uint8]:
    """Crop a square of ``side`` pixels, rotated by ``turn`` degrees about the box's centre.

    The result has 48 k pixels with the smallest k that loses none: reducing it to a standard face
    then averages k x k pixels, so that the image is interpolated only once.
    """
    size = FACE_SIZE * max(1, math.ceil(side / FACE_SIZE))
    scale, angle = side / size, math.radians(turn)
    along, across = scale * math.cos(angle), scale * math.sin(angle)
    # Maps crop pixels to image pixels; pixel centres lie at half coordinates.
    matrix = np.array([[along, -across, 0.0], [across, along, 0.0]])
    center = np.array([box.x + box.w / 2 - 0.5, box.y + box.h / 2 - 0.5])
    matrix[:, 2] = center - matrix[:, :2] @ np.full(2, size / 2 - 0.5)
    # OpenCV cannot warp an image with a side of 32,767 pixels or more, so a region is cut first,
    # at whole pixels and with a margin for interpolation, which leaves the crop unchanged.
    reach = math.ceil((abs(along) + abs(across)) * size / 2) + 2
    (x, y), (height, width) = np.rint(center).astype(int), image.shape[:2]
    left, top = max(0, int(x) - reach), max(0, int(y) - reach)
    region = image[top : min(height, int(y) + reach + 1), left : min(width, int(x) + reach + 1)]
    matrix[:, 2] -= left, top
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REPLICATE
    return np.asarray(cv2.warpAffine(region, matrix, (size, size), flags=flags, borderMode=border))


def alignment_angle(landmarks: Landmarks | None, align: str, quarter: float = 0.0) -> float:
    """Return the clockwise degrees, -180 to 180, that level a face's crop.

    Args:
        landmarks: see `Detection`.
        align: one of `ALIGN`.
        quarter: `Detection.turn`; the crop is levelled by it whatever ``align`` is.
    """
    if landmarks is None or align == "off":
        return quarter
    roll = roll_angle(landmarks)
    lean = math.remainder(roll - quarter, 360.0)
    return roll if align == "on" or abs(lean) >= AUTO_ROLL else quarter


# ---------------------------------------------------------------- head pose
def roll_angle(landmarks: Landmarks) -> float:
    """Return the roll of a face in degrees, clockwise as seen in the image.

    It combines the line through the eyes with the line from between them to the mouth, because the
    first is short in a face that is turned away.
    """
    points = np.asarray(landmarks, np.float64)
    eyes = points[1] - points[0]
    down = (points[3] + points[4] - points[0] - points[1]) / 2
    return math.degrees(math.atan2(eyes[1] - down[0], eyes[0] + down[1]))


def pitch_ratio(landmarks: Landmarks) -> float:
    """Return the height of the nose tip: 0 is level with the eyes, 1 with the mouth.

    A face towards the camera has 0.5 to 0.6, less when it looks up and more when it looks down,
    whatever its roll. Infinity if eyes and mouth coincide.
    """
    points = np.asarray(landmarks, np.float64)
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    down = mouth - eyes
    square = float(down @ down)
    return float((points[2] - eyes) @ down) / square if square else math.inf


def yaw_ratio(landmarks: Landmarks) -> float:
    """Return the sideways offset of the nose tip: 0 towards the camera, over 1 in profile.

    It is the distance from the centre line of eyes and mouth, in distances between the eyes,
    whatever the roll. Infinity if the landmarks show no front.
    """
    points = np.asarray(landmarks, np.float64)
    down = points[3] + points[4] - points[0] - points[1]
    length = float(np.hypot(*down))
    if length == 0:
        return math.inf
    across = np.array([down[1], -down[0]]) / length
    eyes = float((points[1] - points[0]) @ across)
    nose = abs(float((points[2] - points[[0, 1, 3, 4]].mean(axis=0)) @ across))
    return nose / eyes if eyes > 0 else math.inf


# ---------------------------------------------------------------- quality
# docs/evidence/faces.md derives each threshold.
SMALL_PX = 24  # "small": a side of the box is below
BLURRED = 0.4  # "blurred": blur from here on, that of a Gaussian of one pixel in 48
DARK_LEVEL = 50  # "dark": mean grey (0-255) below
BRIGHT_LEVEL, BRIGHT_SHARE = 250, 0.4  # "bright": this share is at this level or above
YAW_LIMIT = 0.3  # "turned_away": `yaw_ratio` from here on,
PITCH_RANGE = (0.42, 0.66)  # or `pitch_ratio` outside of these

# Detail (variance of the Laplacian over variance of the picture) of FER-2013's faces: half of them
# original and half blurred by 0.5 pixels; and all blurred by 3 pixels.
_SHARP_DETAIL = 0.35
_BLURRED_DETAIL = 0.004
# Keeps flat pictures, whose little variance is noise, from counting as sharp.
_NOISE_VARIANCE = 25.0


def assess_quality(
    face: npt.NDArray[np.uint8], box: Box, landmarks: Landmarks | None = None
) -> Quality:
    """Measure how well a face can be seen.

    Args:
        face: the standard face, uint8 (48, 48).
        box: the face's, in pixels of the image.
        landmarks: see `Detection`; without them, no face is flagged as turned away.
    """
    blur = measure_blur(face)
    flags = {
        "small": min(box.w, box.h) < SMALL_PX,
        "blurred": blur >= BLURRED,
        "dark": float(face.mean()) < DARK_LEVEL,
        "bright": float((face >= BRIGHT_LEVEL).mean()) >= BRIGHT_SHARE,
        "turned_away": landmarks is not None
        and (
            yaw_ratio(landmarks) >= YAW_LIMIT
            or not PITCH_RANGE[0] < pitch_ratio(landmarks) < PITCH_RANGE[1]
        ),
    }
    return Quality(min(box.w, box.h), blur, tuple(flag for flag, is_set in flags.items() if is_set))


def measure_blur(face: npt.NDArray[np.uint8]) -> float:
    """Return the blur of a standard face, 0 (sharp) to 1 (nothing but blur).

    It is the logarithm of the detail: the variance of the Laplacian over the variance of the
    picture, which makes it independent of contrast.
    """
    values = face.astype(np.float32)
    laplacian = float(cv2.Laplacian(values, cv2.CV_32F).var())
    detail = laplacian / (float(values.var()) + _NOISE_VARIANCE)
    if detail <= _BLURRED_DETAIL:
        return 1.0
    blur = math.log(_SHARP_DETAIL / detail) / math.log(_SHARP_DETAIL / _BLURRED_DETAIL)
    return min(1.0, max(0.0, blur))


# ---------------------------------------------------------------- test-time augmentation
TTA_SHIFT = 3
"""Shift of the augmented views, in pixels of the standard face."""

TTA_SHIFTS: tuple[tuple[int, int], ...] = (
    (0, 0),
    (0, -TTA_SHIFT),
    (0, TTA_SHIFT),
    (-TTA_SHIFT, 0),
    (TTA_SHIFT, 0),
)
"""(down, right): none, left, right, up, down."""


def tta_views(faces: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield ten views of faces, each uint8 (N, 48, 48): `TTA_SHIFTS`, then the same mirrored."""
    for views in (faces, faces[:, :, ::-1]):
        for down, right in TTA_SHIFTS:
            yield shift(views, down, right)


def shift(faces: npt.NDArray[np.uint8], down: int, right: int) -> npt.NDArray[np.uint8]:
    """Shift faces (N, 48, 48) by whole pixels, repeating border pixels."""
    height, width = faces.shape[1:]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return faces[:, rows[:, None], columns[None, :]]


# ---------------------------------------------------------------- lists of images
def check_images(images: object, single: str) -> None:
    """Raise UsageError unless this is a list of images; ``single`` names what takes one image."""
    if is_single_image(images):
        raise UsageError(
            f"expected a list of images, got one {type(images).__name__}: "
            f"use {single} for a single image"
        )
    check_list("images", images)


def is_single_image(images: object) -> bool:
    """Return True for one image rather than a list; an array could pass for a list of its rows."""
    if isinstance(images, np.ndarray):
        return images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3, 4))
    if is_tensor(images):
        sides = tuple(images.shape)
        return len(sides) == 2 or (len(sides) == 3 and bool({1, 3, 4} & {sides[0], sides[2]}))
    is_image = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image)
    return is_image or is_file_object(images)


def pair_sources(
    images: Iterable[ImageSource], sources: Sequence[str | None] | None
) -> Iterator[tuple[ImageSource, str | None]]:
    """Yield each image with its name, None if ``sources`` is None.

    Raises:
        UsageError: at the end of the shorter one, if there are not as many sources as images.
    """
    if sources is None:
        yield from zip(images, repeat(None))
        return
    check_list("sources", sources)
    missing = object()
    for image, name in zip_longest(images, sources, fillvalue=missing):
        if image is missing or name is missing:
            raise UsageError(f"expected a source for each image, got {len(sources)} sources")
        yield image, name  # type: ignore[misc]


def standard_faces(
    crops: Iterable[npt.NDArray[Any] | Tensor], *, color: str | None = None
) -> list[npt.NDArray[np.uint8]]:
    """Return the standard face, uint8 (48, 48), of each crop; crops as for `Recognizer.classify`.

    Raises:
        UsageError: if this is a single crop rather than a list, or a crop is invalid.
    """
    if is_single_image(crops):
        raise UsageError(
            f"expected a list of face crops, got one {type(crops).__name__}: "
            "put a single crop into a list"
        )
    check_list("crops", crops)
    faces = []
    for crop in crops:
        if not (isinstance(crop, np.ndarray) or is_tensor(crop)):
            raise UsageError(
                f"expected a list of face crops as arrays, got a {type(crop).__name__} in it"
            )
        faces.append(standard_face(load_image(crop, color=color)))
    return faces
