"""A service on a port, until it is told to end."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from mien.core.errors import UsageError
from mien.interfaces.http.protocol import Protocol

GRACE_SECONDS = 10
"""For so long requests that are in flight are waited for when the service ends."""

_BACKLOG = 1024


class Terminated(BaseException):
    """SIGTERM: someone has politely asked the service to end."""


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


def make_server(app: FastAPI) -> uvicorn.Server:
    """Return a server that says nothing of itself, to clients and on stderr."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM raise `Terminated`, in the main thread; elsewhere nobody can listen to it.

    While the server runs it hears signals itself, ends what is in flight, and raises them anew.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(*_: object) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
