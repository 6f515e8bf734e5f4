"""HTTP service around one `mien.Recognizer`; `mien.service.app.create_app` builds it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, fields
from typing import Any

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


def _limit(default: float | None, low: float, high: float, text: str) -> Any:
    """Declare a limit: its default, its range, and the help of its option of ``mien serve``."""
    metadata = {"range": (low, high), "help": text}
    if default is None:
        return field(default_factory=default_workers, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Limits:
    """Limits of the service; with several processes, of each of them.

    Requests for which there is no room get 503.

    Raises:
        UsageError: if a limit is out of range.
    """

    max_bytes: int = _limit(20_000_000, 1, 1_000_000_000, "refuse images of more bytes")
    # A small file can hold very many pixels, each of which takes up to 30 bytes to decode.
    max_pixels: int = _limit(
        *(50_000_000, 1, 150_000_000),  # `mien.core.images.MAX_PIXELS`
        "refuse images, and videos with frames, of more pixels, at most 150",
    )
    workers: int = _limit(None, 1, 10_000, "images analyzed at the same time")
    max_waiting: int = _limit(
        *(32, 0, 10_000),
        "images that may be uploading or queued in addition, before one is refused",
    )
    upload_seconds: float = _limit(
        30, 1e-3, 1e6, "refuse images that take longer to arrive, in seconds"
    )
    analysis_seconds: float = _limit(60, 1e-3, 1e6, "abandon images that take longer, in seconds")
    max_connections: int = _limit(
        1000, 1, 100_000, "open connections; a further one replaces the one idle for longest"
    )
    max_streams: int = _limit(16, 0, 10_000, "streams of live frames at the same time")
    stream_seconds: float = _limit(
        60, 1e-3, 1e6, "close streams without a frame for this time, in seconds"
    )
    max_videos: int = _limit(1, 0, 1000, "videos uploading or analyzed at the same time")
    # A video is written to an unnamed temporary file.
    max_video_bytes: int = _limit(200_000_000, 1, 100_000_000_000, "refuse videos of more bytes")
    video_seconds: float = _limit(
        *(600, 1e-3, 1e6),
        "abandon videos that take longer, including their upload, in seconds",
    )

    def __post_init__(self) -> None:
        """Check the ranges."""
        for limit in fields(self):
            value, (low, high) = getattr(self, limit.name), limit.metadata["range"]
            if not low <= value <= high:  # also if it is NaN
                raise UsageError(f"expected {limit.name} from {low:,} to {high:,}, got {value:,}")
