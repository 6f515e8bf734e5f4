"""Waiting for a state, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 120
"""A wait this long is for something that never comes; it only ends a test that hangs."""


def until(holds: Callable[[], object]) -> None:
    """Wait until a condition is true."""
    end, pause = time.monotonic() + PATIENCE_S, 0.005
    while not holds():
        assert time.monotonic() < end, f"not true within {PATIENCE_S} seconds"
        time.sleep(pause)
        pause = min(0.1, 1.5 * pause)
