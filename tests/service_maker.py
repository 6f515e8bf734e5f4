"""A real service on loopback, in a thread, and a client."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mien.core.results import Box
from mien.inference.classifier import Classifier
from mien.inference.detectors import Detection, Detector, NoDetector
from mien.inference.recognizer import Recognizer
from waiting import PATIENCE_S, until

BOUNDARY = "between-the-parts"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
PNG = {"Content-Type": "image/png"}


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass
class Service:
    """A running service: its port and its ASGI application."""

    port: int
    app: Any

    def ask(
        self,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        method: str = "",
    ) -> Reply:
        """Send a request; an iterator as the body is sent in chunks, without a length."""
        return ask(self.port, path, body, headers, method)

    def analyze(self, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
        return self.ask("/v1/analyze", body, headers or PNG, "POST")

    def metric(self, line: str) -> float:
        """The value of a metric with its labels; 0 if there is none."""
        for each in self.ask("/metrics").text.splitlines():
            if each.startswith(f"{line} "):
                return float(each.rpartition(" ")[2])
        return 0.0

    def raw(self, request: bytes) -> bytes:
        """Send raw bytes; return everything received until the connection is closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as stream:
            stream.sendall(request)
            return b"".join(iter(lambda: stream.recv(65536), b""))


def ask(
    port: int,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    method: str = "",
) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method or "GET", path, body, dict(headers or {}))
        answer = connection.getresponse()
        return Reply(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


def is_dropped(stream: socket.socket, sent: bytes) -> bool:
    """Send bytes; return True if the service has dropped the connection."""
    try:
        stream.sendall(sent)
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return False


def form(
    content: bytes, *, field: str = "image", name: str | None = "a.png", kind: str = "image/png"
) -> bytes:
    """One part of a form."""
    file = "" if name is None else f'; filename="{name}"'
    typed = f"Content-Type: {kind}\r\n" if kind else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"{file}\r\n{typed}\r\n'
    return head.encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def picture(seed: int = 0, *, kind: str = "PNG", size: tuple[int, int] = (60, 50)) -> bytes:
    """A file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


class Gated:
    """A detector that returns the whole image as a face, once its gate is open."""

    name = "gated"
    crop_scale = None

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.begun = 0

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        self.begun += 1
        assert self.gate.wait(PATIENCE_S)
        return [Detection(Box(0, 0, image.shape[1], image.shape[0]), 1.0)]


def open_at_shutdown(service: Service, gated: Gated) -> None:
    """Open a gate as soon as the service has begun to shut down."""

    def wait() -> None:
        until(service.app.state.service.stopping.is_set)
        gated.gate.set()

    threading.Thread(target=wait).start()


def loader(model: Path, detector: Detector | None = None) -> Callable[[], Recognizer]:
    """A function that loads a model, with a detector if one is given."""

    def load() -> Recognizer:
        classifier = Classifier.open(model, threads=1, labels=None)
        return Recognizer(classifier, detector or NoDetector())

    return load


@contextmanager
def running(
    load: Callable[[], Recognizer],
    *,
    ready: bool = True,
    max_connections: int = 1000,
    **options: Any,
) -> Iterator[Service]:
    """Run a service during the block.

    Args:
        load: loads the recognizer.
        ready: wait until it is loaded.
        max_connections: argument of `make_server`.
        options: arguments of `create_app`.
    """
    from mien.service.app import create_app
    from mien.service.server import listen, make_server

    app = create_app(load, **options)
    server = make_server(app, max_connections)
    with listen("127.0.0.1", 0) as port:
        service = Service(port.getsockname()[1], app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [port]})
        thread.start()
        try:
            if ready:
                until(lambda: service.ask("/readyz").status == 200)
            yield service
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
    assert not thread.is_alive()
