"""Any headers and any body of a request, through the ASGI application in this process."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fuzz.harness import check, damaged, fuzz
from mien.core import images
from mien.core.emotions import EMOTIONS
from mien.service import Limits
from mien.service.app import PATHS, create_app
from service_maker import BOUNDARY, END, form, loader, picture
from tiny_model import write_tiny_model

images.MAX_PIXELS = 1_000_000
_MODEL = write_tiny_model(Path(tempfile.mkdtemp()) / "tiny", EMOTIONS, 1.0, {})
_APP = create_app(loader(_MODEL), Limits(max_bytes=100_000, max_pixels=1_000_000, workers=1))
_LOOP = asyncio.new_event_loop()
_FORM = form(picture()) + END
_TOKENS = [
    b"\r\n", b"\n", b"--", BOUNDARY.encode(), b"Content-Disposition: form-data", b'; name="image"',
    b"; filename*=UTF-8''%ff", b"Content-Type: text/plain\r\n", b"=", b'"', b"\\", b";" * 300,
]  # fmt: skip
_TYPES = [f"multipart/form-data; boundary={BOUNDARY}".encode(), b"image/png", b"image/jpeg"]
_NAMES = [b"content-type", b"content-length", b"content-encoding", b"cookie", b"accept", b"expect"]
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(_NAMES),
        st.one_of(damaged(_TYPES, _TOKENS), st.binary(max_size=30), st.just(b"5")),
    ),
    max_size=4,
)
_METHODS = st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS", "\x7f"])


def _sent(scope: dict[str, Any], body: list[bytes]) -> list[MutableMapping[str, Any]]:
    """Return what the application sends for a request whose body comes in these pieces."""
    pieces = [{"type": "http.request", "body": piece, "more_body": True} for piece in body]
    pieces.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not pieces:  # the client waits for its answer
            await asyncio.Event().wait()
        return pieces.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    _LOOP.run_until_complete(_APP({"type": "http", **scope}, receive, send))
    return sent


def _scope(method: str, path: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {
        "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method,
        "path": path, "raw_path": path.encode("utf-8", "replace"), "query_string": b"",
        "root_path": "", "headers": headers, "client": None, "server": None,
    }  # fmt: skip


def _answered(method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    half = len(body) // 2
    scope = _scope(method, path, headers)

    def ask() -> None:
        start, *rest = _sent(scope, [body[:half], body[half:]])
        assert start["status"] != 500, rest
        if start["status"] >= 400 and method != "HEAD":
            reply = json.loads(b"".join(each["body"] for each in rest))
            assert len(reply["error"].splitlines()) == 1

    check("body", repr((method, path, headers)).encode() + b"\n\n" + body, ask)


@given(st.sampled_from(_TYPES), damaged([_FORM, picture(), picture(kind="JPEG")], _TOKENS))
def a_body(kind: bytes, body: bytes) -> None:
    _answered("POST", "/v1/analyze", [(b"content-type", kind)], body)


@given(_METHODS, st.one_of(st.sampled_from(PATHS), st.text(max_size=20)), _HEADERS)
def a_head(method: str, path: str, headers: list[tuple[bytes, bytes]]) -> None:
    _answered(method, "/" + path.lstrip("/"), headers, _FORM)


if __name__ == "__main__":
    # What it logs of each malformed body, `mien serve` does not show either.
    logging.getLogger("python_multipart").addHandler(logging.NullHandler())
    started = _APP.router.lifespan_context(_APP)
    _LOOP.run_until_complete(started.__aenter__())
    try:
        while _sent(_scope("GET", "/readyz", []), [])[0]["status"] != 200:
            time.sleep(0.1)
        fuzz(a_body, a_head)
    finally:
        _LOOP.run_until_complete(started.__aexit__(None, None, None))
