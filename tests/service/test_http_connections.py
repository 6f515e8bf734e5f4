"""Limits on the number of connections, and on waiting for their clients."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from service_maker import Gated, Service, is_dropped, loader, picture, running
from waiting import PATIENCE_S, until

pytest.importorskip("fastapi")

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def connected(service: Service, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        streams = []
        for _ in range(count):
            stream = socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S)
            stream.sendall(sent)
            streams.append(stack.enter_context(stream))
        yield streams


def ended(stream: socket.socket) -> bool:
    """Whether the service has closed a connection."""
    stream.setblocking(False)
    try:
        while stream.recv(65536):
            pass
        return True
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("sent", [b"", GET[:20], GET])
def test_the_connection_idle_for_longest_is_replaced(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    from mien.service import protocols

    monkeypatch.setattr(protocols, "CLIENT_SECONDS", 10 * PATIENCE_S)  # none ends by itself
    with (
        running(loader(tiny_model), max_connections=5) as service,
        connected(service, 20, sent) as streams,
    ):
        if sent == GET:
            until(lambda: streams[-1].recv(12) == b"HTTP/1.1 200")
        assert [service.ask("/healthz").status for _ in range(10)] == 10 * [200]
        assert all(ended(stream) for stream in streams[:14])


def test_connections_that_wait_for_an_answer_are_not_replaced(
    tiny_model: Path, gated: Gated
) -> None:
    with (
        running(loader(tiny_model, gated), max_connections=2) as service,
        ThreadPoolExecutor(1) as clients,
    ):
        gated.gate.clear()
        begun = gated.begun
        served = clients.submit(service.analyze, picture())
        until(lambda: gated.begun == begun + 1)
        with connected(service, 10):
            assert service.ask("/healthz").status == 200
        gated.gate.set()
        assert served.result().status == 200


def test_connections_wait_while_all_others_are_busy(tiny_model: Path, gated: Gated) -> None:
    with (
        running(loader(tiny_model, gated), max_connections=1) as service,
        ThreadPoolExecutor(2) as clients,
    ):
        gated.gate.clear()
        begun = gated.begun
        served = clients.submit(service.analyze, picture())
        until(lambda: gated.begun == begun + 1)
        waiting = clients.submit(service.ask, "/healthz")
        time.sleep(0.2)
        assert not waiting.done()
        gated.gate.set()
        assert (served.result().status, waiting.result().status) == (200, 200)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HT",
        GET[:-2],
        GET + GET[:20],
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nmore",
        b"nonsense\r\n\r\n",
    ],
)
def test_connections_without_a_complete_request_time_out(
    service: Service, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    from mien.service import protocols

    def is_over() -> bool:
        if sent.endswith(b"more"):  # occasional bytes do not extend the time
            with suppress(OSError):
                stream.send(b"x")
        return ended(stream)

    # uvicorn's own timeout comes later.
    monkeypatch.setattr(protocols.HttpProtocol, "timeout_keep_alive_handler", lambda _: None)
    with monkeypatch.context() as patch:
        patch.setattr(protocols, "CLIENT_SECONDS", 0.5)
        with connected(service, 1) as (stream,):
            with suppress(ConnectionError):  # a busy machine comes too late with it
                stream.sendall(sent)
            until(is_over)
    assert service.ask("/healthz").status == 200


def test_clients_that_read_no_answer_are_dropped(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.service import protocols

    request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with monkeypatch.context() as patch, connected(service, 1) as (stream,):
        patch.setattr(protocols, "CLIENT_SECONDS", 0.5)
        stream.settimeout(0.3)
        until(lambda: is_dropped(stream, 100 * request))
    until(lambda: service.metric("mien_requests_in_flight") == 1)  # this one


def test_the_limit_on_open_files_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    from mien.service import server as module

    infinite = resource.RLIM_INFINITY
    requests: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: requests.append(limits))
    for limits, wanted, expected, request in (
        ((1024, 4096), 500, 500, None),
        ((1024, 4096), 1000, 1000, (1040, 4096)),
        ((1024, infinite), 5000, 5000, (5040, infinite)),
        ((100, 100), 1000, 60, (100, 100)),
        ((20, 20), 1000, 1, (20, 20)),
        ((infinite, infinite), 1000, 1000, None),
    ):
        requests.clear()
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=limits: limits)
        assert module.raise_file_limit(wanted) == expected
        assert requests == ([] if request is None else [request])


def test_the_process_ends_in_time_after_a_signal(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.service import server as module
    from mien.service.app import create_app

    left: list[tuple[int, str]] = []
    monkeypatch.setattr(module, "STOP_SECONDS", 0.05)
    monkeypatch.setattr(module, "exit_now", lambda *arguments: left.append(arguments))
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        left.clear()
        module.make_server(create_app(loader(tiny_model)), 10).handle_exit(number, None)
        until(lambda: bool(left))
        assert left == [(code, "mien: stopped before all requests in flight had an answer")]


def test_accepted_sockets_have_tcp_nodelay(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.service.protocols import HttpProtocol

    usual = HttpProtocol.connection_made
    options: list[int] = []

    def connection_made(self: HttpProtocol, transport: Any) -> None:
        accepted = transport.get_extra_info("socket")
        options.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        usual(self, transport)

    monkeypatch.setattr(HttpProtocol, "connection_made", connection_made)
    assert service.ask("/healthz").status == 200
    assert options
    assert all(options)
