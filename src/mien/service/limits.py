"""How much the service takes on: sizes, seconds, and images at a time."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

from mien.core.errors import UsageError

MOST_BYTES = 1_000_000_000
"""No limit on an image's size may be above this one."""

_MOST_WORKERS = 4
_MOST_PLACES = 10_000
_MOST_CONNECTIONS = 100_000


def default_workers() -> int:
    """Return how many images are analyzed at a time unless said otherwise: one a core, up to 4."""
    if hasattr(os, "sched_getaffinity"):
        return min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
    return min(_MOST_WORKERS, os.cpu_count() or 1)


@dataclass(frozen=True)
class Limits:
    """The service's limits.

    Attributes:
        max_bytes: a larger image is refused; no more than this is ever read of one.
        max_pixels: an image that has more is not decoded: a small file can hold very many, and each
            takes up to 30 bytes for a moment.
        workers: images that are analyzed at the same time.
        max_waiting: images that may be uploaded or wait beside those; one more is refused.
        upload_seconds: a body has to arrive within this time.
        analysis_seconds: an image that takes longer is given up.
        max_connections: open at the same time; one more takes the place of the longest idle one.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    workers: int = field(default_factory=default_workers)
    max_waiting: int = 16
    upload_seconds: float = 30.0
    analysis_seconds: float = 60.0
    max_connections: int = 1000

    def __post_init__(self) -> None:
        """Check the ranges."""
        from mien.core.images import MAX_PIXELS

        for what, value, least, most in (
            ("bytes of an image", self.max_bytes, 1, MOST_BYTES),
            ("pixels of an image", self.max_pixels, 1, MAX_PIXELS),
            ("workers", self.workers, 1, _MOST_PLACES),
            ("waiting images", self.max_waiting, 0, _MOST_PLACES),
            ("connections", self.max_connections, 1, _MOST_CONNECTIONS),
        ):
            if not least <= value <= most:
                raise UsageError(f"expected {least:,} to {most:,} {what}, got {value:,}")
        for seconds in (self.upload_seconds, self.analysis_seconds):
            if not (math.isfinite(seconds) and seconds > 0):
                raise UsageError(f"expected more than 0 seconds, got {seconds}")
