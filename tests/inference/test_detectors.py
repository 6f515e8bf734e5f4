from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.errors import ModelError, UsageError
from mien.core.images import load_image
from mien.core.results import Box
from mien.inference.detectors import (
    Detection,
    Detector,
    crop_scale_of,
    libface,
    load_detector,
)
from mien.inference.detectors.search import box_in_image, non_max_suppression, resize_to_side
from mien.inference.detectors.yunet import WEIGHTS, YuNetDetector
from mien.inference.preprocess import roll_angle

WITH_BOXES = ("yunet", "libface", "haar")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty cache, so that results do not depend on the machine."""
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _open(name: str, shared: Path | None = None) -> Detector:
    if name == "yunet":
        if shared is None:
            pytest.skip("needs YuNet's weights")
        return load_detector(name, weights=shared / "models" / WEIGHTS.name)
    return load_detector(name)


@pytest.fixture(params=WITH_BOXES)
def detector(request: pytest.FixtureRequest) -> Detector:
    """Each detector; YuNet only if its weights are available."""
    shared = request.getfixturevalue("shared") if request.param == "yunet" else None
    return _open(request.param, shared)


def _centres(found: list[Detection]) -> list[tuple[float, float]]:
    return [(one.box.x + one.box.w / 2, one.box.y + one.box.h / 2) for one in found]


# --- On photos


def test_all_faces_of_the_group_photo_are_found(detector: Detector, shared: Path) -> None:
    image = load_image(shared / "photos" / "group_five.jpg")
    found = detector.detect(image)
    expected = [(469, 1015), (690, 548), (872, 218), (1196, 315), (1500, 528)]
    assert len(found) == 5
    for (x, y), (there_x, there_y) in zip(_centres(found), expected, strict=True):
        assert abs(x - there_x) < 60
        assert abs(y - there_y) < 60
    assert all(0.5 <= one.confidence <= 1 for one in found)


def test_the_cartoon_has_no_faces(detector: Detector, shared: Path) -> None:
    assert detector.detect(load_image(shared / "photos" / "no_face.jpg")) == []


def test_a_portrait_is_found_in_grey_and_at_any_size(detector: Detector, shared: Path) -> None:
    image = load_image(shared / "photos" / "portrait.jpg")
    grey = np.repeat(image[:, :, 1:2], 3, axis=2)
    (found,) = detector.detect(grey)
    (large,) = detector.detect(image.repeat(5, axis=0).repeat(5, axis=1))
    assert large.box.overlap(_times(found.box, 5)) > 0.7
    (small,) = detector.detect(np.ascontiguousarray(image[::4, ::4]))
    assert found.box.overlap(_times(small.box, 4)) > 0.6


@pytest.mark.parametrize("name", ["yunet", "libface"])
def test_eyes_are_above_the_mouth(name: str, shared: Path) -> None:
    (found,) = _open(name, shared).detect(load_image(shared / "photos" / "portrait.jpg"))
    assert found.landmarks is not None
    right_eye, left_eye, nose, right_mouth, left_mouth = found.landmarks
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_mouth[0] < left_mouth[0]
    assert max(right_eye[1], left_eye[1]) < nose[1] < min(right_mouth[1], left_mouth[1])
    assert abs(roll_angle(found.landmarks)) < 5
    box = found.box
    assert all(box.x < x < box.x + box.w and box.y < y < box.y + box.h for x, y in found.landmarks)


@pytest.mark.parametrize("name", ["yunet", "libface"])
@pytest.mark.parametrize("angle", [-25, 20])
def test_landmarks_follow_the_roll_of_a_portrait(name: str, angle: int, shared: Path) -> None:
    image = load_image(shared / "photos" / "portrait.jpg")
    height, width = image.shape[:2]
    turning = cv2.getRotationMatrix2D((width / 2, height / 2), -angle, 1.0)
    leaning = cv2.warpAffine(image, turning, (width, height), borderMode=cv2.BORDER_REPLICATE)
    (found,) = _open(name, shared).detect(np.asarray(leaning, np.uint8))
    # Both underestimate it: docs/evidence/faces.md.
    assert 0.3 < roll_angle(found.landmarks or ()) / angle < 1.2


def test_libface_and_yunet_agree_on_landmarks(shared: Path) -> None:
    image = load_image(shared / "photos" / "portrait.jpg")
    (one,), (other,) = (_open(name, shared).detect(image) for name in ("libface", "yunet"))
    pixel = max(image.shape) / 320  # of the searched picture; libface returns whole pixels
    assert one.landmarks is not None
    assert other.landmarks is not None
    apart = np.abs(np.subtract(one.landmarks, other.landmarks))
    assert apart.max() < 1.5 * pixel


def test_a_damaged_libface_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / libface.NETWORK.name
    damaged.write_bytes(libface.NETWORK.read_bytes()[:-1])
    monkeypatch.setattr(libface, "NETWORK", damaged)
    with pytest.raises(ModelError, match=r"libface\.onnx does not match"):
        load_detector("libface")


def test_a_libface_failure_reports_the_size_of_the_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector = libface.LibfaceDetector()

    def fails(*_: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(detector._session, "run", fails)
    with pytest.raises(ModelError, match="libface failed on 200 x 300 pixels: no room"):
        detector.detect(np.zeros((300, 200, 3), np.uint8))


def test_libface_returns_the_same_faces_in_threads(shared: Path) -> None:
    detector = _open("libface")
    names = ("group_five.jpg", "group_three.jpg", "portrait.jpg", "no_face.jpg")
    images = [load_image(shared / "photos" / name) for name in names]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(detector.detect, images * 4))
    assert found == [detector.detect(image) for image in images] * 4


def test_yunet_measures_the_roll_of_faces(shared: Path) -> None:
    found = _open("yunet", shared).detect(load_image(shared / "photos" / "group_three.jpg"))
    _, middle, right = (roll_angle(one.landmarks or ()) for one in found)
    # One leans to the left, one to the right, by about 25 and 20 degrees.
    assert -35 < middle < -12
    assert 12 < right < 35


def test_a_close_up_without_a_face_keeps_the_detection(shared: Path) -> None:
    detector = _open("yunet", shared)
    assert isinstance(detector, YuNetDetector)
    found = Detection(Box(10, 10, 5, 5), 0.9, ((1.0, 2.0),) * 5)
    grey = np.full((40, 40, 3), 128, np.uint8)
    assert detector._refine_landmarks(grey, found) is found


def test_threads_return_the_same_faces(detector: Detector, shared: Path) -> None:
    names = ("portrait", "group_five", "no_face", "group_three")
    pictures = [load_image(shared / "photos" / f"{name}.jpg") for name in names] * 4
    alone = [detector.detect(picture) for picture in pictures[:4]]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(detector.detect, pictures))
    assert together == alone * 4


# --- On any input


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (2, 3), (23, 23), (48, 48)])
def test_noise_of_any_shape_does_not_crash(detector: Detector, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    for found in detector.detect(noise):
        assert found.box.xyxy[2] <= shape[1]
        assert found.box.xyxy[3] <= shape[0]


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(detector: Detector, shape: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=f"got one of {shape[1]} x {shape[0]}"):
        detector.detect(np.zeros((*shape, 3), np.uint8))


def test_none_returns_the_whole_image() -> None:
    nobody = load_detector("none")
    assert nobody.detect(np.zeros((30, 20, 3), np.uint8)) == [Detection(Box(0, 0, 20, 30), 1.0)]
    assert nobody.crop_scale is None


def test_custom_detectors_may_name_their_crop_scale_framing() -> None:
    class Old:
        framing = 1.2

    old: Any = Old()
    assert crop_scale_of(old) == 1.2
    assert crop_scale_of(load_detector("haar")) == 1.0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads by /proc")
def test_libface_starts_no_threads() -> None:
    program = (
        "import os, threading, numpy\n"
        "from mien.inference.detectors.libface import LibfaceDetector\n"
        "detector, image = LibfaceDetector(), numpy.zeros((300, 300, 3), numpy.uint8)\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "detector.detect(image)\n"
        "inside = []\n"
        "def work():\n"
        "    detector.detect(image)\n"
        "    inside.append(len(os.listdir('/proc/self/task')))\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start(); thread.join()\n"
        "print(inside[0] - before)\n"
    )
    # OpenCV's threads, started by resizing, would count too.
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert done.stdout.strip() == "1"  # the thread of the test itself


# --- Loading


def test_unknown_names_and_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="auto, yunet, libface, haar, none"):
        load_detector("mtcnn")
    with pytest.raises(UsageError, match="side as an integer of 192 or more"):
        load_detector("haar", side=100)
    with pytest.raises(UsageError, match="only detector='yunet'"):
        load_detector("haar", weights=Path("w.onnx"))


def test_auto_is_libface_without_yunets_weights() -> None:
    assert load_detector().name == "libface"


def test_auto_is_yunet_with_cached_weights(cache: Path, shared: Path) -> None:
    cache.mkdir()
    (cache / WEIGHTS.name).write_bytes((shared / "models" / WEIGHTS.name).read_bytes())
    assert load_detector().name == "yunet"
    assert load_detector("yunet", offline=True).name == "yunet"


def test_auto_does_not_download_over_damaged_weights(cache: Path) -> None:
    cache.mkdir()
    (cache / WEIGHTS.name).write_bytes(b"half a download")
    with pytest.raises(ModelError, match="does not match its hash"):
        load_detector()


def test_yunet_offline_reports_the_path_of_its_weights(cache: Path) -> None:
    with pytest.raises(ModelError, match="offline") as error:
        load_detector("yunet", offline=True)
    assert str(cache / WEIGHTS.name) in str(error.value)


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(b"other")
    with pytest.raises(ModelError, match="does not match its hash"):
        load_detector("yunet", weights=tmp_path / "other.onnx")


# --- Boxes

numbers = st.floats(-3000, 3000, allow_nan=False)


@given(
    st.tuples(numbers, numbers, st.floats(0, 3000), st.floats(0, 3000)),
    st.floats(0.05, 4),
    st.integers(1, 4000),
    st.integers(1, 4000),
)
def test_boxes_are_clipped_to_the_image(
    xywh: tuple[float, ...], scale: float, height: int, width: int
) -> None:
    box = box_in_image(xywh, scale, (height, width))
    if box is not None:
        left, top, right, bottom = box.xyxy
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 300), st.integers(1, 300))
def test_scaling_a_box_back_and_forth_keeps_it(x: int, y: int, w: int, h: int) -> None:
    box = Box(x, y, w, h)
    for scale in (0.1, 1 / 3, 1.0, 4.0):
        there = [side * scale for side in (x, y, w, h)]
        assert box_in_image(there, scale, (700, 700, 3)) == box


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_resizing_respects_its_limits(height: int, width: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    result, scale = resize_to_side(image, 640)
    assert max(result.shape) <= 640
    assert max(result.shape) >= min(192, 4 * max(height, width))
    assert scale <= 4
    for side, before in zip(result.shape[:2], (height, width), strict=True):
        assert abs(side - before * scale) <= 1


found_boxes = st.builds(
    Detection,
    st.builds(Box, st.integers(0, 60), st.integers(0, 60), st.integers(1, 60), st.integers(1, 60)),
    st.floats(0, 1),
)


@given(st.lists(found_boxes, max_size=12), st.randoms())
def test_suppression_keeps_the_most_confident_in_a_fixed_order(
    found: list[Detection], random: Any
) -> None:
    kept = non_max_suppression(found)
    assert set(kept) <= set(found)
    assert bool(kept) == bool(found)
    assert [one.box.x for one in kept] == sorted(one.box.x for one in kept)
    for number, one in enumerate(kept):
        assert all(one.box.overlap(other.box) <= 0.4 for other in kept[number + 1 :])
    if found:
        assert max(one.confidence for one in kept) == max(one.confidence for one in found)
    shuffled = random.sample(found, len(found))
    assert non_max_suppression(shuffled) == kept
    assert non_max_suppression(kept) == kept


def test_a_box_inside_another_is_the_same_face() -> None:
    whole, nose = Detection(Box(0, 0, 100, 100), 0.9), Detection(Box(40, 40, 20, 20), 0.8)
    beside = Detection(Box(90, 0, 100, 100), 0.7)
    assert non_max_suppression([nose, whole, beside]) == [whole, beside]


def _times(box: Box, factor: int) -> Box:
    return Box(box.x * factor, box.y * factor, box.w * factor, box.h * factor)
