"""What the service takes at most: bytes, pixels, seconds, and how much at the same time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mien.core.errors import UsageError
from mien.core.images import MAX_PIXELS
from mien.core.process import usable_cores

MAX_BYTES = 1_000_000_000
"""No limit on an image's size may be above this one."""

MAX_VIDEO_BYTES = 100_000_000_000
"""No limit on a video's size may be above this one."""


def default_workers() -> int:
    """Return how many images are analyzed at a time by default: one per core, at most 4."""
    return min(4, usable_cores())


@dataclass(frozen=True)
class Limits:
    """The service's limits; with several processes, of each of them.

    Attributes:
        max_bytes: of an image; no more is ever read of one.
        max_pixels: an image that has more is not decoded: a small file can hold very many, and each
            takes up to 30 bytes for a moment. So of a video's frames.
        workers: images that are analyzed at the same time.
        max_waiting: images that may be uploaded or wait beside those; one more is refused.
        upload_seconds: an image's body has to arrive within this time.
        analysis_seconds: an image that takes longer is abandoned.
        max_connections: open at the same time; one more takes the place of the longest idle one.
        max_streams: WebSockets of live frames at the same time; one more is refused.
        stream_seconds: a stream without a frame for so long is closed.
        max_videos: that are uploaded or analyzed at the same time; one more is refused.
        max_video_bytes: of a video, which is written to a file without a name.
        video_seconds: from a video's first byte to its last event; then the work ends.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    workers: int = field(default_factory=default_workers)
    max_waiting: int = 32
    upload_seconds: float = 30.0
    analysis_seconds: float = 60.0
    max_connections: int = 1000
    max_streams: int = 16
    stream_seconds: float = 60.0
    max_videos: int = 1
    max_video_bytes: int = 200_000_000
    video_seconds: float = 600.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for what, value, low, high in (
            ("bytes of an image", self.max_bytes, 1, MAX_BYTES),
            ("pixels of an image", self.max_pixels, 1, MAX_PIXELS),
            ("workers", self.workers, 1, 10_000),
            ("waiting images", self.max_waiting, 0, 10_000),
            ("connections", self.max_connections, 1, 100_000),
            ("streams", self.max_streams, 0, 10_000),
            ("videos", self.max_videos, 0, 1000),
            ("bytes of a video", self.max_video_bytes, 1, MAX_VIDEO_BYTES),
        ):
            if not low <= value <= high:
                raise UsageError(f"expected {low:,} to {high:,} {what}, got {value:,}")
        for seconds in (
            self.upload_seconds,
            self.analysis_seconds,
            self.stream_seconds,
            self.video_seconds,
        ):
            if not (math.isfinite(seconds) and seconds > 0):
                raise UsageError(f"expected more than 0 seconds, got {seconds}")
