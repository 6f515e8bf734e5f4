"""A service on a port, until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

from mien.core.errors import UsageError
from mien.service.limits import Limits
from mien.service.protocol import Protocol
from mien.service.stopping import STOP_SECONDS, exit_code, leave_now

GRACE_SECONDS = 8
"""For so long requests that are in flight are waited for when the service ends."""

_LOGGER = logging.getLogger(__name__)
_LAST_WORDS_SECONDS = 0.1
_BACKLOG = 1024
# Files of the process beside its connections: the interpreter's, the model's, those of /metrics.
_OTHER_FILES = 40


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
            f"cannot listen on {shown(host, port)}: {reason}; choose another --host or --port "
            "(--port 0: any that is free)"
        ) from error


def shown(host: str, port: int) -> str:
    """Return host and port as addresses have them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def room_for_connections(wanted: int) -> int:
    """Let the process have so many connections, where the system lets it.

    Returns:
        How many there may be; at least 1.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    possible = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    return max(1, possible - _OTHER_FILES)


class Server(uvicorn.Server):
    """uvicorn's server, which never has more connections than it may, and ends in time.

    asyncio's own way to accept takes all that come, and once there is no file left for one writes
    thousands of lines a second.

    Attributes:
        ended_by: the signal that the server was ended by, or None.
    """

    def __init__(self, config: uvicorn.Config, max_connections: int) -> None:
        """Take uvicorn's settings, and how many connections there may be."""
        super().__init__(config)
        self._max_connections = max_connections
        self._accepting: list[asyncio.Task[None]] = []
        self._end: threading.Timer | None = None
        self.ended_by: int | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        try:
            super().run(sockets)
        finally:
            if self._end is not None:
                self._end.cancel()

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
        await self._finish(asyncio.get_running_loop().time() + GRACE_SECONDS)
        await super().shutdown()

    async def _finish(self, until: float) -> None:
        """Let requests in flight have their answers; those that take longer are told that."""
        loop, state = asyncio.get_running_loop(), self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        while state.tasks and not self.force_exit and loop.time() < until:
            await asyncio.wait(state.tasks, timeout=0.1)
        late = list(state.tasks)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_LAST_WORDS_SECONDS)
            await asyncio.sleep(_LAST_WORDS_SECONDS)  # for what they wrote to be sent
        for connection in list(state.connections):
            if isinstance(connection, Protocol):
                connection.drop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server`; whatever happens then, the process ends in time."""
        if self._end is None:
            self.ended_by = sig
            what = (exit_code(sig), "mien: ended before all requests in flight had an answer")
            self._end = threading.Timer(STOP_SECONDS, leave_now, what)
            self._end.daemon = True
            self._end.start()
        super().handle_exit(sig, frame)

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
            await self._make_room()
            await loop.connect_accepted_socket(self._protocol, connection)

    async def _make_room(self) -> None:
        """Wait until there may be another connection, for which the longest idle one has to go."""
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


def make_server(app: FastAPI, max_connections: int = Limits.max_connections) -> Server:
    """Return a server that says nothing of itself, to clients and on stderr."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,  # for what `Server` has left, which is nothing
    )
    return Server(config, max_connections)
