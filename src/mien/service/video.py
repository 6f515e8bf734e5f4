"""`/v1/video`: an uploaded video, answered by a stream of events while it is analyzed.

A thread reads the video no faster than the client takes the events. It ends when the client
disconnects, the time is over or the service stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import math
import mmap
import re
import struct
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from typing import IO, Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mien.core.errors import InputError, MissingExtra, UnreadableImage, UsageError
from mien.inference.recognizer import Recognizer
from mien.service.errors import (
    REQUEST_ID,
    TOO_LONG,
    ApiError,
    internal_error,
    json_bytes,
    stopping_error,
)
from mien.service.service import Service
from mien.service.uploads import VIDEO, check_headers, spooled_video
from mien.video.analysis import analysis_threads, analyze_frames
from mien.video.frames import TooLarge, VideoFrame, Window, check_size
from mien.video.reader import duration_of, open_upload, read_frames, video_stream
from mien.video.summary import Summary
from mien.video.tracker import track_memory

PATH = "/v1/video"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

EVENT_SCHEMA = "mien-event/1"
"""Name and version of the JSON form of a video's events, except results."""

_NAME = "the video"  # in errors, in place of the client's file name
_QUEUED_EVENTS = 16
_PROGRESS_INTERVAL_S = 0.5
_STOP_CHECK_INTERVAL_S = 0.2
_LOGGER = logging.getLogger(__name__)

Event = dict[str, Any]


async def answer_video(service: Service, request: Request) -> Response:
    """Receive the video of a request; return the response that streams its events.

    Raises:
        ApiError: if the request is refused, or the video cannot be read at all.
        ClientDisconnect: if the client disconnects.
    """
    recognizer = service.ready()
    if importlib.util.find_spec("av") is None:
        raise ApiError(501, str(MissingExtra("video", "reading videos on this service")))
    window, limits = _window(request), service.limits
    check_headers(request, VIDEO, limits.max_video_bytes)
    deadline = time.monotonic() + limits.video_seconds
    async with AsyncExitStack() as stack:
        service.videos.acquire()
        reader = None  # once there is one, it releases the slot
        stack.callback(lambda: service.videos.release() if reader is None else None)
        file, name = await stack.enter_async_context(
            spooled_video(
                request,
                max_bytes=limits.max_video_bytes,
                idle_s=limits.upload_seconds,
                timeout_s=limits.video_seconds,
            )
        )
        reader = _ReaderThread(
            file, name, window, recognizer, limits.max_pixels, on_end=service.videos.release
        )
        reader.start()
        stack.push_async_callback(reader.stop)
        events = _events(service, reader, deadline, request.scope[REQUEST_ID])
        first = await anext(events)
        resources = stack.pop_all()
    return _EventResponse(request, first, events, resources)


def _window(request: Request) -> Window:
    """Parse the query; raise ApiError if its times are invalid."""
    values = {name: request.query_params.get(name) for name in ("start", "end", "every")}
    try:
        seconds = {name: float(text) for name, text in values.items() if text is not None}
        if not all(map(math.isfinite, seconds.values())):
            raise UsageError("expected finite numbers")
        return Window(**seconds)
    except ValueError as error:  # UsageError is one
        reason = f" ({error})" if isinstance(error, UsageError) else ""
        raise ApiError(
            400, f"start, end and every are seconds, as ?start=1&end=9.5&every=0.5{reason}"
        ) from error


# ---------------------------------------------------------------- response
class _EventResponse(StreamingResponse):
    """Streaming response of events, which closes their resources however it ends."""

    def __init__(
        self,
        request: Request,
        first: Event,
        events: AsyncGenerator[Event, None],
        resources: AsyncExitStack,
    ) -> None:
        is_sse = SSE in request.headers.get("accept", "")
        encode = _sse_bytes if is_sse else json_bytes

        async def chunks() -> AsyncIterator[bytes]:
            yield encode(first)
            try:
                async for event in events:
                    yield encode(event)
            except ApiError as error:
                yield encode({**error.to_dict(request.scope[REQUEST_ID]), "event": "error"})

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(chunks(), headers=headers, media_type=SSE if is_sse else NDJSON)
        self._events = events
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, as an ASGI application."""
        async with self._resources:
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._events.aclose()


def _sse_bytes(event: Event) -> bytes:
    data = json_bytes(event).decode()
    return f"event: {event.get('event', 'result')}\ndata: {data}\n".encode()


async def _events(
    service: Service, reader: _ReaderThread, deadline: float, request_id: str
) -> AsyncGenerator[Event, None]:
    """Yield the events of a video up to "done", and count how it ended.

    Raises:
        ApiError: if the video fails, takes too long, or the service stops.
    """
    status = "gone"  # the client has disconnected, unless it ends otherwise
    try:
        while status != "done":
            event = await _next_event(service, reader, deadline, request_id)
            if event.get("event") == "done":
                status = "done"
                await reader.stop()  # so that the client's next video is admitted
            yield event
    except ApiError as error:
        status = error.code
        raise
    finally:
        service.metrics.video_ended(status)


async def _next_event(
    service: Service, reader: _ReaderThread, deadline: float, request_id: str
) -> Event:
    waiting = asyncio.ensure_future(reader.events.get())
    stopping = asyncio.ensure_future(service.stopping.wait())
    try:
        await asyncio.wait(
            (waiting, stopping),
            timeout=max(0.0, deadline - time.monotonic()),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if stopping.done():
            raise stopping_error()
        if not waiting.done():
            raise ApiError(
                422,
                f"the video takes too long: expected {service.limits.video_seconds:g} seconds at "
                "most, including its upload; send a shorter one, or fewer frames with ?every=0.5",
                code=TOO_LONG,
            )
    finally:
        waiting.cancel()
        stopping.cancel()
    event = waiting.result()
    if isinstance(event, InputError):
        raise ApiError(422, str(event))
    if isinstance(event, Exception):
        raise internal_error(_LOGGER, f"POST {PATH} failed", event, request_id)
    return event


# ---------------------------------------------------------------- thread
class _Stopped(Exception):
    """The events are no longer needed."""


class _ReaderThread:
    """Thread that analyzes a video and puts its events into a short queue.

    Args:
        file: the video.
        name: ``source`` of the results.
        window: part of the video to analyze.
        recognizer: analyzes the frames.
        max_pixels: limit on the size of a frame.
        on_end: called in the event loop when the thread has ended.

    Attributes:
        events: the events; the exception that ended the thread, if any, comes last.
    """

    def __init__(
        self,
        file: IO[bytes],
        name: str | None,
        window: Window,
        recognizer: Recognizer,
        max_pixels: int,
        *,
        on_end: Callable[[], None],
    ) -> None:
        self.events: asyncio.Queue[Event | Exception] = asyncio.Queue(_QUEUED_EVENTS)
        self._file = file
        self._name = name
        self._window = window
        self._recognizer = recognizer
        self._max_pixels = max_pixels
        self._on_end = on_end
        self._stopped = threading.Event()
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="mien-upload", daemon=True).start()

    async def stop(self) -> None:
        """Make the thread end and wait for it, except if it is stuck in a decoder."""
        self._stopped.set()
        try:
            await asyncio.wait_for(self._ended.wait(), 1.0)
        except asyncio.TimeoutError:
            _LOGGER.warning("a video is still being decoded after its request has ended")

    def _run(self) -> None:
        with contextlib.suppress(_Stopped):
            try:
                check_mp4_header(self._file, _NAME)
                with (
                    open_upload(self._file, _NAME) as container,
                    closing(self._analyze(container)) as events,
                ):
                    for event in events:
                        self._put(event)
            except _Stopped:
                raise
            except Exception as error:
                self._put(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the request
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._ended.set()
        self._on_end()

    def _analyze(self, container: Any) -> Generator[Event, None, None]:
        """Yield progress, results and the summary of a video."""
        stream = video_stream(container, _NAME)
        codec, window = stream.codec_context, self._window
        check_size(codec.width, codec.height, _NAME, self._max_pixels)
        codec.options = {**codec.options, "max_pixels": str(self._max_pixels)}
        duration_s = duration_of(container, stream)
        if window.end is not None:
            duration_s = window.end if duration_s is None else min(duration_s, window.end)
        summary, last_progress, failure = Summary(gap_s=track_memory(window.every)), -math.inf, None
        frames = self._check_frames(
            read_frames(container, stream, _NAME, window, on_packet=self._check_stopped)
        )
        analyzed = analyze_frames(
            self._recognizer, frames, _NAME, window=window, threads=analysis_threads(None)
        )
        with closing(analyzed):
            for frame, result in ((item.frame, item.result) for item in analyzed):
                now = time.monotonic()
                if frame is not None and now - last_progress >= _PROGRESS_INTERVAL_S:
                    last_progress = now
                    yield _progress(frame.time_s, duration_s, summary.frames)
                if result is not None:
                    summary.add(result)
                    failure = result.error or failure
                    yield replace(result, source=self._name).to_dict()
        yield _done(summary, failure)

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise _Stopped

    def _check_frames(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        for frame in frames:
            if frame.area > self._max_pixels:
                raise TooLarge(f"{_NAME}: its frames have too many pixels")
            yield frame

    def _put(self, event: Event | Exception) -> None:
        """Queue an event once there is room; raise _Stopped if it is not needed."""
        if self._loop.is_closed():
            raise _Stopped
        putting = asyncio.run_coroutine_threadsafe(self.events.put(event), self._loop)
        while not self._stopped.is_set():
            try:
                return putting.result(_STOP_CHECK_INTERVAL_S)
            except FutureTimeout:
                continue
        putting.cancel()
        raise _Stopped


def _progress(time_s: float, duration_s: float | None, frames: int) -> Event:
    share = round(min(1.0, max(0.0, time_s / duration_s)), 4) if duration_s else None
    return {
        "schema": EVENT_SCHEMA,
        "event": "progress",
        "time_s": round(time_s, 6),
        "duration_s": None if duration_s is None else round(duration_s, 6),
        "share": share,
        "frames": frames,
    }


def _done(summary: Summary, error: str | None) -> Event:
    return {
        "schema": EVENT_SCHEMA,
        "event": "done",
        "frames": summary.frames,
        "faces": summary.faces,
        "people": [person.to_dict() for person in summary.people()],
        "error": error,
    }


# ---------------------------------------------------------------- MP4 headers
# A sample table with one size for all samples gives their number in 12 bytes, for each of which
# FFmpeg allocates 24: two gigabytes for a file of 1.6 KB. The tables are searched by name, not by
# the boxes around them, so that this check and FFmpeg cannot disagree on where a box ends.
_FREE_SAMPLES = 1_000_000
_BYTES_PER_SAMPLE = 3  # of the file, on average; a sample of uncompressed sound has 2 to 6
_OTHER_FORMATS = (b"\x1aE\xdf\xa3", b"RIFF", b"OggS")  # FFmpeg never reads these as MP4
# The lookaheads consume only the name: one table may begin in what looks like another one.
_STSZ = re.compile(rb"stsz(?=.{4}(?!\0{4}).{4}(.{4}))", re.DOTALL)  # nonzero size; number
_TRUN = re.compile(rb"trun(?=.{2}(.).(.{4}))", re.DOTALL)  # flags; number
_TRUN_PER_SAMPLE_FLAGS = 0x0F  # flags of fields that each sample has in the table


def check_mp4_header(file: IO[bytes], name: str) -> None:
    """Refuse an MP4 whose header claims more samples than a file of its size can hold.

    Args:
        file: non-empty file with a descriptor; other formats are accepted.
        name: subject of the error.

    Raises:
        UnreadableImage: if it claims too many samples, or its header is compressed.
    """
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] in _OTHER_FORMATS or data.find(b"trak") < 0:
            return
        spans = list(_header_spans(data))
        if any(data.find(b"cmvd", *span) >= 0 for span in spans):
            raise UnreadableImage(f"{name}: its header is compressed, which is not supported")
        if any(data.find(b"sidx", *span) >= 0 for span in spans):
            spans = [(0, len(data))]  # the index may point at a header within the media data
        claimed = sum(_claimed_samples(data, *span) for span in spans)
        if claimed > _FREE_SAMPLES + len(data) // _BYTES_PER_SAMPLE:
            raise UnreadableImage(
                f"{name}: its header is damaged: {claimed:,} samples in {len(data):,} bytes"
            )


def _header_spans(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Yield start and end of everything but media data."""
    start = position = 0
    while position + 16 <= len(data):
        size, box_type, large_size = struct.unpack_from(">I4sQ", data, position)
        size = {0: len(data) - position, 1: large_size}.get(size, size)
        if not 8 <= size <= len(data) - position:
            break
        if box_type == b"mdat":
            yield start, position
            start = position + size
        position += size
    yield start, len(data)


def _claimed_samples(data: mmap.mmap, start: int, end: int) -> int:
    """Count the samples in tables that have no bytes for each of them."""
    sizes = (int.from_bytes(match[1], "big") for match in _STSZ.finditer(data, start, end))
    runs = (
        int.from_bytes(match[2], "big")
        for match in _TRUN.finditer(data, start, end)
        if not match[1][0] & _TRUN_PER_SAMPLE_FLAGS
    )
    return sum(sizes) + sum(runs)
