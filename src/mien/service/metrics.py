"""What Prometheus reads: requests, their times, faces, and what is in flight."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from mien import __version__
from mien.core.results import Result

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

CONTENT_TYPE = CONTENT_TYPE_LATEST
CLIENT_GONE = 499
"""The status that is counted where a client goes away before its answer; nobody is sent it."""

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the folder where several processes have their counts together.

prometheus_client looks at it when it is imported.
"""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32)
_METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")


class Metrics:
    """Counts of one service, in a registry of its own."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        """Make them.

        Args:
            paths: those that are told apart; all others count as "other", whatever clients make up.
        """
        self._paths = frozenset(paths)
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry, multiprocess_mode="livesum")
        self._requests = counter(
            "mien_requests", "Requests that were answered.", ("method", "path", "status")
        )
        self._seconds = histogram(
            "mien_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ("path",),
            buckets=_SECONDS,
        )
        self._in_flight = gauge("mien_requests_in_flight", "Requests that are being answered.")
        self._analysis = histogram(
            "mien_analysis_seconds",
            "Seconds from an image's bytes to its result, in a thread, without waiting.",
            buckets=_SECONDS,
        )
        self._batches = histogram(
            "mien_batch_images",
            "Images whose faces went through the network together.",
            buckets=_BATCHES,
        )
        self._images = counter("mien_images", "Images that were analyzed.", ("status",))
        self._faces = counter("mien_faces", "Faces that were read.", ("emotion",))
        self._streams = gauge("mien_streams", "Streams of frames.")
        self._frames = counter("mien_stream_frames", "Frames of streams.", ("status",))
        self._videos = gauge("mien_videos", "Videos that arrive or are read.")
        self._videos_ended = counter("mien_videos_ended", "Videos by their end.", ("status",))
        self._places = gauge("mien_places_taken", "Images that are read, wait or arrive.")
        self._ready = gauge("mien_ready", "1 once the model is warm.", multiprocess_mode="livemin")
        self._info = Info("mien", "What is served.", registry=self.registry)
        self._info.info({"version": __version__})
        self._shown = self.registry
        if SHARED_FOLDER in os.environ:
            # Sums over all processes; what is told of a process has no sum.
            self._shown = CollectorRegistry()
            MultiProcessCollector(self._shown)  # type: ignore[no-untyped-call]
            self._shown.register(self._info)
        else:
            ProcessCollector(registry=self.registry)

    @contextmanager
    def request_in_flight(self) -> Iterator[None]:
        """Count a request while it is answered."""
        with self._in_flight.track_inprogress():
            yield

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request that has its answer."""
        method = method if method in _METHODS else "other"
        path = path if path in self._paths else "other"
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def analyzed(self, result: Result, seconds: float) -> None:
        """Count an image and its faces."""
        self._analysis.observe(seconds)
        self._images.labels(result.status).inc()
        for face in result.faces:
            self._faces.labels(face.emotion).inc()

    def batched(self, images: int) -> None:
        """Count a batch of so many images."""
        self._batches.observe(images)

    def streams(self, count: int) -> None:
        """Say how many streams there are."""
        self._streams.set(count)

    def videos(self, count: int) -> None:
        """Say how many videos there are."""
        self._videos.set(count)

    def video_ended(self, status: str) -> None:
        """Count a video: done, gone with its client, or the code of its error."""
        self._videos_ended.labels(status).inc()

    def streamed(self, status: str) -> None:
        """Count a stream's frame: ok, or the code of its error."""
        self._frames.labels(status).inc()

    def ready(self, recognizer: Recognizer) -> None:
        """Say what is served, and that it is; all its emotions start at 0."""
        model = recognizer.model
        self._info.info(
            {
                "version": __version__,
                "model": model.name,
                "model_version": model.version,
                "model_sha256": model.sha256,
                "detector": recognizer.detector.name,
            }
        )
        for label in recognizer.labels:
            self._faces.labels(label)
        self._ready.set(1)

    def places(self, taken: int) -> None:
        """Say how many places are taken."""
        self._places.set(taken)

    def text(self) -> bytes:
        """Return all of it in Prometheus' form; with several processes, of them together."""
        return generate_latest(self._shown)
