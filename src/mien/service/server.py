"""uvicorn with bounded connections and a bounded shutdown, in one process or several."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI

from mien.core.errors import (
    EXIT_DONE,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    EXIT_MODEL,
    EXIT_USAGE,
    UsageError,
    error_reason,
)
from mien.service.metrics import METRICS_FOLDER_VARIABLE
from mien.service.protocols import HttpProtocol, WebSocketProtocol

GRACE_SECONDS = 8
"""Time that requests in flight have at shutdown."""

STOP_SECONDS = 10.0
"""Time after a signal within which the process ends."""

_LOGGER = logging.getLogger(__name__)
_LAST_ANSWERS_S = 0.1
_CLOSING_S = 1.0  # for clients to confirm that a stream is closed
_BACKLOG = 1024
_OTHER_FILES = 40  # open files besides connections: the interpreter's, the model's, /metrics'

# Parameters of mallopt from glibc's malloc.h, and their values here.
_M_TRIM_THRESHOLD, _KEPT_BYTES = -1, 8 << 20
_M_MMAP_THRESHOLD, _BLOCK_BYTES = -3, 4 << 20


# ---------------------------------------------------------------- the process and its socket
def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: name or address of a local interface.
        port: port from 0 to 65535; 0 for any free one.

    Raises:
        UsageError: if the address is invalid or taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = error_reason(error).partition(" (while ")[0].lower()
        raise UsageError(
            f"cannot listen on {host_and_port(host, port)}: {reason}; choose another --host or "
            "--port (--port 0: any that is free)"
        ) from error


def host_and_port(host: str, port: int) -> str:
    """Format host and port as in URLs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def raise_file_limit(connections: int) -> int:
    """Raise the soft limit on open files for a number of connections, as far as allowed.

    Returns:
        Number of connections that the limit allows; at least 1.
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
    """Make glibc return large freed blocks to the system; other C libraries are left alone.

    By default glibc raises its mmap threshold up to 32 MB as blocks are freed. Pillow's blocks of
    16 MB then stay in the heap of the thread that decoded: over a gigabyte after one image of 49
    megapixels. Ordinary photos take no longer with a fixed threshold (`docs/evidence/serve.md`).
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def exit_now(code: int, message: str) -> NoReturn:
    """End the process at once, after a line on stderr if there is a message.

    A thread inside a decoder cannot be stopped, and libraries that clean up around it may crash.
    """
    with suppress(OSError, ValueError):  # stderr is closed
        print(message, end="\n" if message else "", file=sys.stderr, flush=True)
    os._exit(code)


# ---------------------------------------------------------------- server
def make_server(app: FastAPI, max_connections: int) -> Server:
    """Build the server of an application made by `create_app`."""
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws=WebSocketProtocol,
        ws_max_size=app.state.service.limits.max_bytes,
        ws_per_message_deflate=False,  # images are compressed already
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,  # `Server.shutdown` has ended all requests by then
    )
    return Server(config, max_connections, on_stop=app.state.service.stopping.set)


class Server(uvicorn.Server):
    """uvicorn's server with bounded connections and a bounded shutdown.

    asyncio's own accept loop takes any number of connections, and logs thousands of lines a second
    when file descriptors run out.

    Args:
        config: uvicorn's configuration.
        max_connections: open connections; a further one replaces the one idle for longest.
        on_stop: called when the shutdown begins.

    Attributes:
        ended_by: the signal that ended the server, or None.
    """

    def __init__(
        self, config: uvicorn.Config, max_connections: int, on_stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._max_connections = max_connections
        self._accepting: list[asyncio.Task[None]] = []
        self._deadline: threading.Timer | None = None
        self.ended_by: int | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal, as `uvicorn.Server`."""
        try:
            super().run(sockets)
        finally:
            if self._deadline is not None:
                self._deadline.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and accept connections, as `uvicorn.Server`."""
        await super().startup(sockets=[])
        for listener in sockets or []:
            listener.setblocking(False)
            self._accepting.append(asyncio.ensure_future(self._accept(listener)))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish requests in flight and stop the application, as `uvicorn.Server`."""
        for task in self._accepting:
            task.cancel()
        for listener in sockets or []:
            listener.close()
        await self._finish_requests(asyncio.get_running_loop().time() + GRACE_SECONDS)
        await super().shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown after a signal; the process ends within `STOP_SECONDS` in any case."""
        if self.ended_by is None:
            self.ended_by = sig
            code = EXIT_INTERRUPTED if sig == signal.SIGINT else EXIT_DONE
            message = "mien: stopped before all requests in flight had an answer"
            self._deadline = threading.Timer(STOP_SECONDS, exit_now, (code, message))
            self._deadline.daemon = True
            self._deadline.start()
        super().handle_exit(sig, frame)

    async def _finish_requests(self, deadline: float) -> None:
        """Wait for requests in flight, then cancel them; close all connections."""
        loop, state = asyncio.get_running_loop(), self.server_state
        self._on_stop()
        for connection in list(state.connections):
            connection.shutdown()
        while state.tasks and not self.force_exit and loop.time() < deadline:
            await asyncio.wait(state.tasks, timeout=0.1)
        late = list(state.tasks)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_LAST_ANSWERS_S)
            await asyncio.sleep(_LAST_ANSWERS_S)  # lets their last bytes be sent
        deadline = min(deadline, loop.time() + _CLOSING_S)
        while any(isinstance(connection, WebSocketProtocol) for connection in state.connections):
            if self.force_exit or loop.time() >= deadline:
                break
            await asyncio.sleep(0.02)
        for connection in list(state.connections):
            if isinstance(connection, HttpProtocol | WebSocketProtocol):
                connection.drop()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except ConnectionAbortedError:
                continue
            except OSError as error:  # out of file descriptors or memory
                _LOGGER.error("no connection can be accepted for now: %s", error.strerror)
                await asyncio.sleep(1)
                continue
            # asyncio sets this only on sockets it has accepted itself. Without it the body of an
            # answer on a kept-alive connection waits 40 ms until the client acknowledges the head.
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._make_room()
            await loop.connect_accepted_socket(self._protocol, connection)

    async def _make_room(self) -> None:
        """Wait until a further connection is allowed; drop the one idle for longest."""
        connections = self.server_state.connections
        while len(connections) >= self._max_connections:
            idle = [
                connection
                for connection in connections
                if isinstance(connection, HttpProtocol) and connection.is_idle
            ]
            if idle:
                min(idle, key=lambda connection: connection.idle_since).drop()
            await asyncio.sleep(0 if idle else 0.05)

    def _protocol(self) -> HttpProtocol:
        return HttpProtocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


# ---------------------------------------------------------------- several processes
_POLL_S = 0.1
_MAX_RESTART_DELAY_S = 30.0
_STABLE_S = 10.0  # a process that lived this long did not die of its start
_FATAL_CODES = (EXIT_USAGE, EXIT_INPUT, EXIT_MODEL)
_READY = b"ready\n"
_METRICS_PREFIX = "mien-metrics-locked-"  # "mien-metrics-" alone was not locked, before 1.3
_NEW_S = 60.0


def check_processes(count: int) -> None:
    """Raise UsageError if this system has no processes that share a port."""
    if count > 1 and not hasattr(os, "fork"):
        raise UsageError(
            "--processes needs Linux or macOS: on Windows run several services on different "
            "ports behind a proxy"
        )


def supervise(
    target: Sequence[str], settings: object, fd: int, count: int, log: Callable[[str], None]
) -> int:
    """Keep worker processes running until an exception, such as that of a signal, ends them.

    The first one has to be ready before the others start. One that dies is restarted: at once if it
    had lived for a while, else after a delay that doubles.

    Args:
        target: arguments of the interpreter that run a worker, which calls `worker_settings`; the
            descriptor of the listening socket is appended.
        settings: returned by `worker_settings` there; has to be picklable.
        fd: descriptor of the listening socket.
        count: number of workers.
        log: called with a line when a worker dies.

    Returns:
        Exit code of a worker that could not start for a reason that concerns all of them.
    """
    with metrics_folder() as folder:
        command, message = [sys.executable, *target, str(fd)], pickle.dumps(settings)
        workers = [_Worker(command, message, fd, folder)]
        try:
            while True:
                for worker in workers:
                    code = worker.poll()
                    if code in _FATAL_CODES and not worker.is_ready:
                        return code
                    if code is not None:
                        worker.restart(code, log)
                while workers[0].is_ready and len(workers) < count:
                    workers.append(_Worker(command, message, fd, folder))
                time.sleep(_POLL_S)
        finally:
            _end_all(workers)


@contextmanager
def metrics_folder() -> Iterator[str]:
    """Create a temporary folder for the metrics, and remove those that killed services have left.

    A folder is locked while its service runs; one that is new may not be locked yet.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{_METRICS_PREFIX}*"):
        with suppress(OSError), _locked(path):
            if time.time() - path.stat().st_mtime > _NEW_S:
                shutil.rmtree(path)
    with tempfile.TemporaryDirectory(prefix=_METRICS_PREFIX) as folder, ExitStack() as stack:
        with suppress(OSError):  # a network folder may have no locks, so no folder is removed there
            stack.enter_context(_locked(Path(folder), wait=True))
        yield folder


@contextmanager
def _locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock a folder; raises OSError if it is a link or no folder, or in use unless ``wait``."""
    import fcntl  # not on Windows

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


class _Worker:
    """Process of the service; its stdin brings the settings, and ends when its parent dies."""

    def __init__(self, command: Sequence[str], message: bytes, fd: int, folder: str) -> None:
        self._command = command
        self._message = message
        self._fd = fd
        self._folder = folder
        self._failures = 0
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
            bufsize=0,
            pass_fds=(self._fd,),
            env={**os.environ, METRICS_FOLDER_VARIABLE: self._folder},
            start_new_session=True,  # Ctrl-C in a terminal reaches the parent only
        )
        self.is_ready = self._is_closed = False
        self._started = time.monotonic()
        self._restart_at: float | None = None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        with suppress(BrokenPipeError):  # it died at once, which `supervise` notices
            self.process.stdin.write(len(self._message).to_bytes(8, "big") + self._message)

    def poll(self) -> int | None:
        """Update `is_ready`; return the exit code, or None while the process runs."""
        assert self.process.stdout is not None
        if not self.is_ready and not self._is_closed:
            with suppress(BlockingIOError):
                self.is_ready = os.read(self.process.stdout.fileno(), len(_READY)) == _READY
        return self.process.poll()

    def restart(self, code: int, log: Callable[[str], None]) -> None:
        """Schedule the restart of a dead process; restart it when its delay is over."""
        from prometheus_client import multiprocess

        now = time.monotonic()
        if self._restart_at is None:
            pid = self.process.pid
            multiprocess.mark_process_dead(pid, self._folder)  # type: ignore[no-untyped-call]
            self.close()
            self._failures = 0 if now - self._started > _STABLE_S else self._failures + 1
            delay = 2.0 ** (self._failures - 1) if self._failures else 0.0
            delay = min(_MAX_RESTART_DELAY_S, delay)
            self._restart_at = now + delay
            cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            log(f"process {pid} died ({cause}): another one starts in {delay:g} s")
        if now >= self._restart_at:
            self._start()

    def close(self) -> None:
        """Kill the process if it still runs, and close its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        self._is_closed = True


def _end_all(workers: Sequence[_Worker]) -> None:
    """Let workers finish their requests; kill those that take too long."""
    try:
        for worker in workers:
            worker.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS + 1
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
    finally:  # also after a second signal
        for worker in workers:
            worker.close()


def worker_settings() -> Any:
    """Return the settings that `supervise` sent to this worker.

    When the parent dies, even by SIGKILL, the worker ends as by SIGTERM, and removes the folder of
    metrics that the parent has left behind.
    """
    stdin = os.fdopen(os.dup(0), "rb")
    settings = pickle.loads(stdin.read(int.from_bytes(stdin.read(8), "big")))
    folder = os.environ[METRICS_FOLDER_VARIABLE]

    def watch_parent() -> None:
        stdin.read()
        shutil.rmtree(folder, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch_parent, name="mien-parent", daemon=True).start()
    return settings


def report_ready() -> None:
    """Tell `supervise` that this worker answers requests."""
    with suppress(OSError):
        os.write(1, _READY)
