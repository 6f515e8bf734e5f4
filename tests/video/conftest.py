"""A detector of drawn squares, and a video server whose host counts as public."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from mien.api import Recognizer
from mien.core import web
from mien.core.results import Box
from mien.inference.classifier import Classifier
from mien.inference.detectors import Detection
from video_maker import even_times, write_video
from web_maker import Answer, Server, ranged, serving


class RedSquares:
    """Detects patches of strong red."""

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
    """Recognizer with a tiny model, whose faces are red squares."""
    return Recognizer(Classifier.open(tiny_model), RedSquares())


@pytest.fixture
def public_web(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the test's own server counts as public."""
    monkeypatch.setattr(web, "is_public", lambda address: str(address) == "127.0.0.1")


@pytest.fixture(scope="module")
def film() -> bytes:
    content = io.BytesIO()
    write_video(content, even_times(50), form="mp4", sound=True)
    return content.getvalue()


@pytest.fixture(scope="module")
def stream_bytes() -> bytes:
    content = io.BytesIO()
    write_video(content, even_times(100), form="mpegts")
    return content.getvalue()


@pytest.fixture
def answers(film: bytes) -> dict[str, Answer]:
    return {"/film.mp4": ranged(film)}


@pytest.fixture
def server(answers: dict[str, Answer], public_web: None) -> Iterator[Server]:
    with serving(answers) as running:
        yield running
