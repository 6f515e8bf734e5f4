"""Lists of images and of face crops, as callers give them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat, zip_longest

import numpy as np
import numpy.typing as npt
from PIL import Image

from mien.core.errors import UsageError
from mien.core.faces import standard_face
from mien.core.images import ImageSource, is_file_object, load_image


def is_one_image(images: object) -> bool:
    """Say whether this is one image where several are wanted; an array would pass for its rows."""
    if isinstance(images, np.ndarray):
        return images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3))
    one = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image)
    return one or is_file_object(images)


def named(
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
    crops: Iterable[npt.NDArray[np.uint8]], *, color: str | None = None
) -> list[npt.NDArray[np.uint8]]:
    """Return the standard face, uint8 (48, 48), of each crop; `Recognizer.classify` says of which.

    Raises:
        UsageError: if this is one crop and not a list of them, or a crop is not as it should be.
    """
    if is_one_image(crops):
        raise UsageError(
            f"expected a list of face crops, got one {type(crops).__name__}: "
            "put a single crop into a list"
        )
    faces = []
    for crop in crops:
        if not isinstance(crop, np.ndarray):
            raise UsageError(
                f"expected a list of face crops as arrays, got a {type(crop).__name__} in it"
            )
        faces.append(standard_face(load_image(crop, color=color)))
    return faces
