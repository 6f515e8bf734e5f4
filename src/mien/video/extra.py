"""PyAV, which reads and writes videos, where it is installed."""

from __future__ import annotations

import importlib
from typing import Any

from mien.core.errors import MissingExtra


def load_av(needed_for: str = "reading a video") -> Any:
    """Return the module ``av``.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise MissingExtra("video", needed_for) from error
