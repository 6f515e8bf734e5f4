"""A server on loopback that answers one connection after the other, as a test says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from waiting import PATIENCE_S


@contextmanager
def serving_connections(answer: Callable[[socket.socket], None]) -> Iterator[tuple[int, list[int]]]:
    """Answer each connection, which is closed afterwards.

    Gives the port, and a list that grows by one with each connection.
    """
    connections: list[int] = []
    ended = threading.Event()

    def serve(server: socket.socket) -> None:
        while not ended.is_set():
            try:
                client, _ = server.accept()
            except TimeoutError:
                continue
            connections.append(len(connections))
            with client:
                client.settimeout(PATIENCE_S)
                answer(client)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            yield server.getsockname()[1], connections
        finally:
            ended.set()
            thread.join()
