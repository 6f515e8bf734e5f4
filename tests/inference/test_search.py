from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mien
from mien.core.images import load_image
from mien.core.results import Box
from mien.inference.detectors import Detection, Detector, load_detector
from mien.inference.detectors.search import (
    HINT_CONFIDENCE,
    MIN_CONFIDENCE,
    SETTLED_SIDE,
    SMALL_SIDE,
    SURELY_UPRIGHT,
    DetectFunction,
    RawDetections,
    SearchDetector,
    View,
    find_orientation,
    merge_views,
    needs_finer_search,
    rotate_detector,
    tiled_views,
)
from mien.inference.detectors.yunet import WEIGHTS

Image = npt.NDArray[np.uint8]


class Scripted(SearchDetector):
    """Detector that calls a function."""

    name = "scripted"

    def __init__(
        self, look: DetectFunction, side: int, *, has_scores: bool = True, thorough: bool = False
    ) -> None:
        super().__init__(side=side, thorough=thorough)
        self.look, self.has_scores = look, has_scores

    def _detect_upright(self, picture: Image) -> RawDetections:
        return self.look(picture)


def _row(side: float, score: float) -> list[float]:
    return [10.0, 10.0, side, 1.2 * side, score]


def _looks(
    *answers: list[list[float]],
) -> tuple[Callable[[Image], RawDetections], list[tuple[int, ...]]]:
    """Detect function that returns these rows in turn, and the sizes of its pictures."""
    seen: list[tuple[int, ...]] = []

    def look(picture: Image) -> RawDetections:
        seen.append(picture.shape[:2])
        return np.array(answers[len(seen) - 1], np.float64).reshape(-1, 5)

    return look, seen


PHOTO = np.zeros((480, 640, 3), np.uint8)
LARGE = _row(SMALL_SIDE + 10, 0.9)


def test_large_faces_are_searched_at_half_the_size_only() -> None:
    look, seen = _looks([LARGE])
    (found,) = Scripted(look, 640).search(PHOTO)
    assert seen == [(240, 320)]
    assert found.scale == 0.5
    assert found.rows.tolist() == [LARGE]


@pytest.mark.parametrize(
    "first",
    [
        [],
        [_row(SMALL_SIDE + 10, MIN_CONFIDENCE - 0.01)],
        [LARGE, _row(SMALL_SIDE - 1, 0.9)],
        [LARGE, _row(SMALL_SIDE - 1, HINT_CONFIDENCE)],
    ],
    ids=["nothing", "nothing sure", "a small face", "a hint of a small face"],
)
def test_hints_of_small_faces_lead_to_a_finer_search(first: list[list[float]]) -> None:
    again = [_row(60, 0.9), _row(24, 0.8)]
    look, seen = _looks(first, again)
    (found,) = Scripted(look, 640).search(PHOTO)
    assert seen == [(240, 320), (480, 640)]
    assert found.scale == 1.0
    assert found.rows.tolist() == again


def test_an_uncertain_large_face_needs_no_finer_search() -> None:
    assert not needs_finer_search(np.array([LARGE, _row(SMALL_SIDE + 5, 0.4)]))


def test_uncertain_detections_are_dropped() -> None:
    look, _ = _looks([LARGE, _row(40, MIN_CONFIDENCE - 0.01)])
    (found,) = Scripted(look, 640).search(PHOTO)
    assert found.rows.tolist() == [LARGE]


def test_thorough_searches_and_small_pictures_use_one_scale() -> None:
    look, seen = _looks([LARGE])
    Scripted(look, 640, thorough=True).search(PHOTO)
    assert seen == [(480, 640)]
    look, seen = _looks([])
    (found,) = Scripted(look, 640).search(PHOTO[:200, :300])
    assert len(found.rows) == 0
    assert seen == [(200, 300)]


# --- In tiles


def _spots(picture: Image) -> RawDetections:
    """Detect bright spots of 8 to 200 pixels, like a network that detects faces."""
    bright = (picture[:, :, 0] > 200).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(bright)
    rows = [[*row[:4], 0.9] for row in stats[1:count] if 8 <= min(row[2:4]) <= 200]
    return np.array(rows, np.float64).reshape(-1, 5)


def _dark_with(*boxes: Box, width: int, height: int) -> Image:
    picture = np.zeros((height, width, 3), np.uint8)
    for box in boxes:
        left, top, right, bottom = box.xyxy
        picture[top:bottom, left:right] = 255
    return picture


@given(st.integers(1, 3500), st.integers(1, 3500))
@settings(max_examples=20)
def test_tiles_cover_the_image_at_every_scale(width: int, height: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    covered: dict[float, Image] = {}
    for look in tiled_views(image, lambda tile: _fits(tile, 320), 320):
        plane = covered.setdefault(look.scale, np.zeros((height, width), np.uint8))
        left, top = look.corner
        side = round(320 / look.scale)
        plane[top : top + side, left : left + side] = 1
    assert all(plane.all() for plane in covered.values())
    longer = max(width, height)
    scales = sorted(covered)
    assert len(scales) == 1 + sum(longer / factor > 480 for factor in (1, 2, 4, 8))
    assert all(finer / coarser <= 3 for coarser, finer in pairwise(scales))


def _fits(tile: Image, side: int) -> RawDetections:
    assert max(tile.shape[:2]) <= side
    return np.empty((0, 5))


@given(st.integers(10, 700), st.integers(0, 1200), st.integers(0, 800))
@settings(max_examples=25)
def test_a_face_of_any_size_and_position_is_found_once(side: int, x: int, y: int) -> None:
    box = Box(min(x, 1199 - side), min(y, 799 - side), side, side)
    picture = _dark_with(box, width=1200, height=800)
    looks = Scripted(_spots, 300, thorough=True).search(picture)
    ((found, _),) = merge_views(looks, (800, 1200))
    assert found.box.overlap(box) > 0.6


def test_a_face_is_taken_from_the_coarsest_view_that_shows_it_large() -> None:
    def look(side: float) -> View:  # of a face of 160 pixels that has this side there
        return View(np.array([[side, side, side, side, 0.8]]), side / 160)

    coarse, middle, fine, finer = (look(SETTLED_SIDE * each) for each in (0.4, 0.6, 1.0, 2.0))
    for looks in ([coarse, fine, finer], [finer, coarse, fine]):
        assert merge_views(looks, (900, 900)) == [
            (Detection(Box(160, 160, 160, 160), 0.8), fine.scale)
        ]
    ((_, scale),) = merge_views([coarse, middle], (900, 900))
    assert scale == middle.scale


def test_a_part_of_a_large_face_is_dropped() -> None:
    whole = View(np.array([[10.0, 10, 100, 100, 0.71]]), 0.1)
    eye = View(np.array([[10.0, 10, 90, 90, 0.99]]), 1.0, (300, 300))
    assert [one.confidence for one, _ in merge_views([eye, whole], (2000, 2000))] == [0.71]


@pytest.mark.parametrize("name", ["libface", "haar", "yunet"])
def test_a_thorough_search_finds_small_faces(name: str, request: pytest.FixtureRequest) -> None:
    weights = None
    if name == "yunet":
        weights = request.getfixturevalue("shared") / "models" / WEIGHTS.name
    random = np.random.default_rng(0)
    paper = random.integers(90, 170, (20, 30, 3), np.uint8)
    picture = cv2.resize(paper, (1500, 1000), interpolation=cv2.INTER_CUBIC)
    sample = load_image(Path(__file__).resolve().parent.parent.parent / "images" / "sample.png")
    face = cv2.resize(sample[20:340, 20:340], (60, 60), interpolation=cv2.INTER_AREA)
    # One lies across the edges of tiles.
    corners = [(415, 300), (1210, 640)]
    for x, y in corners:
        picture[y : y + 60, x : x + 60] = face
    image = np.asarray(picture, np.uint8)
    assert load_detector(name, weights=weights).detect(image) == []
    found = load_detector(name, weights=weights, thorough=True).detect(image)
    assert len(found) == 2
    for one, (x, y) in zip(found, corners, strict=True):
        assert one.box.overlap(Box(x + 12, y + 9, 36, 44)) > 0.4


# --- On photos


def _shrunk(image: Image, box: Box, side: int) -> tuple[Image, Box]:
    """Person cropped from a photo, resized to this smaller side of the face."""
    scale, margin = side / min(box.w, box.h), max(box.w, box.h)
    left, top = max(0, box.x - margin), max(0, box.y - margin)
    part = image[top : box.y + box.h + margin, left : box.x + box.w + margin]
    small = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    place = ((box.x - left) * scale, (box.y - top) * scale, box.w * scale, box.h * scale)
    return np.asarray(small, np.uint8), Box(*(round(each) for each in place))


def test_small_faces_are_found_next_to_a_large_one(shared: Path) -> None:
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
def test_libface_does_not_leak_memory() -> None:
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


# ---------------------------------------------------------------- orientations

SAMPLE = Path(__file__).resolve().parent.parent.parent / "images" / "sample.png"


def _turned(image: Image, quarter: int) -> Image:
    """Image rotated by clockwise quarter turns."""
    return np.ascontiguousarray(np.rot90(image, -quarter))


@given(st.integers(0, 3), st.integers(0, 50), st.integers(0, 30))
def test_rotated_detections_are_mapped_back(quarter: int, x: int, y: int) -> None:
    # A box and five points, marked with different values, rotate with the picture.
    picture = np.zeros((60, 90, 3), np.uint8)
    picture[y : y + 20, x : x + 30] = 9
    spots = [(x + 2, y + 3), (x + 20, y + 3), (x + 9, y + 9), (x + 4, y + 16), (x + 18, y + 17)]
    for number, (column, row) in enumerate(spots):
        picture[row, column] = 100 + number

    def look(seen: Image) -> RawDetections:
        rows, columns = np.nonzero(seen[:, :, 0])
        left, top = columns.min(), rows.min()
        sides = [columns.max() + 1 - left, rows.max() + 1 - top]
        points = [np.argwhere(seen[:, :, 0] == 100 + number)[0][::-1] + 0.5 for number in range(5)]
        return np.array([[left, top, *sides, *np.ravel(points), 0.9]], np.float64)

    (row,) = rotate_detector(look, quarter)(picture)
    assert row[:4].tolist() == [x, y, 30, 20]
    assert np.allclose(row[4:14].reshape(5, 2), np.array(spots) + 0.5)
    assert row[14] == 0.9


def _arrow(side: int = 64) -> Image:
    """A "face" with an orientation: light at the top, dark at the bottom."""
    face = np.linspace(255, 60, side)[:, None].repeat(side, axis=1).astype(np.uint8)
    return np.dstack([face] * 3)


def _look_for_arrows(picture: Image) -> RawDetections:
    """Detect bright squares on black, more confident if light above and dark below."""
    bright = (picture[:, :, 0] > 30).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(bright)
    rows = []
    for x, y, w, h, area in stats[1:count]:
        if area < 0.5 * w * h or min(w, h) < 12:
            continue
        spot = picture[y : y + h, x : x + w, 0].astype(float)
        slope = (spot[: h // 2].mean() - spot[h // 2 :].mean()) / 100
        rows.append([x, y, w, h, float(np.clip(0.8 + 0.08 * slope, 0, 1))])
    return np.array(rows, np.float64).reshape(-1, 5)


def _scene(*quarters: int) -> Image:
    picture = np.zeros((200, 200 * len(quarters), 3), np.uint8)
    for number, quarter in enumerate(quarters):
        left = 200 * number + 60
        picture[60:124, left : left + 64] = _turned(_arrow(), quarter)
    return picture


def _find(picture: Image, look: DetectFunction, **options: bool) -> list[Detection]:
    return Scripted(look, 640, has_scores=False, **options).detect(picture)


@pytest.mark.parametrize("quarter", range(4))
def test_orientation_is_the_most_confident_one(quarter: int) -> None:
    face = Detection(Box(60, 60, 64, 64), 0.8)
    assert find_orientation(_scene(quarter), face, _look_for_arrows) == quarter
    assert find_orientation(np.zeros((200, 200, 3), np.uint8), face, _look_for_arrows) is None


def test_a_thorough_search_finds_faces_in_all_orientations() -> None:
    found = _find(_scene(0, 1, 2, 3), _look_for_arrows, thorough=True)
    assert [one.turn for one in found] == [0, 90, 180, -90]
    assert [one.box.x for one in found] == [60, 260, 460, 660]


@pytest.mark.parametrize(("quarter", "degrees"), [(0, 0), (1, 90), (2, 180), (3, -90)])
def test_the_most_confident_face_decides_the_orientation(quarter: int, degrees: float) -> None:
    found = _find(_scene(quarter, quarter), _look_for_arrows)
    assert [one.turn for one in found] == [degrees] * 2
    # A rotated face next to an upright one counts as upright.
    assert [one.turn for one in _find(_scene(0, quarter), _look_for_arrows)] == [0, 0]


def test_confident_faces_are_not_checked_in_other_orientations() -> None:
    looks: list[tuple[int, ...]] = []

    def look(picture: Image) -> RawDetections:
        looks.append(picture.shape)
        rows = _look_for_arrows(picture)
        rows[:, -1] = SURELY_UPRIGHT
        return rows

    assert [one.turn for one in _find(_scene(0, 1), look)] == [0, 0]
    assert len(looks) == 1


@pytest.mark.parametrize(("thorough", "side"), [(False, 320), (True, 640)])
def test_a_picture_without_faces_is_searched_in_all_orientations(thorough: bool, side: int) -> None:
    looks: list[int] = []

    def look(picture: Image) -> RawDetections:
        looks.append(max(picture.shape))
        return np.empty((0, 5))

    assert _find(_scene(0, 0, 0, 0), look, thorough=thorough) == []
    assert looks == [640, side, side, side]


# --- Of real detectors


def _load(name: str, request: pytest.FixtureRequest) -> Detector:
    if name == "yunet":
        weights = request.getfixturevalue("shared") / "models" / WEIGHTS.name
        return load_detector(name, weights=weights)
    return load_detector(name)


@pytest.mark.parametrize("name", ["libface", "yunet", "haar"])
def test_a_rotated_picture_has_the_same_face(name: str, request: pytest.FixtureRequest) -> None:
    detector = _load(name, request)
    image = np.ascontiguousarray(load_image(SAMPLE)[20:340, 20:340])
    (upright,) = detector.detect(image)
    for quarter, degrees in ((1, 90), (2, 180), (3, -90)):
        (found,) = detector.detect(_turned(image, quarter))
        assert found.turn == degrees
        there = np.zeros((320, 320), np.uint8)
        left, top, right, bottom = upright.box.xyxy
        there[top:bottom, left:right] = 1
        rows, columns = np.nonzero(np.rot90(there, -quarter))
        x, y = int(columns.min()), int(rows.min())
        box = Box(x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y)
        assert found.box.overlap(box) > 0.85


def test_rotated_faces_are_classified_like_upright_ones(tiny_model: Path) -> None:
    image = np.ascontiguousarray(load_image(SAMPLE)[20:340, 20:340])
    for align in ("auto", "off"):
        recognizer = mien.load(tiny_model, detector="libface", align=align)
        (upright,) = recognizer.analyze(image, color="rgb")
        for quarter in (1, 2, 3):
            (found,) = recognizer.analyze(_turned(image, quarter), color="rgb")
            assert found.emotion == upright.emotion
            assert found.confidence == pytest.approx(upright.confidence, abs=0.1)
            assert abs(found.turn) == pytest.approx(180 if quarter == 2 else 90, abs=5)


@pytest.mark.parametrize("photo", ["portrait", "group_three", "group_five", "no_face"])
def test_rotated_photos_have_the_same_faces(photo: str, shared: Path) -> None:
    detector = load_detector("libface")
    image = load_image(shared / "photos" / f"{photo}.jpg")
    upright = detector.detect(image)
    assert all(one.turn == 0 for one in upright)
    for quarter, degrees in ((1, 90), (2, 180), (3, -90)):
        found = detector.detect(_turned(image, quarter))
        assert [one.turn for one in found] == [degrees] * len(upright)
