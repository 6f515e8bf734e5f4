"""Live frames over a WebSocket: one image a message, one answer each, and the newest wins.

A frame is being read, and one waits. One more takes the place of the one that waits, which is
answered as dropped: who sends faster than can be read gets the newest, and counts agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import Any, NamedTuple

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocket, WebSocketDisconnect

from mien.core.formats import json_text
from mien.core.results import Result
from mien.service.access import SUBPROTOCOL
from mien.service.forms import Upload
from mien.service.middleware import INTERNAL, REQUEST_ID, STOPPING
from mien.service.schemas import ApiError
from mien.service.service import Service
from mien.video.tracker import Smoother, Tracker, tracked

PATH = "/v1/stream"

CLOSED_AT_STOP = 1001
CLOSED_IDLE = 1000

_YES = ("1", "true", "yes")
_MIN_STEP_S = 1e-3
_LOGGER = logging.getLogger(__name__)


async def serve_stream(service: Service, socket: WebSocket) -> None:
    """Answer a WebSocket's frames until either side ends it.

    Raises:
        ApiError: before it is accepted, if it is refused.
    """
    service.ready()
    with service.stream_place():
        offered = socket.scope.get("subprotocols", [])
        # Browsers give up where they have offered some and none is chosen.
        chosen = SUBPROTOCOL if SUBPROTOCOL in offered else next(iter(offered), None)
        await socket.accept(subprotocol=chosen)
        await _Stream(service, socket, _wants_tracks(socket)).run()


def _wants_tracks(socket: WebSocket) -> bool:
    return socket.query_params.get("track", "").lower() in _YES


class _Frame(NamedTuple):
    """What a message brought, with its number and the seconds since the stream began."""

    number: int
    time_s: float
    content: bytes


class _Stream:
    """One connection: a task that takes frames, and one that has them read."""

    def __init__(self, service: Service, socket: WebSocket, track: bool) -> None:
        self._service = service
        self._socket = socket
        self._people = _People() if track else None
        self._waiting: _Frame | None = None
        self._arrived = asyncio.Event()
        self._gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ends = False

    async def run(self) -> None:
        """Answer frames until the client goes, is idle for too long, or the service stops."""
        taking = asyncio.ensure_future(self._take())
        reading = asyncio.ensure_future(self._read())
        stopping = asyncio.ensure_future(self._service.stopping.wait())
        try:
            await asyncio.wait((taking, reading, stopping), return_when=asyncio.FIRST_COMPLETED)
            taking.cancel()
            self._ends = True
            self._arrived.set()
            is_gone = taking.done() and not taking.cancelled() and not taking.result()
            if is_gone or reading.done():
                self._gone.set()
            # One that is being read is waited for: its place is free no sooner than its thread.
            with contextlib.suppress(WebSocketDisconnect, ClientDisconnect):
                await reading
                if stopping.done():
                    await self._drop_waiting("stopping", STOPPING)
                    await self._socket.close(CLOSED_AT_STOP, "the service is stopping")
                elif not is_gone:
                    seconds = self._service.limits.stream_seconds
                    await self._socket.close(CLOSED_IDLE, f"no frame came within {seconds:g} s")
        finally:
            for task in (taking, reading, stopping):
                task.cancel()

    async def _take(self) -> bool:
        """Take messages; return whether the client was idle for too long, rather than gone."""
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
            error = self._refusal(message)
            try:
                if error is not None:
                    await self._refuse(frame, error)
                    continue
                await self._drop_waiting("dropped", "a newer frame came before this one was read")
            except WebSocketDisconnect:
                return False
            self._waiting = frame
            self._arrived.set()

    def _refusal(self, message: Any) -> ApiError | None:
        content, most = message.get("bytes"), self._service.limits.max_bytes
        if content is None:
            return ApiError(400, "a text message: expected a binary one, the bytes of an image")
        if not content:
            return ApiError(400, "an empty message: expected the bytes of an image file")
        if len(content) > most:
            return ApiError(413, f"the image is too large: expected at most {most:,} bytes")
        return None

    async def _drop_waiting(self, code: str, text: str) -> None:
        frame, self._waiting = self._waiting, None
        if frame is not None:
            await self._refuse(frame, ApiError(503, text, code=code))

    async def _read(self) -> None:
        """Have the frame that waits read, and answer it, one after the other."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if self._ends:
                return
            frame, self._waiting = self._waiting, None
            if frame is None:
                continue
            try:
                result = await self._result(frame)
            except ApiError as error:
                await self._refuse(frame, error)
                continue
            self._service.metrics.streamed("ok")
            await self._socket.send_text(json_text(result.to_dict(), indent=None))

    async def _result(self, frame: _Frame) -> Result:
        """Return a frame's result; raises ApiError if there is none."""
        try:
            with self._service.workers.place():
                found = await self._service.analyze(Upload(frame.content), self._gone.wait)
        except (ApiError, ClientDisconnect):
            raise
        except Exception as error:
            request_id = self._socket.scope[REQUEST_ID]
            what = f"{PATH} failed at a frame: {type(error).__name__}: {error}"
            _LOGGER.error(
                f"{what} (request {request_id})", exc_info=error, extra={REQUEST_ID: request_id}
            )
            raise ApiError(500, INTERNAL) from error
        found = replace(found, frame=frame.number, time_s=frame.time_s)
        return found if self._people is None else self._people.identify(found)

    async def _refuse(self, frame: _Frame, error: ApiError) -> None:
        self._service.metrics.streamed(error.code)
        said = error.to_dict(self._socket.scope[REQUEST_ID])
        place = {"frame": frame.number, "time_s": round(frame.time_s, 6)}
        await self._socket.send_text(json_text({**said, **place}, indent=None))


class _People:
    """Numbers the people of a stream and smooths their scores, as videos have it."""

    def __init__(self) -> None:
        self._tracker = Tracker()
        self._smoother = Smoother()
        self._last_s = -1.0

    def identify(self, found: Result) -> Result:
        """Return a frame's result with its people's numbers and smoothed scores."""
        time_s = max(found.time_s or 0.0, self._last_s + _MIN_STEP_S)
        self._last_s = time_s
        return tracked(found, time_s, self._tracker, self._smoother)
