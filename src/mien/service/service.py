"""One recognizer, loaded and warmed up behind the open port, and shared by all requests."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.requests import Request

from mien.core.errors import MienError, UnreadableImage
from mien.core.results import Result
from mien.service.batching import Batcher, Reading
from mien.service.forms import Upload, check_headers, read_upload
from mien.service.limits import Limits
from mien.service.metrics import Metrics
from mien.service.schemas import ApiError
from mien.service.workers import TOO_LONG, WorkerPool

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

Load = Callable[[], "Recognizer"]
"""Makes the recognizer; called once, in a thread."""

_JOIN_SECONDS = 0.5
"""How long threads are waited for at the end, when their clients have an answer or are gone."""

_LOGGER = logging.getLogger(__name__)
_WARM_UP_SIZE = 320


class Service:
    """The recognizer with its workers; knows no routes."""

    def __init__(self, load: Load, limits: Limits, metrics: Metrics) -> None:
        """Take what makes the recognizer; `start` calls it."""
        self.limits = limits
        self.metrics = metrics
        self.workers = WorkerPool(
            limits.workers, limits.max_waiting, limits.analysis_seconds, on_taken=metrics.places
        )
        self.recognizer: Recognizer | None = None
        self.stopping = asyncio.Event()
        self._batcher: Batcher | None = None
        self._streams = 0
        self._videos = 0
        self._load = load
        self._loading: asyncio.Task[None] | None = None

    def start(
        self, on_ready: Callable[[Recognizer], None], on_failure: Callable[[Exception], None]
    ) -> None:
        """Begin to load; calls one of the functions at the end of it."""

        async def loading() -> None:
            try:
                recognizer = await self.workers.run_untimed(functools.partial(_warm, self._load))
            except Exception as error:  # of any kind: whoever started the service handles it
                on_failure(error)
                return
            self.metrics.ready(recognizer)
            self._batcher = Batcher(recognizer, self.metrics.batched)
            self.recognizer = recognizer
            on_ready(recognizer)

        self._loading = asyncio.get_running_loop().create_task(loading())

    async def stop(self) -> None:
        """End: threads are waited for a moment, the loading of a model is not."""
        self.stopping.set()
        if self._loading is not None:
            self._loading.cancel()
        if self._batcher is not None:
            self._batcher.close()
        seconds = 0.0 if self.recognizer is None else _JOIN_SECONDS
        await asyncio.to_thread(self.workers.close, seconds)

    def ready(self) -> Recognizer:
        """Return the recognizer; raises ApiError if it is not loaded yet."""
        if self.recognizer is None:
            raise ApiError(
                503, "not ready: the model is being loaded; try again soon", code="not_ready"
            )
        return self.recognizer

    @contextmanager
    def stream_place(self) -> Iterator[None]:
        """Hold one of the streams; raises ApiError if all are taken, or the service stops."""
        if self._streams >= self.limits.max_streams:
            text = f"busy: there are {self._streams} streams, as many as may be; try again later"
            raise ApiError(503, text)
        if self.stopping.is_set():
            raise ApiError(503, "the service is stopping: try again in a moment", code="stopping")
        self._streams += 1
        self.metrics.streams(self._streams)
        try:
            yield
        finally:
            self._streams -= 1
            self.metrics.streams(self._streams)

    def video_place(self) -> Callable[[], None]:
        """Take one of the places of videos; return what gives it free again.

        Raises:
            ApiError: if all are taken.
        """
        if self._videos >= self.limits.max_videos:
            text = f"busy: {self._videos} videos are being read, as many as may be; try again later"
            raise ApiError(503, text)
        self._videos += 1
        self.metrics.videos(self._videos)

        def leave() -> None:
            self._videos -= 1
            self.metrics.videos(self._videos)

        return leave

    async def analyze_request(self, request: Request) -> Result:
        """Analyze the image of a request.

        Raises:
            ApiError: if there is no result.
            ClientDisconnect: if the client goes away.
        """
        self.ready()
        limits = self.limits
        kind = check_headers(request, limits.max_bytes)
        with self.workers.place():
            upload = await read_upload(
                request, kind, max_bytes=limits.max_bytes, seconds=limits.upload_seconds
            )
            return await self.analyze(upload, functools.partial(_disconnected, request))

    async def analyze(self, upload: Upload, gone: Callable[[], Awaitable[object]]) -> Result:
        """Analyze an image in a worker; the caller holds a place of the pool.

        Args:
            upload: the image.
            gone: returns when the client has gone away.

        Raises:
            ApiError: if there is no result.
            ClientDisconnect: if the client goes away.
        """
        try:
            reading, seconds = await self.workers.run(functools.partial(self._found, upload), gone)
        except ApiError as error:
            if error.code == TOO_LONG:
                limit, count = self.limits.analysis_seconds, self.workers.unfinished
                _LOGGER.warning("gave up an image after %g s; %d are being read", limit, count)
            raise
        result, network_seconds = await self._read(reading)
        self.metrics.analyzed(result, seconds + network_seconds)
        if result.status == "unreadable":
            # Bytes have no name: their errors begin with "image".
            raise ApiError(422, f"the file {str(result.error).removeprefix('image ')}")
        if result.status == "error":
            raise MienError(result.error)
        # It gets the name at the end, so that no error that is logged has it.
        return replace(result, source=upload.name)

    def _found(self, upload: Upload) -> tuple[Future[Reading], float]:
        """Find an image's faces and have them read, in a worker."""
        assert self.recognizer is not None
        assert self._batcher is not None
        start = time.perf_counter()
        _check_pixels(upload.content, self.limits.max_pixels)
        found = self.recognizer.find(upload.content)
        return self._batcher.submit(found), time.perf_counter() - start

    async def _read(self, reading: Future[Reading]) -> Reading:
        try:
            return await asyncio.wait_for(
                asyncio.wrap_future(reading), self.limits.analysis_seconds
            )
        except asyncio.TimeoutError as error:
            raise ApiError(503, "busy: the network was not free in time; try again") from error


def _check_pixels(content: bytes, most: int) -> None:
    """Refuse an image that has too many; what is no image is reported by its result."""
    from mien.core.images import pixel_count

    try:
        count = pixel_count(content)
    except UnreadableImage:
        return
    if count > most:
        raise ApiError(
            422,
            f"the file has {count / 1e6:.1f} megapixels: expected at most {most / 1e6:g}; "
            "send a smaller one",
        )


def _warm(load: Load) -> Recognizer:
    """Load the recognizer and use it once: what is allocated then is not for the first client."""
    import numpy as np

    from mien.core.images import FACE_SIZE

    recognizer = load()
    grey = np.full((_WARM_UP_SIZE, _WARM_UP_SIZE, 3), 127, np.uint8)
    result = recognizer.analyze_result(grey, color="rgb")
    if result.error is not None:
        raise MienError(f"the model or the detector failed at its first picture: {result.error}")
    recognizer.classify([np.full((FACE_SIZE, FACE_SIZE), 127, np.uint8)])
    return recognizer


async def _disconnected(request: Request) -> None:
    """Return when the client has gone away; its body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
