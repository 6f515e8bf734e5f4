"""A window with the video that is being read: each frame as it comes, its faces drawn in."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import UsageError
from mien.core.results import Face
from mien.video.writer import drawn

_ENDING_KEYS = (27, ord("q"))
_FLAGS = cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL  # without a toolbar
_LONGEST = 1200
"""Pixels of the longer side in which the window opens; it can be made larger."""


def require_windows() -> None:
    """Raise UsageError where OpenCV can open no window."""
    if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
        raise UsageError(
            "--show needs an OpenCV with windows: pip uninstall opencv-python-headless, then "
            "pip install 'opencv-python<5'"
        )
    # Without a display, OpenCV's window library ends the process.
    if sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise UsageError("--show needs a display, and there is none: leave it out")


class LiveWindow:
    """A window with a title; use as a context manager."""

    def __init__(self, title: str) -> None:
        """Open it with the first picture."""
        self._title = title
        self._is_open = False

    def __enter__(self) -> LiveWindow:
        """See the class."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        cv2.destroyAllWindows()

    def show(self, pixels: npt.NDArray[np.uint8], faces: Sequence[Face]) -> bool:
        """Show a frame, RGB (H, W, 3) uint8; False once its window was closed, by q or Esc, too."""
        picture = drawn(pixels, faces)
        if not self._is_open:
            height, width = picture.shape[:2]
            scale = min(1.0, _LONGEST / max(height, width))
            cv2.namedWindow(self._title, _FLAGS)
            cv2.resizeWindow(self._title, round(width * scale), round(height * scale))
            self._is_open = True
        cv2.imshow(self._title, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1)
        is_open = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        return is_open and key not in _ENDING_KEYS
