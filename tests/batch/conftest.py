"""Small pictures in folders, and results without a recognizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mien.core.emotions import EMOTIONS
from mien.core.results import Box, Face, ModelInfo, Quality, Result

MODEL = ModelInfo("tiny", "0.0.1", "0" * 64)


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """Return a function that makes a result with any number of faces, or with an error."""

    def make(source: str, faces: int = 1, error: str | None = None) -> Result:
        if error is not None:
            return Result(source, "unreadable", MODEL, error=error)
        return Result(
            source,
            "ok" if faces else "no_face",
            MODEL,
            width=60,
            height=50,
            faces=tuple(_face(number) for number in range(faces)),
        )

    return make


def _face(number: int) -> Face:
    scores = dict.fromkeys(EMOTIONS, 0.1) | {"happy": 0.4}
    quality = Quality(20, 0.25, ("small",))
    box = Box(number * 20, 5, 20, 30)
    return Face(number, box, 0.9, "happy", 0.4, False, scores, quality)


@pytest.fixture
def make_pictures() -> Callable[..., list[str]]:
    """Return a function that fills a folder with small pictures and returns their paths."""

    def make(folder: Path, count: int) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(5)
        paths = [folder / f"{number:04d}.png" for number in range(count)]
        for path in paths:
            Image.fromarray(noise.integers(0, 256, (50, 60), np.uint8)).save(path)
        return [str(path) for path in paths]

    return make
