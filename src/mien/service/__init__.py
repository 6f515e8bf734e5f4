"""HTTP service around one `mien.Recognizer`; `mien.service.app.create_app` builds it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field

from mien.core.errors import MissingExtra, UsageError
from mien.core.process import usable_cores

_PACKAGES = ("fastapi", "prometheus_client", "python_multipart", "uvicorn", "websockets")


def require_app(needed_for: str = "the HTTP service") -> None:
    """Raise MissingExtra unless the packages of the extra ``app`` are installed; imports none."""
    if any(importlib.util.find_spec(name) is None for name in _PACKAGES):
        raise MissingExtra("app", needed_for)


def default_workers() -> int:
    """Return the default number of worker threads: one per core, at most 4."""
    return min(4, usable_cores())


@dataclass(frozen=True)
class Limits:
    """Limits of the service; with several processes, of each of them.

    Attributes:
        max_bytes: size of an image in bytes; larger uploads are cut off.
        max_pixels: size of an image or a video frame in pixels. Larger ones are not decoded: a
            small file can hold very many pixels, each of which takes up to 30 bytes to decode.
        workers: images analyzed at the same time.
        max_waiting: images that may be uploading or queued in addition; further ones get 503.
        upload_seconds: time for an image's body to arrive.
        analysis_seconds: time for the analysis of an image, which is then abandoned.
        max_connections: open connections; a further one replaces the one idle for longest.
        max_streams: WebSocket streams at the same time; further ones get 503.
        stream_seconds: time without a frame after which a stream is closed.
        max_videos: videos uploading or analyzed at the same time; further ones get 503.
        max_video_bytes: size of a video in bytes; it is written to an unnamed temporary file.
        video_seconds: time from a video's first byte to its last event.

    Raises:
        UsageError: if a limit is out of range.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    workers: int = field(default_factory=default_workers)
    max_waiting: int = 32
    upload_seconds: float = 30
    analysis_seconds: float = 60
    max_connections: int = 1000
    max_streams: int = 16
    stream_seconds: float = 60
    max_videos: int = 1
    max_video_bytes: int = 200_000_000
    video_seconds: float = 600

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also if it is NaN
                raise UsageError(f"expected {name} from {low:,} to {high:,}, got {value:,}")


_SECONDS = (1e-3, 1e6)
_RANGES: Mapping[str, tuple[float, float]] = {
    "max_bytes": (1, 1_000_000_000),
    "max_pixels": (1, 150_000_000),  # `mien.core.images.MAX_PIXELS`
    "workers": (1, 10_000),
    "max_waiting": (0, 10_000),
    "upload_seconds": _SECONDS,
    "analysis_seconds": _SECONDS,
    "max_connections": (1, 100_000),
    "max_streams": (0, 10_000),
    "stream_seconds": _SECONDS,
    "max_videos": (0, 1000),
    "max_video_bytes": (1, 100_000_000_000),
    "video_seconds": _SECONDS,
}
