from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import mien
from detector_maker import BrightSpots, Broken, bright_scene
from mien.api import Recognizer, load
from mien.core.emotions import EMOTIONS
from mien.core.errors import MienError, NoFaceError, UnreadableImage, UsageError
from mien.core.images import standard_face
from mien.core.results import Box
from mien.inference import recognizer as recognizer_module
from mien.inference.classifier import Classifier
from mien.inference.detectors import Detection

Pixels = npt.NDArray[np.uint8]
MakeModel = Callable[..., Path]


@pytest.fixture(scope="module")
def recognizer(tiny_model: Path) -> Recognizer:
    return load(tiny_model, detector=BrightSpots())


@pytest.fixture(scope="module")
def crop_reader(tiny_model: Path) -> Recognizer:
    return load(tiny_model, detector="none")


def _crops(count: int) -> list[Pixels]:
    noise = np.random.default_rng(5)
    cells = noise.integers(0, 256, (count, 6, 6), np.uint8)
    return [np.asarray(face) for face in cells.repeat(8, axis=1).repeat(8, axis=2)]


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


LEFT, RIGHT = Box(20, 30, 50, 50), Box(150, 60, 80, 80)


def test_analyze_returns_the_faces_left_to_right(recognizer: Recognizer) -> None:
    faces = recognizer.analyze(bright_scene(RIGHT, LEFT), color="rgb")
    assert [face.box for face in faces] == [LEFT, RIGHT]
    assert [face.face_id for face in faces] == [0, 1]
    for face in faces:
        assert face.track_id is None
        assert face.face_confidence == 0.75
        assert tuple(face.scores) == EMOTIONS
        assert sum(face.scores.values()) == pytest.approx(1, abs=1e-5)
        assert face.confidence == face.scores[face.emotion] == max(face.scores.values())
        assert face.quality.size_px == face.box.w


def test_an_image_without_faces_returns_an_empty_list(recognizer: Recognizer) -> None:
    assert recognizer.analyze(bright_scene(), color="rgb") == []
    result = recognizer.analyze_result(bright_scene(), color="rgb")
    assert (result.status, result.width, result.height) == ("no_face", 300, 200)


def test_on_no_face_raise(recognizer: Recognizer) -> None:
    with pytest.raises(NoFaceError, match="detector='none'"):
        recognizer.analyze(bright_scene(), color="rgb", on_no_face="raise")
    assert recognizer.analyze(bright_scene(LEFT), color="rgb", on_no_face="raise")
    with pytest.raises(UsageError, match="on_no_face"):
        recognizer.analyze(bright_scene(), color="rgb", on_no_face="ignore")


def test_analyze_many_agrees_with_analyze(recognizer: Recognizer, tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    path.write_bytes(_png(bright_scene(LEFT, RIGHT)))
    (result,) = recognizer.analyze_many([path])
    assert result == recognizer.analyze_result(path)
    assert list(result.faces) == recognizer.analyze(path)
    assert result.source == str(path)
    assert result.model.name == "tiny"
    assert len(result.model.sha256) == 64


def test_batched_faces_are_returned_to_their_images(recognizer: Recognizer) -> None:
    scenes = [bright_scene(LEFT), bright_scene(), bright_scene(LEFT, RIGHT), bright_scene(RIGHT)]
    results = recognizer.analyze_many(scenes, color="rgb", batch_size=2)
    assert [result.status for result in results] == ["ok", "no_face", "ok", "ok"]
    assert [[face.box for face in result.faces] for result in results] == [
        [LEFT],
        [],
        [LEFT, RIGHT],
        [RIGHT],
    ]
    left, right = recognizer.analyze(scenes[2], color="rgb")
    assert left.scores["angry"] != pytest.approx(right.scores["angry"], abs=1e-3)
    for result, expected in zip(results, ([left], [], [left, right], [right]), strict=True):
        for face, same in zip(result.faces, expected, strict=True):
            assert face.scores == pytest.approx(dict(same.scores), abs=1e-6)
            assert face.quality == same.quality


def test_an_unreadable_image_does_not_stop_the_others(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    good = _png(bright_scene(LEFT))
    results = recognizer.analyze_many([good, text, b"", good])
    assert [result.status for result in results] == ["ok", "unreadable", "unreadable", "ok"]
    written = results[1].to_dict()
    assert written["source"] == str(text)
    assert "notes.txt is not an image" in written["error"]
    assert written["width"] is None
    with pytest.raises(UnreadableImage, match=r"notes\.txt is not an image"):
        recognizer.analyze(text)


def test_a_failing_detector_is_an_error(tiny_model: Path) -> None:
    broken = load(tiny_model, detector=Broken())
    result = broken.analyze_result(bright_scene(), color="rgb", source="frame 3")
    assert result.status == "error"
    assert result.error is not None
    assert result.error.startswith("frame 3: face detection failed")
    assert "\n" not in result.error
    with pytest.raises(MienError, match="face detection failed"):
        broken.analyze(bright_scene(), color="rgb")


@pytest.mark.parametrize("of_opencv", [False, True])
def test_a_detector_out_of_memory_is_reported(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, of_opencv: bool
) -> None:
    def detect(_: Broken, pixels: npt.NDArray[np.uint8]) -> NoReturn:
        if of_opencv:
            error = cv2.error("OpenCV: (-4:Insufficient memory) Failed to allocate")
            error.code = cv2.Error.StsNoMem
            raise error
        raise MemoryError

    monkeypatch.setattr(Broken, "detect", detect)
    result = load(tiny_model, detector=Broken()).analyze_result(bright_scene(), color="rgb")
    assert result.status == "error"
    assert result.error == "the image: face detection failed: there is not enough memory"


def test_sources_are_the_names_of_results(recognizer: Recognizer, tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    path.write_bytes(_png(bright_scene(LEFT)))
    results = recognizer.analyze_many([b"", path], sources=["stdin", None])
    assert [result.source for result in results] == ["stdin", str(path)]
    for sources in (["one"], ["one", "two", "three"]):
        with pytest.raises(UsageError, match="a source for each image"):
            recognizer.analyze_many([path, path], sources=sources)


def test_images_may_be_a_generator(recognizer: Recognizer) -> None:
    def scenes() -> Iterator[Pixels]:
        yield bright_scene(LEFT)
        yield bright_scene(RIGHT)

    assert len(recognizer.analyze_many(scenes(), color="rgb")) == 2


def test_a_single_image_is_not_a_list(recognizer: Recognizer) -> None:
    arrays = np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8)
    for single in ("photo.jpg", Path("photo.jpg"), b"bytes", Image.new("RGB", (2, 2)), *arrays):
        with pytest.raises(UsageError, match="expected a list of images"):
            recognizer.analyze_many(single, color="rgb")  # type: ignore[arg-type]


def test_a_colour_array_needs_color(recognizer: Recognizer) -> None:
    with pytest.raises(UsageError, match="color='rgb'"):
        recognizer.analyze(bright_scene())


def test_color_is_the_channel_order(crop_reader: Recognizer) -> None:
    picture = np.zeros((48, 48, 3), np.uint8)
    picture[:, :24, 0] = 255
    right = crop_reader.analyze(picture, color="rgb")
    assert crop_reader.analyze(picture[:, :, ::-1], color="bgr") == right
    assert crop_reader.analyze(picture, color="bgr") != right


# --- Crops


def test_without_a_detector_the_image_is_the_face(crop_reader: Recognizer) -> None:
    for crop in _crops(5):
        (face,) = crop_reader.analyze(crop)
        assert face.box == Box(0, 0, 48, 48)
        expected = crop_reader.classify([crop])[0]
        assert np.allclose(list(face.scores.values()), expected, atol=1e-6)


def test_crops_of_any_size_and_type(crop_reader: Recognizer) -> None:
    crops = [
        *_crops(3),
        np.full((1, 1), 9, np.uint8),
        np.zeros((300, 20, 3), np.uint8),
        np.zeros((30, 30, 1), np.uint8),
    ]
    probabilities = crop_reader.classify(crops, color="bgr")
    assert probabilities.shape == (6, 7)
    assert probabilities.dtype == np.float32
    assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-6
    faces = np.stack([standard_face(crop) for crop in _crops(3)])
    assert np.allclose(probabilities[:3], crop_reader.classifier.classify(faces), atol=1e-6)


def test_no_crops_return_no_rows(crop_reader: Recognizer) -> None:
    assert crop_reader.classify([]).shape == (0, 7)


def test_invalid_crops_are_refused(crop_reader: Recognizer) -> None:
    with pytest.raises(UsageError, match="colour order"):
        crop_reader.classify([np.zeros((9, 9, 3), np.uint8)])
    with pytest.raises(UsageError, match="uint8"):
        crop_reader.classify([np.zeros((9, 9), np.uint16)])
    with pytest.raises(UsageError, match="expected a list of face crops"):
        crop_reader.classify(["crop.png"])  # type: ignore[list-item]


def test_a_single_crop_is_not_a_list(crop_reader: Recognizer) -> None:
    grey, colour = np.zeros((48, 48), np.uint8), np.zeros((48, 48, 3), np.uint8)
    for crop in (grey, colour, "crop.png", Image.fromarray(grey)):
        with pytest.raises(UsageError, match="expected a list of face crops, got one"):
            crop_reader.classify(crop, color="rgb")  # type: ignore[arg-type]
    stacked = crop_reader.classify(np.stack([colour, colour]), color="bgr")
    assert np.array_equal(stacked, crop_reader.classify([grey, grey]))


# --- Uncertainty


def test_scores_below_the_threshold_are_uncertain(make_tiny_model: MakeModel) -> None:
    sure = load(make_tiny_model("sure"), detector="none")
    faces = [sure.analyze(crop)[0] for crop in _crops(30)]
    assert not any(face.uncertain for face in faces)
    emotion = faces[0].emotion
    limit = float(np.median([face.confidence for face in faces if face.emotion == emotion]))
    model = make_tiny_model("unsure", thresholds={emotion: limit + 1e-6})
    unsure = load(model, detector="none")
    for before, crop in zip(faces, _crops(30), strict=True):
        (face,) = unsure.analyze(crop)
        below = before.confidence < limit + 1e-6
        assert face.uncertain == (face.emotion == emotion and below)


# --- Threads and processes


def test_threads_return_the_same_results(tiny_model: Path) -> None:
    recognizer = load(tiny_model, detector="haar", threads=1)
    noise = np.random.default_rng(2)
    images = [noise.integers(0, 256, (90, 120), np.uint8) for _ in range(12)]
    images += _crops(12)
    alone = [recognizer.analyze_result(image) for image in images]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(recognizer.analyze_result, images))
    assert together == alone


def test_prediction_does_not_import_training_packages(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "crop.png"
    path.write_bytes(_png(np.dstack([_crops(1)[0]] * 3)))
    program = (
        "import json, sys, mien\n"
        "early = [name for name in ('onnxruntime', 'cv2', 'numpy') if name in sys.modules]\n"
        f"recognizer = mien.load({str(tiny_model)!r}, detector='none')\n"
        f"result = recognizer.analyze_result({str(path)!r})\n"
        "heavy = {'keras', 'tensorflow', 'matplotlib', 'sklearn', 'pandas', 'seaborn', 'onnx'}\n"
        "print(json.dumps([result.to_dict(), sorted(heavy & set(sys.modules)), early]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    result, heavy, early = json.loads(done.stdout)
    assert result["status"] == "ok"
    assert heavy == []
    assert early == []
    assert done.stderr == ""


# --- On photos


@pytest.mark.parametrize("detector", ["libface", "haar"])
def test_the_group_photo_has_five_faces(tiny_model: Path, shared: Path, detector: str) -> None:
    recognizer = mien.load(tiny_model, detector=detector)
    photos = ["group_five", "no_face", "portrait"]
    results = recognizer.analyze_many(shared / "photos" / f"{name}.jpg" for name in photos)
    assert [(result.status, len(result.faces)) for result in results] == [
        ("ok", 5),
        ("no_face", 0),
        ("ok", 1),
    ]
    assert (results[0].width, results[0].height) == (1920, 1398)
    flags = [face.quality.flags for face in results[0].faces]
    # The second one looks to her left, which haar cannot detect without landmarks.
    assert flags == [(), ("turned_away",) if detector == "libface" else (), (), (), ()]


class Profile(BrightSpots):
    """Finds the same rectangles, with landmarks of a profile."""

    def detect(self, image: Pixels) -> list[Detection]:
        points = ((5.0, 0.0), (9.0, 0.0), (9.0, 5.0), (5.0, 9.0), (9.0, 9.0))
        return [Detection(one.box, one.confidence, points) for one in super().detect(image)]


def test_a_face_that_is_turned_away_is_uncertain(make_tiny_model: Callable[..., Path]) -> None:
    classifier = Classifier.open(make_tiny_model(thresholds=dict.fromkeys(mien.EMOTIONS, 0.0)))
    scene = bright_scene(Box(40, 40, 60, 60))
    for detector, uncertain in ((BrightSpots(), False), (Profile(), True)):
        (face,) = Recognizer(classifier, detector).analyze(scene, color="rgb")
        assert face.uncertain is uncertain
        assert ("turned_away" in face.quality.flags) is uncertain


def test_a_turned_photo_has_the_same_faces(tiny_model: Path, shared: Path) -> None:
    recognizer = mien.load(tiny_model, detector="haar")
    upright = Image.open(shared / "photos" / "portrait.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    assert recognizer.analyze(buffer.getvalue()) == recognizer.analyze(upright)


# ---------------------------------------------------------------- which faces, and how they lean
class Leaning(BrightSpots):
    """Finds the same rectangles, with landmarks that lean by 30 degrees."""

    def detect(self, image: Pixels) -> list[Detection]:
        return [
            Detection(one.box, one.confidence, self._landmarks(one.box))
            for one in super().detect(image)
        ]

    def _landmarks(self, box: Box) -> tuple[tuple[float, float], ...]:
        points = np.array([(-0.2, -0.2), (0.2, -0.2), (0, 0), (-0.15, 0.2), (0.15, 0.2)])
        cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
        leaning = points @ np.array([(cos, sin), (-sin, cos)]) * box.w
        middle = (box.x + box.w / 2, box.y + box.h / 2)
        return tuple((float(x), float(y)) for x, y in leaning + middle)


def test_min_face_and_max_faces(tiny_model: Path) -> None:
    scene = bright_scene(LEFT, RIGHT)
    choices: tuple[tuple[dict[str, Any], list[Box]], ...] = (
        ({"min_face": 51}, [RIGHT]),
        ({"min_face": 50}, [LEFT, RIGHT]),
        ({"max_faces": 1}, [RIGHT]),
        ({"max_faces": 5}, [LEFT, RIGHT]),
    )
    for options, expected in choices:
        faces = load(tiny_model, detector=BrightSpots(), **options).analyze(scene, color="rgb")
        assert [face.box for face in faces] == expected
        assert [face.face_id for face in faces] == list(range(len(expected)))
    nobody = load(tiny_model, detector=BrightSpots(), min_face=90)
    assert nobody.analyze_result(scene, color="rgb").status == "no_face"
    with pytest.raises(UsageError, match="max_faces"):
        load(tiny_model, detector=BrightSpots(), max_faces=0)


def test_leaning_faces_are_levelled_before_classification(tiny_model: Path) -> None:
    upright = bright_scene(RIGHT)
    middle = (RIGHT.x + RIGHT.w / 2 - 0.5, RIGHT.y + RIGHT.h / 2 - 0.5)
    turned = cv2.warpAffine(upright, cv2.getRotationMatrix2D(middle, -30, 1.0), (300, 200))
    leaning = np.asarray(turned, np.uint8)
    # The detector has to find the upright rectangle again.
    leaning[:, :, 0] = upright[:, :, 0]
    scores = {
        align: load(tiny_model, detector=Leaning(), align=align).analyze(leaning, color="rgb")[0]
        for align in ("auto", "on", "off")
    }
    assert scores["auto"] == scores["on"]
    assert scores["auto"].turn == pytest.approx(30)
    assert scores["off"].turn == 0
    assert scores["off"].scores != scores["on"].scores
    plain = load(tiny_model, detector=BrightSpots()).analyze(leaning, color="rgb")[0]
    assert plain.scores == scores["off"].scores
    with pytest.raises(UsageError, match="align"):
        load(tiny_model, detector=Leaning(), align="yes")


def test_thorough_requires_a_detector_given_by_name(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def note_it(name: str, **options: Any) -> BrightSpots:
        calls.append({"name": name, **options})
        return BrightSpots()

    monkeypatch.setattr(recognizer_module, "load_detector", note_it)
    load(tiny_model, detector="libface")
    load(tiny_model, detector="libface", thorough=True)
    assert [one["thorough"] for one in calls] == [False, True]
    with pytest.raises(UsageError, match="thorough=True needs a detector given by name"):
        load(tiny_model, detector=BrightSpots(), thorough=True)


def test_the_types_of_load_can_be_looked_up() -> None:
    assert get_type_hints(mien.load)["threads"] == int | None
