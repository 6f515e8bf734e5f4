"""The server on a port: connections within bounds, and an end in time, whatever threads do."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from mien.core.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError
from mien.service.protocol import Protocol
from mien.service.websocket import StreamProtocol

GRACE_SECONDS = 8
"""How long requests in flight are waited for when the service ends."""

STOP_SECONDS = 10.0
"""So long after a signal the process has ended."""

_LOGGER = logging.getLogger(__name__)
_LAST_ANSWERS_SECONDS = 0.1
_CLOSING_SECONDS = 1.0  # for clients to answer that a stream is closed
_BACKLOG = 1024
# Open files of the process beside its connections: the interpreter's, the model's, /metrics'.
_OTHER_FILES = 40

# mallopt's parameters in glibc's malloc.h, and their values here.
_M_TRIM_THRESHOLD, _KEPT_BYTES = -1, 8 << 20
_M_MMAP_THRESHOLD, _BLOCK_BYTES = -3, 4 << 20


def listen(host: str, port: int) -> socket.socket:
    """Open the port.

    Args:
        host: name or address of one of this machine's interfaces.
        port: 0 for any free one.

    Raises:
        UsageError: if that is not possible.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"expected --port from 0 to 65535, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise UsageError(
            f"cannot listen on {host_and_port(host, port)}: {reason}; choose another --host or "
            "--port (--port 0: any that is free)"
        ) from error


def host_and_port(host: str, port: int) -> str:
    """Return host and port as URLs have them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def raise_file_limit(connections: int) -> int:
    """Raise the soft limit on open files for so many connections, where the system allows it.

    Returns:
        How many connections there may be; at least 1.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    possible = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    return max(1, possible - _OTHER_FILES)


def return_freed_memory() -> None:
    """Have glibc map large blocks by themselves, so that they return to the system when freed.

    By default it raises that size up to 32 MB; Pillow's blocks of 16 MB then stay in the heap of
    the thread that decoded: over a gigabyte after one image of 49 megapixels. Ordinary photos take
    no longer (`docs/evidence/serve.md`). Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def exit_now(code: int, line: str) -> NoReturn:
    """End the process at once, with a line on stderr if there is one.

    A thread inside a decoder cannot be stopped, and libraries that clean up around it may crash.
    """
    with contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more
        print(line, end="\n" if line else "", file=sys.stderr, flush=True)
    os._exit(code)


def make_server(app: FastAPI, max_connections: int) -> Server:
    """Return a server that says nothing of itself, to clients and on stderr."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws=StreamProtocol,
        ws_max_size=app.state.service.limits.max_bytes,
        ws_per_message_deflate=False,  # images are compressed; and a small frame is a small message
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,  # for what `Server` has left, which is nothing
    )
    return Server(config, max_connections, on_stop=app.state.service.stopping.set)


class Server(uvicorn.Server):
    """uvicorn's server with bounded connections and a bounded end.

    asyncio's own way to accept takes all connections, and once there is no file descriptor left
    logs thousands of lines a second.

    Attributes:
        ended_by: the signal that ended the server, or None.
    """

    def __init__(
        self, config: uvicorn.Config, max_connections: int, on_stop: Callable[[], None]
    ) -> None:
        """Take uvicorn's settings, how many connections there may be, and who hears of the end."""
        super().__init__(config)
        self._on_stop = on_stop
        self._max_connections = max_connections
        self._accepting: list[asyncio.Task[None]] = []
        self._deadline: threading.Timer | None = None
        self.ended_by: int | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        try:
            super().run(sockets)
        finally:
            if self._deadline is not None:
                self._deadline.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets=[])
        for port in sockets or []:
            port.setblocking(False)
            self._accepting.append(asyncio.ensure_future(self._accept(port)))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        for task in self._accepting:
            task.cancel()
        for port in sockets or []:
            port.close()
        await self._finish_requests(asyncio.get_running_loop().time() + GRACE_SECONDS)
        await super().shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server`; the process ends in time whatever happens then."""
        if self.ended_by is None:
            self.ended_by = sig
            code = EXIT_INTERRUPTED if sig == signal.SIGINT else EXIT_DONE
            line = "mien: ended before all requests in flight had an answer"
            self._deadline = threading.Timer(STOP_SECONDS, exit_now, (code, line))
            self._deadline.daemon = True
            self._deadline.start()
        super().handle_exit(sig, frame)

    async def _finish_requests(self, until: float) -> None:
        """Wait for the answers to requests in flight; cancel those that take longer."""
        loop, state = asyncio.get_running_loop(), self.server_state
        self._on_stop()
        for connection in list(state.connections):
            connection.shutdown()
        while state.tasks and not self.force_exit and loop.time() < until:
            await asyncio.wait(state.tasks, timeout=0.1)
        late = list(state.tasks)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_LAST_ANSWERS_SECONDS)
            await asyncio.sleep(_LAST_ANSWERS_SECONDS)  # for what they wrote to be sent
        until = min(until, loop.time() + _CLOSING_SECONDS)
        while any(isinstance(each, StreamProtocol) for each in state.connections):
            if self.force_exit or loop.time() >= until:
                break
            await asyncio.sleep(0.02)
        for connection in list(state.connections):
            if isinstance(connection, Protocol | StreamProtocol):
                connection.drop()

    async def _accept(self, port: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(port)
            except ConnectionAbortedError:
                continue
            except OSError as error:  # the system has no more files or memory
                _LOGGER.error("no connection can be accepted for now: %s", error.strerror)
                await asyncio.sleep(1)
                continue
            # asyncio does so for ports that it has opened itself. Else the body of an answer on a
            # kept connection waits 40 ms for the client to acknowledge its head.
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._make_room()
            await loop.connect_accepted_socket(self._protocol, connection)

    async def _make_room(self) -> None:
        """Wait until there may be another connection; drop the longest idle one for it."""
        connections = self.server_state.connections
        while len(connections) >= self._max_connections:
            idle = [each for each in connections if isinstance(each, Protocol) and each.idle]
            if idle:
                min(idle, key=lambda each: each.idle_since).drop()
            await asyncio.sleep(0 if idle else 0.05)

    def _protocol(self) -> Protocol:
        return Protocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
