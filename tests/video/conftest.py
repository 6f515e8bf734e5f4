"""A detector that finds what is drawn, and a server of videos whose host counts as public."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from mien.api import Recognizer
from mien.core import web_address
from mien.core.results import Box
from mien.inference.classifier import Classifier
from mien.inference.detectors import Detection
from video_maker import even_times, write_video
from web_maker import Answer, Server, ranged, reply, serving


class RedSquares:
    """Takes every patch of strong red for a face."""

    name = "red"
    crop_scale = None

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        """See `Detector.detect`."""
        wide = image.astype(np.int16)
        red = (wide[..., 0] > 150) & (wide[..., 1] < 110) & (wide[..., 2] < 110)
        count, _, stats, _ = cv2.connectedComponentsWithStats(red.astype(np.uint8))
        boxes = [Box(*(int(value) for value in row[:4])) for row in stats[1:count] if row[4] > 60]
        return [Detection(box, 0.9) for box in sorted(boxes, key=lambda box: box.x)]


@pytest.fixture(scope="session")
def red_recognizer(tiny_model: Path) -> Recognizer:
    """A real recognizer over a tiny model, whose faces are red squares."""
    return Recognizer(Classifier.open(tiny_model), RedSquares())


@pytest.fixture
def public_web(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Names and their addresses: the one of the test's own server alone is public."""
    addresses = {"films.example": "127.0.0.1", "inside.example": "10.0.0.7"}

    def known(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        address = addresses.get(host, host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", known)
    monkeypatch.setattr(web_address, "is_public", lambda address: str(address) == "127.0.0.1")
    return addresses


@pytest.fixture(scope="module")
def film() -> bytes:
    content = io.BytesIO()
    write_video(content, even_times(50), form="mp4", sound=True)
    return content.getvalue()


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A playlist, /live.m3u8, and its segments /s0.ts, /s1.ts, ... of 100 pictures."""
    folder = tmp_path_factory.mktemp("hls")
    options = {"hls_time": "1", "hls_list_size": "0"}
    options["hls_segment_filename"] = str(folder / "s%d.ts")
    write_video(folder / "live.m3u8", even_times(100), form="hls", options=options)
    return {f"/{path.name}": path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def answers(film: bytes, segments: dict[str, bytes]) -> dict[str, Answer]:
    return {
        "/film.mp4": ranged(film),
        **{name: reply(content) for name, content in segments.items()},
    }


@pytest.fixture
def server(answers: dict[str, Answer], public_web: dict[str, str]) -> Iterator[Server]:
    with serving(answers) as running:
        yield running
