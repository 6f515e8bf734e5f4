"""One recognizer, loaded and warmed up behind the open port, and shared by all requests."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.requests import Request

from mien.core.errors import MienError, UnreadableImage
from mien.core.results import Result
from mien.service.form import Upload
from mien.service.limits import Limits
from mien.service.metrics import Metrics
from mien.service.reading import check_length, check_type, read_upload
from mien.service.refusal import Refusal
from mien.service.workers import TOO_LONG, WorkerPool

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

Load = Callable[[], "Recognizer"]
"""Makes the recognizer; called once, in a thread."""

STOP_SECONDS = 0.5
"""For so long threads are waited for at the end, when their clients have an answer or are gone."""

_LOGGER = logging.getLogger(__name__)
_WARM_UP_SIDE = 320


class Service:
    """What the routes ask; it knows no route."""

    def __init__(self, load: Load, limits: Limits, metrics: Metrics) -> None:
        """Take what makes the recognizer; `start` calls it."""
        self.limits = limits
        self.metrics = metrics
        self.workers = WorkerPool(limits.workers, limits.max_waiting, limits.analysis_seconds)
        self.recognizer: Recognizer | None = None
        self._load = load
        self._loading: asyncio.Task[None] | None = None

    def start(
        self, on_ready: Callable[[Recognizer], None], on_failure: Callable[[Exception], None]
    ) -> None:
        """Begin to load; one of the functions is called when that has come to an end."""

        async def loading() -> None:
            try:
                recognizer = await self.workers.run_unhurried(functools.partial(_warm, self._load))
            except Exception as error:  # whatever it is, who started the service is to know
                on_failure(error)
                return
            self.metrics.ready(recognizer)
            self.recognizer = recognizer
            on_ready(recognizer)

        self._loading = asyncio.get_running_loop().create_task(loading())

    async def stop(self) -> None:
        """End: threads are waited for a moment, the loading of a model is not."""
        if self._loading is not None:
            self._loading.cancel()
        seconds = 0.0 if self.recognizer is None else STOP_SECONDS
        await asyncio.to_thread(self.workers.close, seconds)

    def ready(self) -> Recognizer:
        """Return the recognizer.

        Raises:
            Refusal: if it is not there yet.
        """
        if self.recognizer is None:
            raise Refusal(
                503, "not ready: the model is being loaded; try again soon", code="not_ready"
            )
        return self.recognizer

    async def analyze(self, request: Request) -> Result:
        """Read the image that a request brings.

        Raises:
            Refusal: if there is no result.
            ClientDisconnect: if the client goes away.
        """
        recognizer = self.ready()
        content_type = check_type(request)
        check_length(request, self.limits, content_type)
        with self.workers.place():
            upload = await read_upload(request, self.limits, content_type)
            job = functools.partial(self._timed, recognizer, upload)
            result, seconds = await self._in_a_thread(job, request)
        self.metrics.analyzed(result, seconds)
        if result.status == "unreadable":
            # Bytes have no name: their errors begin with "image".
            raise Refusal(422, f"the file {str(result.error).removeprefix('image ')}")
        if result.status == "error":
            raise MienError(result.error)
        return result

    async def _in_a_thread(
        self, job: Callable[[], tuple[Result, float]], request: Request
    ) -> tuple[Result, float]:
        try:
            return await self.workers.run(job, functools.partial(_until_gone, request))
        except Refusal as refusal:
            if refusal.code == TOO_LONG:
                seconds, count = self.limits.analysis_seconds, self.workers.unfinished
                _LOGGER.warning("gave up an image after %g s; %d are being read", seconds, count)
            raise

    def _timed(self, recognizer: Recognizer, upload: Upload) -> tuple[Result, float]:
        start = time.perf_counter()
        _check_pixels(upload.content, self.limits.max_pixels)
        # It gets the name at the end, so that no error that is logged has it.
        result = replace(recognizer.analyze_result(upload.content), source=upload.name)
        return result, time.perf_counter() - start


def _check_pixels(content: bytes, most: int) -> None:
    """Refuse an image that has too many; what is no image is told by its result."""
    from mien.core.images import pixel_count

    try:
        count = pixel_count(content)
    except UnreadableImage:
        return
    if count > most:
        raise Refusal(
            422,
            f"the file has {count / 1e6:.1f} megapixels: expected at most {most / 1e6:g}; "
            "send a smaller one",
        )


def _warm(load: Load) -> Recognizer:
    """Load, and go all the way once: what is made at the first use is not made for a client."""
    import numpy as np

    from mien.core.faces import FACE_SIZE

    recognizer = load()
    grey = np.full((_WARM_UP_SIDE, _WARM_UP_SIDE, 3), 127, np.uint8)
    result = recognizer.analyze_result(grey, color="rgb")
    if result.error is not None:
        raise MienError(f"the model or the detector failed at its first picture: {result.error}")
    recognizer.classify([np.full((FACE_SIZE, FACE_SIZE), 127, np.uint8)])
    return recognizer


async def _until_gone(request: Request) -> None:
    """Return when the client has gone away; its body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
