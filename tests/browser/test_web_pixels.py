"""mien-web's arithmetic on pixels is OpenCV's, to the bit; run in Node, without a browser."""

from __future__ import annotations

import base64
import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mien.core.calibration import Temperature
from mien.core.images import standard_face
from mien.core.results import Box
from mien.inference.detectors.search import crop_padded
from mien.inference.preprocess import alignment_angle, assess_quality, cut_face

NODE = shutil.which("node")
HERE = Path(__file__).resolve().parent
LIBRARY = HERE.parents[1] / "mien-web" / "src"

pytestmark = pytest.mark.skipif(NODE is None, reason="needs Node to run mien-web's modules")

Picture = npt.NDArray[np.uint8]
Request = tuple[str, Picture | None, list[Any]]


def replies(requests: list[Request]) -> list[Any]:
    """What Node says to all requests, pictures as arrays."""
    content = [
        {
            "operation": operation,
            "given": given,
            "picture": None
            if picture is None
            else {
                "data": base64.b64encode(picture.tobytes()).decode(),
                "width": picture.shape[1],
                "height": picture.shape[0],
                "channels": 1 if picture.ndim == 2 else picture.shape[2],
            },
        }
        for operation, picture, given in requests
    ]
    program = [str(NODE), str(HERE / "pixel_figures.mjs"), LIBRARY.as_uri()]
    done = subprocess.run(
        program, input=json.dumps(content), capture_output=True, text=True, check=True
    )
    return [_array(each) for each in json.loads(done.stdout)]


def _array(answer: Any) -> Any:
    if not (isinstance(answer, dict) and "data" in answer):
        return answer
    values = np.frombuffer(base64.b64decode(answer["data"]), np.uint8)
    shape = (answer["height"], answer["width"], answer["channels"])
    return values.reshape(shape[:2] if shape[2] == 1 else shape)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Picture:
    """Noise on a slope: rounding is met in all its ways."""
    rng = np.random.default_rng(seed)
    shape = (height, width) if channels == 1 else (height, width, channels)
    return rng.integers(0, 256, shape, np.uint8)


def test_node_tests_pass() -> None:
    tests = [str(LIBRARY.parent / "test" / "reading.test.js")]
    done = subprocess.run([str(NODE), "--test", *tests], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# --- Resizing

SHRINKING = [
    ((480, 640), (240, 320)),  # halves, as a webcam's picture is searched
    ((300, 600), (100, 200)),
    ((640, 360), (320, 180)),
    ((427, 640), (213, 320)),
    ((1000, 750), (320, 240)),
    ((97, 203), (48, 48)),
    ((48, 500), (48, 48)),
    ((71, 71), (70, 33)),
    ((1, 700), (1, 640)),
    ((7, 5), (1, 1)),
    ((129, 129), (128, 128)),
]
GROWING = [((48, 48), (192, 192)), ((30, 47), (48, 48)), ((1, 1), (4, 4)), ((100, 37), (48, 48)),
           ((90, 90), (128, 128)), ((2, 150), (3, 192)), ((23, 61), (73, 192))]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_matches_opencv(channels: int) -> None:
    cases = [("resizeArea", cv2.INTER_AREA, *case) for case in SHRINKING]
    cases += [("resizeLinear", cv2.INTER_LINEAR, *case) for case in GROWING]
    pictures = [noise(*before, channels, seed) for seed, (_, _, before, _) in enumerate(cases)]
    found = replies(
        [
            (operation, picture, [after[1], after[0]])
            for (operation, _, _, after), picture in zip(cases, pictures, strict=True)
        ]
    )
    for (_, interpolation, before, after), picture, there in zip(
        cases, pictures, found, strict=True
    ):
        here = cv2.resize(picture, after[::-1], interpolation=interpolation)
        assert np.array_equal(there, here), (before, after)


def test_the_alpha_channel_is_dropped() -> None:
    picture = noise(60, 90, 4)
    shrunk, grown, region, same = replies(
        [
            ("resizeArea", picture, [41, 37]),
            ("resizeLinear", picture, [200, 192]),
            ("crop", picture, [-3, 5, 40, 70]),
            ("dropFourthChannel", picture, []),
        ]
    )
    rgb = np.ascontiguousarray(picture[:, :, :3])
    assert np.array_equal(shrunk, cv2.resize(rgb, (41, 37), interpolation=cv2.INTER_AREA))
    assert np.array_equal(grown, cv2.resize(rgb, (200, 192), interpolation=cv2.INTER_LINEAR))
    assert np.array_equal(region, crop_padded(rgb, -3, 5, 40, 70))
    assert np.array_equal(same, rgb)


# --- Cutting and turning


def test_cropping_and_rotation_match_numpy() -> None:
    picture = noise(31, 46)
    sides = [(0, 0, 46, 31), (-7, -9, 20, 12), (30, 20, 60, 50), (-5, -5, 60, 60), (50, 40, 55, 45)]
    cut = replies([("crop", picture, list(each)) for each in sides])
    for (left, top, right, bottom), there in zip(sides[:-1], cut[:-1], strict=True):
        assert np.array_equal(there, crop_padded(picture, left, top, right, bottom))
    turned = replies([("rot90", picture, [quarter]) for quarter in range(4)])
    assert all(np.array_equal(there, np.rot90(picture, k)) for k, there in enumerate(turned))


def test_grey_matches_opencv() -> None:
    picture = noise(200, 200)
    (there,) = replies([("toGrey", picture, [])])
    assert np.array_equal(there, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))


def test_transparency_is_blended_with_white_as_in_pillow() -> None:
    picture = noise(200, 200, 4)
    (there,) = replies([("overWhite", picture, [])])
    below = Image.new("RGBA", (200, 200), "white")
    assert np.array_equal(
        there, np.asarray(Image.alpha_composite(below, Image.fromarray(picture)))[:, :, :3]
    )


def test_standard_faces_match() -> None:
    crops = [noise(*sides) for sides in ((48, 48), (200, 200), (47, 300), (20, 20), (96, 144))]
    found = replies([("toFaceInput", crop, []) for crop in crops])
    for crop, there in zip(crops, found, strict=True):
        assert np.array_equal(there, standard_face(crop))


def test_crops_of_tilted_faces_match() -> None:
    image = noise(300, 400)
    boxes = [
        (100, 90, 80, 90),
        (0, 0, 50, 40),
        (350, 260, 50, 40),
        (10, 10, 300, 250),
        (3, 5, 9, 8),
    ]
    cases = [(box, turn) for box in boxes for turn in (0.0, 12.5, -33.0, 90.0, 180.0)]
    found = replies(
        [
            ("cropFace", image, [dict(zip("xywh", box, strict=True)), 1.0, turn])
            for box, turn in cases
        ]
    )
    for (box, turn), there in zip(cases, found, strict=True):
        here = cut_face(image, Box(*box), 1.0, turn=turn)
        assert np.array_equal(there, here), (box, turn)


# --- Figures


def test_turns_match() -> None:
    rng = np.random.default_rng(0)
    upright = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], float)
    cases = []
    for angle in range(-180, 181, 7):
        sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        points = upright @ np.array([[cosine, sine], [-sine, cosine]]) + rng.normal(0, 1, (5, 2))
        cases += [(points, align, q) for align in ("auto", "on", "off") for q in (0, 90, 180, -90)]
    there = replies([("turnOf", None, [points.tolist(), a, q]) for points, a, q in cases])
    here = [alignment_angle(tuple(map(tuple, points)), align, q) for points, align, q in cases]
    assert there == pytest.approx(here, abs=1e-9)


def test_quality_matches() -> None:
    faces = [np.asarray(cv2.GaussianBlur(noise(48, 48, 1), (0, 0), s)) for s in (0.3, 0.8, 1.5, 4)]
    faces += [np.full((48, 48), 9, np.uint8), np.where(noise(48, 48, 1) > 100, 255, 30)]
    points = [[[30, 40], [70, 40], [50 + 9 * k, 60 - 4 * k], [35, 80], [65, 80]] for k in range(5)]
    cases = [(np.asarray(face, np.uint8), [1, 2, 20 + 5 * k, 40], points[k % 5])
             for k, face in enumerate(faces)]  # fmt: skip
    found = replies(
        [
            ("qualityOf", None, [face.ravel().tolist(), dict(zip("xywh", box, strict=True)), marks])
            for face, box, marks in cases
        ]
    )
    flags = set()
    for (face, box, marks), there in zip(cases, found, strict=True):
        here = assess_quality(face, Box(*box), tuple(map(tuple, marks))).to_dict()  # type: ignore[arg-type]
        assert there == {**here, "blur": pytest.approx(here["blur"], abs=1e-5)}
        flags.update(here["flags"])
    assert flags == {"small", "blurred", "dark", "bright", "turned_away"}


@pytest.mark.parametrize("exponent", [0.0, 0.13, -0.4])
def test_probabilities_match(exponent: float) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 4, (50, 7))
    bias = rng.normal(0, 0.3, 7)
    reading = {"bias": bias.tolist(), "temperature": 0.9, "exponent": exponent}
    there = replies([("probabilities", None, [row.tolist(), reading]) for row in logits])
    here = Temperature(0.9, exponent).probabilities(logits + bias)
    assert np.allclose(there, here, atol=1e-7)
