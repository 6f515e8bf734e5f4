"""Prometheus metrics: requests, times, images and faces, and what is in progress."""

from __future__ import annotations

import os
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
"""Status counted, but never sent, if a client disconnects before its answer."""

METRICS_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of the folder with the counts of several processes.

prometheus_client reads it when it is imported.
"""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32)
_METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")


class Metrics:
    """Metrics of one service, in a separate registry.

    Args:
        paths: label values of ``path``; every other path counts as "other", so that clients cannot
            make up labels.

    Attributes:
        requests_in_flight: gauge of requests in progress.
        images_in_progress: gauge of images uploading, waiting or analyzed.
        batch_images: histogram of images per batch of the network.
        streams: gauge of open streams.
        videos: gauge of videos in progress.
    """

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = frozenset(paths)
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry, multiprocess_mode="livesum")
        self._requests = counter(
            "mien_requests", "Answered requests.", ("method", "path", "status")
        )
        self._request_seconds = histogram(
            "mien_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ("path",),
            buckets=_SECONDS,
        )
        self.requests_in_flight = gauge("mien_requests_in_flight", "Requests in progress.")
        self._analysis_seconds = histogram(
            "mien_analysis_seconds",
            "Seconds from an image's bytes to its result, without waiting.",
            buckets=_SECONDS,
        )
        self.batch_images = histogram(
            "mien_batch_images",
            "Images whose faces went through the network together.",
            buckets=_BATCHES,
        )
        self._images = counter("mien_images", "Analyzed images.", ("status",))
        self._faces = counter("mien_faces", "Classified faces.", ("emotion",))
        self.streams = gauge("mien_streams", "Open streams.")
        self._frames = counter("mien_stream_frames", "Frames of streams.", ("status",))
        self.videos = gauge("mien_videos", "Videos uploading or analyzed.")
        self._videos_ended = counter("mien_videos_ended", "Videos by outcome.", ("status",))
        self.images_in_progress = gauge(
            "mien_places_taken", "Images uploading, waiting or analyzed."
        )
        self._ready = gauge("mien_ready", "1 once the model is warm.", multiprocess_mode="livemin")
        self._info = Info("mien", "Versions and model.", registry=self.registry)
        self._info.info({"version": __version__})
        self._exported = self.registry
        if METRICS_FOLDER_VARIABLE in os.environ:
            # Sums over all processes; memory and CPU time of a process have no sum here.
            self._exported = CollectorRegistry()
            MultiProcessCollector(self._exported)  # type: ignore[no-untyped-call]
            self._exported.register(self._info)
        else:
            ProcessCollector(registry=self.registry)

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        method = method if method in _METHODS else "other"
        path = path if path in self._paths else "other"
        self._requests.labels(method, path, str(status)).inc()
        self._request_seconds.labels(path).observe(seconds)

    def analyzed(self, result: Result, seconds: float) -> None:
        """Count an image and its faces."""
        self._analysis_seconds.observe(seconds)
        self._images.labels(result.status).inc()
        for face in result.faces:
            self._faces.labels(face.emotion).inc()

    def frame_answered(self, status: str) -> None:
        """Count a frame of a stream: "ok", or the code of its error."""
        self._frames.labels(status).inc()

    def video_ended(self, status: str) -> None:
        """Count a video: "done", "gone" if its client disconnected, or the code of its error."""
        self._videos_ended.labels(status).inc()

    def ready(self, recognizer: Recognizer) -> None:
        """Export the model and the detector, and every emotion at 0."""
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

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format; of all processes if there are several."""
        return generate_latest(self._exported)
