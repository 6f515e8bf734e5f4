"""The recognizer shared by all requests: loading, warm-up and analysis."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.requests import Request

from mien.core.errors import MienError, UnreadableImage
from mien.core.results import Result
from mien.service import Limits
from mien.service.errors import TOO_LONG, ApiError
from mien.service.metrics import Metrics
from mien.service.uploads import IMAGE, check_headers, read_image
from mien.service.workers import Batcher, Classified, Slots, WorkerPool

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

Load = Callable[[], "Recognizer"]
"""Loads the recognizer; called once, in a thread."""

_JOIN_S = 0.5  # wait for threads at shutdown, when all clients have an answer or are gone
_WARM_UP_SIZE = 320  # pixels

_LOGGER = logging.getLogger(__name__)


class Service:
    """Recognizer with its worker threads; independent of routes.

    Args:
        load: loads the recognizer when the service starts.
        limits: sizes, times and concurrency.
        metrics: receives the counts.

    Attributes:
        images: slots of images that are uploading, waiting or analyzed.
        streams: slots of open streams.
        videos: slots of videos that are uploading or analyzed.
        workers: threads for decoding and detection.
        recognizer: None until it is loaded and warmed up.
        stopping: set when the server begins to shut down.
    """

    def __init__(self, load: Load, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self.images = Slots(
            limits.workers + limits.max_waiting,
            "images are being analyzed or wait",
            metrics.images_in_progress,
        )
        self.streams = Slots(limits.max_streams, "streams are open", metrics.streams)
        self.videos = Slots(limits.max_videos, "videos are in progress", metrics.videos)
        self.workers = WorkerPool(limits.workers, limits.analysis_seconds)
        self.recognizer: Recognizer | None = None
        self.stopping = asyncio.Event()
        self._batcher: Batcher | None = None
        self._load = load
        self._loading: asyncio.Task[None] | None = None

    def start(
        self, on_ready: Callable[[Recognizer], None], on_failure: Callable[[Exception], None]
    ) -> None:
        """Start loading the recognizer; one of the callbacks is called when that ends."""

        async def load() -> None:
            try:
                recognizer = await self.workers.run_untimed(
                    functools.partial(_load_and_warm_up, self._load)
                )
            except Exception as error:
                on_failure(error)
                return
            self.metrics.ready(recognizer)
            self._batcher = Batcher(recognizer, self.metrics.batch_images.observe)
            self.recognizer = recognizer
            on_ready(recognizer)

        self._loading = asyncio.get_running_loop().create_task(load())

    async def stop(self) -> None:
        """Stop; running jobs are waited for briefly, the loading of a model is not."""
        self.stopping.set()
        if self._loading is not None:
            self._loading.cancel()
        if self._batcher is not None:
            self._batcher.close()
        timeout_s = 0.0 if self.recognizer is None else _JOIN_S
        await asyncio.to_thread(self.workers.close, timeout_s)

    def ready(self) -> Recognizer:
        """Return the recognizer; raise ApiError if it is not loaded yet."""
        if self.recognizer is None:
            raise ApiError(
                503, "not ready: the model is being loaded; try again soon", code="not_ready"
            )
        return self.recognizer

    async def analyze_request(self, request: Request) -> Result:
        """Analyze the image of a request.

        Raises:
            ApiError: if there is no result.
            ClientDisconnect: if the client disconnects.
        """
        self.ready()
        limits = self.limits
        check_headers(request, IMAGE, limits.max_bytes)
        with self.images:
            content, name = await read_image(
                request, max_bytes=limits.max_bytes, timeout_s=limits.upload_seconds
            )
            result = await self.analyze(content, functools.partial(_disconnected, request))
        # The client's file name is added last, so that no logged error contains it.
        return replace(result, source=name)

    async def analyze(
        self, content: bytes, disconnected: Callable[[], Awaitable[object]]
    ) -> Result:
        """Analyze an image in a worker thread; the caller holds a slot of `images`.

        Args:
            content: encoded image.
            disconnected: returns once the client has disconnected.

        Raises:
            ApiError: if there is no result.
            ClientDisconnect: if the client disconnects.
        """
        try:
            future, seconds = await self.workers.run(
                functools.partial(self._find_faces, content), disconnected
            )
        except ApiError as error:
            if error.code == TOO_LONG:
                limit, running = self.limits.analysis_seconds, self.workers.running
                _LOGGER.warning("abandoned an image after %g s; %d in progress", limit, running)
            raise
        try:
            classified = await asyncio.wait_for(
                asyncio.wrap_future(future), self.limits.analysis_seconds
            )
        except asyncio.TimeoutError as error:
            raise ApiError(503, "busy: the network was not free in time; try again") from error
        result = classified.result
        self.metrics.analyzed(result, seconds + classified.network_s)
        if result.status == "unreadable":
            # Errors about bytes, which have no name, begin with "image".
            raise ApiError(422, f"the file {str(result.error).removeprefix('image ')}")
        if result.status == "error":
            raise MienError(result.error)
        return result

    def _find_faces(self, content: bytes) -> tuple[Future[Classified], float]:
        """Decode an image, find its faces and queue them for the network, in a worker thread.

        Returns:
            The result's future, and the time that decoding and detection took in seconds.
        """
        assert self.recognizer is not None
        assert self._batcher is not None
        start = time.perf_counter()
        _check_pixels(content, self.limits.max_pixels)
        faces = self.recognizer.find(content)
        return self._batcher.submit(faces), time.perf_counter() - start


def _check_pixels(content: bytes, max_pixels: int) -> None:
    """Raise ApiError for an image with too many pixels; its result reports any other problem."""
    from mien.core.images import pixel_count

    try:
        count = pixel_count(content)
    except UnreadableImage:
        return
    if count > max_pixels:
        raise ApiError(
            422,
            f"the file has {count / 1e6:.1f} megapixels: expected at most {max_pixels / 1e6:g}; "
            "send a smaller one",
        )


def _load_and_warm_up(load: Load) -> Recognizer:
    """Load the recognizer and use it once, so that the first client does not wait for allocation.

    Raises:
        MienError: if the model or the detector fails.
    """
    import numpy as np

    from mien.core.images import FACE_SIZE

    recognizer = load()
    grey = np.full((_WARM_UP_SIZE, _WARM_UP_SIZE, 3), 127, np.uint8)
    result = recognizer.analyze_result(grey, color="rgb")
    if result.error is not None:
        raise MienError(f"the model or the detector failed at its first image: {result.error}")
    recognizer.classify([np.full((FACE_SIZE, FACE_SIZE), 127, np.uint8)])
    return recognizer


async def _disconnected(request: Request) -> None:
    """Return once the client has disconnected; the request's body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
