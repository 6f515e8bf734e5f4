"""From the options that find faces to how a file of a class folder becomes a face."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mien.batch.inputs import RecognizerOptions

if TYPE_CHECKING:
    from mien.data.class_folder import FaceOf


def face_finder(options: RecognizerOptions) -> FaceOf | None:
    """Return what finds the largest face in a photo, or None where images are face crops.

    The face is cut out as `mien predict` with the same options does.

    Raises:
        UsageError: if there is no such detector, it is not installed, or an option is wrong.
    """
    from mien.inference.preprocess import largest_face

    if options.detector == "none":
        return None
    return partial(largest_face, detector=options.load_detector(), choice=options.choice())
