"""`/v1/video`: a video is uploaded, and answered as a stream of events while it is analyzed.

A thread reads it, no faster than the client takes the events, and ends when the client has gone,
the time is over or the service stops. No path or address is ever taken from a client.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import TimeoutError as TimedOut
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, replace
from typing import IO, Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mien.core.errors import InputError, MissingExtra, UsageError
from mien.inference.recognizer import Recognizer
from mien.service.forms import VIDEO, check_headers, spooled_upload
from mien.service.middleware import INTERNAL, REQUEST_ID, STOPPING
from mien.service.mp4_claims import check_claims
from mien.service.schemas import EVENT_SCHEMA, ApiError, json_bytes
from mien.service.service import Service
from mien.service.workers import TOO_LONG
from mien.video.analysis import follow, readers_for
from mien.video.frames import TooLarge, VideoFrame, check_size
from mien.video.reader import duration_of, frames_in, opened_upload, picture_stream
from mien.video.summary import Summary
from mien.video.times import Window
from mien.video.tracker import memory_for

PATH = "/v1/video"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

_NAME = "the video"
_QUEUE = 16  # events that wait for the client
_PROGRESS_SECONDS = 0.5
_LOOK_SECONDS = 0.2
_LOGGER = logging.getLogger(__name__)

Event = dict[str, Any]


async def answer_video(service: Service, request: Request) -> Response:
    """Take the video of a request; return what streams its events.

    Raises:
        ApiError: if there is nothing to stream: a refusal, or no video that can be read.
        ClientDisconnect: if the client goes away.
    """
    recognizer = service.ready()
    if importlib.util.find_spec("av") is None:
        raise ApiError(501, str(MissingExtra("video", "reading videos on this service")))
    window, limits = _window(request), service.limits
    kind = check_headers(request, limits.max_video_bytes, VIDEO)
    deadline = time.monotonic() + limits.video_seconds
    async with AsyncExitStack() as stack:
        leave, work = service.video_place(), None
        stack.callback(lambda: leave() if work is None else None)
        file, name = await stack.enter_async_context(
            spooled_upload(
                request,
                kind,
                max_bytes=limits.max_video_bytes,
                patience=limits.upload_seconds,
                seconds=limits.video_seconds,
            )
        )
        work = _Work(file, name, window, recognizer, limits.max_pixels)
        events = _Events(service, work, deadline, request.scope[REQUEST_ID])
        work.when_ended(leave)
        work.start()
        stack.push_async_callback(work.stop)
        first = await events.first()
        kept = stack.pop_all()
    is_sse = SSE in request.headers.get("accept", "")
    return _EventResponse(events.all(first), kept, is_sse=is_sse)


def _window(request: Request) -> Window:
    """Return which moments a query asks for; raises ApiError if it cannot be."""
    given = {name: request.query_params.get(name) for name in ("start", "end", "every")}
    try:
        numbers = {name: float(text) for name, text in given.items() if text is not None}
        if not all(map(math.isfinite, numbers.values())):
            raise UsageError("expected finite numbers")
        return Window(**numbers)
    except ValueError as error:  # UsageError is one
        reason = f" ({error})" if isinstance(error, UsageError) else ""
        raise ApiError(
            400, f"start, end and every are seconds, as ?start=1&end=9.5&every=0.5{reason}"
        ) from error


class _EventResponse(StreamingResponse):
    """Events as they come; what they are made of is let go of at their end, whatever that is."""

    def __init__(
        self, events: AsyncGenerator[Event, None], kept: AsyncExitStack, *, is_sse: bool
    ) -> None:
        write = _sse if is_sse else json_bytes
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        lines = (write(event) async for event in events)
        super().__init__(lines, headers=headers, media_type=SSE if is_sse else NDJSON)
        self._events = events
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        async with self._kept:
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._events.aclose()


def _sse(event: Event) -> bytes:
    data = json_bytes(event).decode()
    return f"event: {event.get('event', 'result')}\ndata: {data}\n".encode()


# ---------------------------------------------------------------- events
class _Events:
    """The events of a video as the client gets them, the last of which says how it ended."""

    def __init__(self, service: Service, work: _Work, deadline: float, request_id: str) -> None:
        self._service = service
        self._work = work
        self._deadline = deadline
        self._request_id = request_id

    async def first(self) -> Event:
        """Return the first event; raises ApiError if the video cannot be read at all."""
        try:
            return await self._next()
        except ApiError as error:
            self._service.metrics.video_ended(error.code)
            raise

    async def all(self, first: Event) -> AsyncGenerator[Event, None]:
        """Yield all events."""
        status, event = "gone", first
        try:
            while True:
                if event.get("event") == "done":
                    status = "done"
                    await self._work.stop()  # its place is free before the client hears of the end
                yield event
                if status == "done":
                    return
                event = await self._next()
        except ApiError as error:
            status = error.code
            yield {**error.to_dict(self._request_id), "event": "error"}
        finally:
            self._service.metrics.video_ended(status)

    async def _next(self) -> Event:
        """Wait for an event; raises ApiError if there is none in time, or the work failed."""
        following = asyncio.ensure_future(self._work.events.get())
        stopping = asyncio.ensure_future(self._service.stopping.wait())
        try:
            await asyncio.wait(
                (following, stopping),
                timeout=max(0.0, self._deadline - time.monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if stopping.done():
                raise ApiError(503, STOPPING, code="stopping")
            if not following.done():
                seconds = self._service.limits.video_seconds
                raise ApiError(
                    422,
                    f"the video takes too long: expected {seconds:g} seconds at most, its upload "
                    "included; send a shorter one, or ask for fewer frames by ?every=0.5",
                    code=TOO_LONG,
                )
        finally:
            following.cancel()
            stopping.cancel()
        event = following.result()
        if isinstance(event, Exception):
            raise self._error_of(event)
        return event

    def _error_of(self, error: Exception) -> ApiError:
        if isinstance(error, InputError):
            return ApiError(422, str(error))
        request_id = self._request_id
        what = f"POST {PATH} failed: {type(error).__name__}: {error} (request {request_id})"
        _LOGGER.error(what, exc_info=error, extra={REQUEST_ID: request_id})
        return ApiError(500, INTERNAL.replace("image", "video"))


# ---------------------------------------------------------------- the thread
class _Stopped(Exception):
    """Nobody waits for the events any more."""


@dataclass
class _Progress:
    """How far a video has been read."""

    duration_s: float | None
    told: float = -math.inf

    def event(self, time_s: float, frames: int) -> Event | None:
        """Return what to say of it, None if that was done a moment ago."""
        now = time.monotonic()
        if now - self.told < _PROGRESS_SECONDS:
            return None
        self.told = now
        duration = self.duration_s
        return {
            "schema": EVENT_SCHEMA,
            "event": "progress",
            "time_s": round(time_s, 6),
            "duration_s": None if duration is None else round(duration, 6),
            "share": None if not duration else round(min(1.0, max(0.0, time_s / duration)), 4),
            "frames": frames,
        }


class _Work:
    """A thread that reads a video and puts its events into a queue, which is not long.

    Attributes:
        events: they, and at the end what was raised, if anything was.
    """

    def __init__(
        self,
        file: IO[bytes],
        name: str | None,
        window: Window,
        recognizer: Recognizer,
        max_pixels: int,
    ) -> None:
        self.events: asyncio.Queue[Event | Exception] = asyncio.Queue(_QUEUE)
        self._file = file
        self._name = name
        self._window = window
        self._recognizer = recognizer
        self._max_pixels = max_pixels
        self._stopped = threading.Event()
        self._ended = asyncio.Event()
        self._at_end: list[Callable[[], None]] = []
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._work, name="mien-upload", daemon=True).start()

    def when_ended(self, function: Callable[[], None]) -> None:
        """Call a function when the thread has ended, from the event loop."""
        if self._ended.is_set():
            function()
        else:
            self._at_end.append(function)

    async def stop(self) -> None:
        """Have the thread end, and wait for it; one that is stuck in a decoder is left alone."""
        self._stopped.set()
        try:
            await asyncio.wait_for(self._ended.wait(), 1.0)
        except asyncio.TimeoutError:
            _LOGGER.warning("a video is being read still, which nobody waits for")

    def _work(self) -> None:
        with contextlib.suppress(_Stopped):
            try:
                check_claims(self._file, _NAME)
                with (
                    opened_upload(self._file, _NAME) as container,
                    closing(self._found(container)) as events,
                ):
                    for event in events:
                        self._put(event)
            except _Stopped:
                raise
            except Exception as error:  # told where the events are awaited
                self._put(error)
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._ended.set()
        for function in self._at_end:
            function()

    def _found(self, container: Any) -> Generator[Event, None, None]:
        stream = picture_stream(container, _NAME)
        codec, window = stream.codec_context, self._window
        check_size(codec.width, codec.height, _NAME, self._max_pixels)
        codec.options = {**codec.options, "max_pixels": str(self._max_pixels)}
        duration = duration_of(container, stream)
        if window.end is not None:
            duration = window.end if duration is None else min(duration, window.end)
        progress, summary = _Progress(duration), Summary(gap_s=memory_for(window.every))
        frames = self._small(
            frames_in(container, stream, _NAME, window, on_packet=self._check_wanted)
        )
        moments = follow(self._recognizer, frames, _NAME, window=window, readers=readers_for(None))
        assert isinstance(moments, Generator)
        error: str | None = None
        with closing(moments):
            for frame, result in ((moment.frame, moment.result) for moment in moments):
                told = progress.event(frame.time_s, summary.frames) if frame else None
                if told is not None:
                    yield told
                if result is not None:
                    summary.add(result)
                    error = result.error or error
                    yield replace(result, source=self._name).to_dict()
        yield _done(summary, error)

    def _check_wanted(self) -> None:
        if self._stopped.is_set():
            raise _Stopped

    def _small(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        for frame in frames:
            if frame.area > self._max_pixels:
                raise TooLarge(f"{_NAME}: its frames have too many pixels")
            yield frame

    def _put(self, event: Event | Exception) -> None:
        """Put an event into the queue once there is room; raises _Stopped if nobody waits."""
        if self._loop.is_closed():
            raise _Stopped
        putting = asyncio.run_coroutine_threadsafe(self.events.put(event), self._loop)
        while not self._stopped.is_set():
            try:
                return putting.result(_LOOK_SECONDS)
            except TimedOut:
                continue
        putting.cancel()
        raise _Stopped


def _done(summary: Summary, error: str | None) -> Event:
    return {
        "schema": EVENT_SCHEMA,
        "event": "done",
        "frames": summary.frames,
        "faces": summary.faces,
        "people": [person.to_dict() for person in summary.people()],
        "error": error,
    }
