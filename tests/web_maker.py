"""A web server on loopback with predefined answers."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from waiting import PATIENCE_S

Answer = Callable[[bytes, socket.socket], None]
"""Takes a raw request and writes the whole reply."""


def reply(
    content: bytes, *headers: str, status: str = "200 OK", length: int | None = None
) -> Answer:
    """Return an answer with this content; ``length`` overrides its Content-Length."""
    declared = len(content) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {declared}", "Connection: close", *headers]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return lambda _, stream: stream.sendall(head + content)


def ranged(content: bytes) -> Answer:
    """Return an answer that supports range requests."""

    def answer(request: bytes, stream: socket.socket) -> None:
        found = re.search(rb"Range: bytes=(\d+)-(\d*)", request)
        if found is None:
            return reply(content, "Accept-Ranges: bytes")(request, stream)
        first, end = int(found[1]), int(found[2] or len(content) - 1) + 1
        place = f"Content-Range: bytes {first}-{end - 1}/{len(content)}"
        return reply(content[first:end], place, status="206 Partial Content")(request, stream)

    return answer


def certificate(folder: Path, host: str) -> Path:
    """Create a self-signed certificate and return its file, which includes the key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    path = folder / f"{host}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}",
         "-keyout", str(path), "-out", str(folder / "certificate")],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + (folder / "certificate").read_bytes())
    return path


class Server:
    """Serves paths until it is closed; `requests` records the requests."""

    def __init__(self, answers: dict[str, Answer], context: ssl.SSLContext | None = None) -> None:
        self.answers, self.context = answers, context
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def url(self, path: str = "/face.png", *, login: str = "", host: str = "127.0.0.1") -> str:
        scheme = "http" if self.context is None else "https"
        return f"{scheme}://{login}{host}:{self.port}{path}"

    def close(self) -> None:
        # Closing alone does not wake an accept that waits.
        with socket.create_connection(("127.0.0.1", self.port)):
            self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            try:
                with stream:
                    self._answer(stream)
            except OSError:  # whoever asked has hung up, or does not trust the certificate
                continue

    def _answer(self, stream: socket.socket) -> None:
        stream.settimeout(PATIENCE_S)
        if self.context is not None:
            stream = self.context.wrap_socket(stream, server_side=True)
        with stream:
            request = b""
            while b"\r\n\r\n" not in request:
                piece = stream.recv(4096)
                if not (request + piece)[:1].isalpha():  # it has hung up, or begins with TLS
                    return
                request += piece
            self.requests.append(request)
            path = request.split(b" ")[1].decode().partition("?")[0]
            self.answers.get(path, reply(b"", status="404 Not Found"))(request, stream)


@contextmanager
def serving(answers: dict[str, Answer], context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(answers, context)
    try:
        yield server
    finally:
        server.close()
