"""`/v1/stream`: live frames over a WebSocket, one image per message and one answer per image.

One frame is analyzed and one waits. A further frame replaces the waiting one, which is answered as
dropped: a client that sends too fast gets the newest frames, and the counts of both sides agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocket, WebSocketDisconnect

from mien.core.formats import json_text
from mien.core.results import Result
from mien.service.access import SUBPROTOCOL
from mien.service.errors import REQUEST_ID, ApiError, internal_error, stopping_error
from mien.service.service import Service
from mien.video.tracker import Smoother, Tracker, track_faces

PATH = "/v1/stream"

CLOSED_AT_STOP = 1001
CLOSED_IDLE = 1000

_TRUE = ("1", "true", "yes")
_MIN_STEP_S = 1e-3
_LOGGER = logging.getLogger(__name__)


async def serve_stream(service: Service, socket: WebSocket) -> None:
    """Answer the frames of a WebSocket until either side closes it.

    Raises:
        ApiError: before it is accepted, if it is refused.
    """
    service.ready()
    with service.streams:
        if service.stopping.is_set():
            raise stopping_error()
        offered = socket.scope.get("subprotocols", [])
        # Browsers give up if they have offered subprotocols and none is chosen.
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in offered else next(iter(offered), None)
        await socket.accept(subprotocol=subprotocol)
        track = socket.query_params.get("track", "").lower() in _TRUE
        await _Stream(service, socket, track=track).run()


class _Frame(NamedTuple):
    """Message with its number from 0 and its time since the stream began in seconds."""

    number: int
    time_s: float
    content: bytes


class _Stream:
    """One connection: a task that receives frames, and one that analyzes and answers them."""

    def __init__(self, service: Service, socket: WebSocket, *, track: bool) -> None:
        self._service = service
        self._socket = socket
        self._people = _People() if track else None
        self._pending: _Frame | None = None
        self._arrived = asyncio.Event()
        self._disconnected = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._is_ending = False

    async def run(self) -> None:
        """Answer frames until the client disconnects or is idle, or the service stops."""
        receiving = asyncio.ensure_future(self._receive())
        analyzing = asyncio.ensure_future(self._analyze_frames())
        stopping = asyncio.ensure_future(self._service.stopping.wait())
        try:
            await asyncio.wait(
                (receiving, analyzing, stopping), return_when=asyncio.FIRST_COMPLETED
            )
            receiving.cancel()
            self._is_ending = True
            self._arrived.set()
            is_gone = receiving.done() and not receiving.cancelled() and not receiving.result()
            if is_gone or analyzing.done():
                self._disconnected.set()
            # The frame in progress is waited for: it holds its slot as long as it has a thread.
            with contextlib.suppress(WebSocketDisconnect, ClientDisconnect):
                await analyzing
                if stopping.done():
                    await self._drop_pending(stopping_error())
                    await self._socket.close(CLOSED_AT_STOP, "the service is stopping")
                elif not is_gone:
                    seconds = self._service.limits.stream_seconds
                    await self._socket.close(CLOSED_IDLE, f"no frame came within {seconds:g} s")
        finally:
            for task in (receiving, analyzing, stopping):
                task.cancel()

    async def _receive(self) -> bool:
        """Receive messages; return True if the client was idle for too long, False if it left."""
        count, start = 0, self._loop.time()
        while True:
            try:
                message = await asyncio.wait_for(
                    self._socket.receive(), self._service.limits.stream_seconds
                )
            except asyncio.TimeoutError:
                return True
            if message["type"] == "websocket.disconnect":
                return False
            frame = _Frame(count, self._loop.time() - start, message.get("bytes") or b"")
            count += 1
            error = self._message_error(message)
            try:
                if error is not None:
                    await self._send_error(frame, error)
                    continue
                if self._pending is not None:
                    text = "a newer frame came before this one was read"
                    await self._drop_pending(ApiError(503, text, code="dropped"))
            except WebSocketDisconnect:
                return False
            self._pending = frame
            self._arrived.set()

    def _message_error(self, message: Mapping[str, Any]) -> ApiError | None:
        content, max_bytes = message.get("bytes"), self._service.limits.max_bytes
        if content is None:
            return ApiError(400, "a text message: expected a binary one, the bytes of an image")
        if not content:
            return ApiError(400, "an empty message: expected the bytes of an image file")
        if len(content) > max_bytes:
            return ApiError(413, f"the image is too large: expected at most {max_bytes:,} bytes")
        return None

    async def _drop_pending(self, error: ApiError) -> None:
        frame, self._pending = self._pending, None
        if frame is not None:
            await self._send_error(frame, error)

    async def _analyze_frames(self) -> None:
        """Analyze and answer pending frames, one at a time."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if self._is_ending:
                return
            frame, self._pending = self._pending, None
            if frame is None:
                continue
            try:
                result = await self._analyze(frame)
            except ApiError as error:
                await self._send_error(frame, error)
                continue
            self._service.metrics.frame_answered("ok")
            await self._socket.send_text(json_text(result.to_dict(), indent=None))

    async def _analyze(self, frame: _Frame) -> Result:
        """Return the result of a frame; raise ApiError if there is none."""
        try:
            with self._service.images:
                result = await self._service.analyze(frame.content, self._disconnected.wait)
        except (ApiError, ClientDisconnect):
            raise
        except Exception as error:
            request_id = self._socket.scope[REQUEST_ID]
            raise internal_error(_LOGGER, f"{PATH} failed at a frame", error, request_id) from error
        result = replace(result, frame=frame.number, time_s=frame.time_s)
        return result if self._people is None else self._people.track(result)

    async def _send_error(self, frame: _Frame, error: ApiError) -> None:
        self._service.metrics.frame_answered(error.code)
        answer = {
            **error.to_dict(self._socket.scope[REQUEST_ID]),
            "frame": frame.number,
            "time_s": round(frame.time_s, 6),
        }
        await self._socket.send_text(json_text(answer, indent=None))


class _People:
    """Tracker of the people in a stream, whose scores it smooths as in videos."""

    def __init__(self) -> None:
        self._tracker = Tracker()
        self._smoother = Smoother()
        self._last_s = -1.0

    def track(self, result: Result) -> Result:
        """Return a frame's result with track ids and smoothed scores."""
        time_s = max(result.time_s or 0.0, self._last_s + _MIN_STEP_S)
        self._last_s = time_s
        return track_faces(result, time_s, self._tracker, self._smoother)
