from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

import mien
from head_maker import head_onnx, write_head_model
from mien.core.errors import ModelError, UnreadableImage, UsageError
from mien.core.models import EXPLANATION_METHODS
from mien.inference.classifier import Classifier
from mien.inference.explain import (
    Explanation,
    explain,
    explain_faces,
    gradcam_maps,
    occlusion_maps,
    read_head,
)

pytest.importorskip("onnx")

FACES = np.random.default_rng(1).integers(0, 256, (4, 48, 48)).astype(np.uint8)


@pytest.fixture
def classifier(tmp_path: Path) -> Classifier:
    return Classifier.open(write_head_model(tmp_path / "with_head"), threads=1)


class OnePlace:
    """Fake classifier whose score of happy is the brightness of one place."""

    labels = mien.EMOTIONS

    def __init__(self, row: int, column: int) -> None:
        self.place = (slice(None), slice(row - 2, row + 3), slice(column - 2, column + 3))

    def classify(self, faces: npt.NDArray[np.uint8], **_: Any) -> npt.NDArray[np.float32]:
        happy = faces[self.place].mean(axis=(1, 2), dtype=np.float32) / 255
        others = np.repeat(((1 - happy) / 6)[:, None], 7, axis=1)
        others[:, mien.EMOTIONS.index("happy")] = happy
        return others


@pytest.mark.parametrize("method", EXPLANATION_METHODS)
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
def test_occlusion_is_hottest_where_the_score_comes_from(row: int, column: int) -> None:
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


def test_evidence_against_an_emotion_has_no_heat() -> None:
    face = np.full((1, 48, 48), 200, np.uint8)
    face[OnePlace(24, 24).place] = 10
    classifier: Any = OnePlace(24, 24)
    (found,) = explain_faces(classifier, face, emotion="happy")
    assert found.heat.max() == 0
    assert (found.peak, found.hottest, found.part) == (0, None, None)
    (other,) = explain_faces(classifier, face, emotion="sad")
    assert other.peak > 0


def test_no_faces_return_no_explanations(classifier: Classifier) -> None:
    for method in EXPLANATION_METHODS:
        assert explain_faces(classifier, FACES[:0], method=method) == []


def test_explanations_match_the_analysis(tiny_model: Path) -> None:
    recognizer = mien.load(tiny_model, detector="none", threads=1)
    image = np.random.default_rng(4).integers(0, 256, (90, 70, 3)).astype(np.uint8)
    (face,) = recognizer.analyze(image, color="bgr")
    for method in EXPLANATION_METHODS:
        (found,) = explain(recognizer, image, color="bgr", method=method)
        assert found.face == face
        assert found.crop.shape == (90, 70, 3)
        assert found.explanation.score == pytest.approx(face.confidence, abs=1e-6)
        (named,) = explain(recognizer, image, color="bgr", method=method, emotion="Anger")
        assert named.explanation.emotion == "angry"
        assert named.explanation.score == pytest.approx(face.scores["angry"], abs=1e-6)


@pytest.mark.parametrize("detector", ["haar", "libface"])
def test_explanations_of_a_photo_match_the_analysis(
    tiny_model: Path, shared: Path, detector: str
) -> None:
    recognizer = mien.load(tiny_model, detector=detector, threads=1)
    photo = shared / "photos" / "group_three.jpg"
    faces = recognizer.analyze(photo)
    found = explain(recognizer, photo, method="gradcam")
    assert [each.face for each in found] == faces
    for each in found:
        assert each.explanation.score == pytest.approx(each.face.confidence, abs=1e-5)
    (last,) = explain(recognizer, photo, method="gradcam", face_id=1)
    assert last.face == faces[1]


def test_a_recognizer_explains_its_results(tiny_model: Path) -> None:
    recognizer = mien.load(tiny_model, detector="none")
    image = np.repeat(FACES[0, :, :, None], 3, axis=2)
    (found,) = recognizer.explain(image, color="rgb", emotion="happy")
    (expected,) = explain(recognizer, image, color="rgb", emotion="happy")
    assert found.face == expected.face
    assert found.explanation.to_dict() == expected.explanation.to_dict()
    assert (
        recognizer.explain(image, color="rgb", method="gradcam")[0].explanation.method == "gradcam"
    )


def test_an_unreadable_image_does_not_stop_the_others(tiny_model: Path, tmp_path: Path) -> None:
    recognizer = mien.load(tiny_model, detector="none")
    found = recognizer.explain_many([FACES[0], tmp_path / "nothing.jpg", FACES[1]])
    assert [one.result.status for one in found] == ["ok", "unreadable", "ok"]
    assert [len(one.faces) for one in found] == [1, 0, 1]
    (alone,) = recognizer.explain(FACES[1])
    assert found[2].faces[0].explanation.to_dict() == alone.explanation.to_dict()
    with pytest.raises(UsageError, match="use explain for a single image"):
        recognizer.explain_many(FACES[0])
    with pytest.raises(UsageError, match="unknown emotion 'bored'"):
        recognizer.explain_many([], emotion="bored")


def test_invalid_calls_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    recognizer = mien.load(tiny_model, detector="none", threads=1)
    image = np.zeros((60, 60), np.uint8)
    with pytest.raises(UsageError, match=r"no face 3 in this image: expected 0$"):
        explain(recognizer, image, face_id=3)
    with pytest.raises(UsageError, match="unknown emotion 'bored'"):
        explain(recognizer, image, emotion="bored")
    with pytest.raises(UsageError, match=r"expected method=.* got 'magic'"):
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


# ---------------------------------------------------------------- occlusion


class TwoPlaces:
    """Fake classifier: one pixel is evidence for the first class, another against it."""

    spoken_for, spoken_against = (10, 30), (40, 5)

    def classify(self, faces: npt.NDArray[np.uint8], *, batch_size: int) -> Any:
        del batch_size
        value = faces[:, 10, 30].astype(np.float32) - faces[:, 40, 5]
        return np.stack([value, -value], axis=1) / 255


def test_each_face_has_the_map_of_its_class() -> None:
    classifier: Any = TwoPlaces()
    scores = classifier.classify(FACES, batch_size=8)
    together = occlusion_maps(classifier, FACES, np.array([0, 1, 1, 0]), scores, 8)
    for number, index in enumerate([0, 1, 1, 0]):
        one = slice(number, number + 1)
        alone = occlusion_maps(classifier, FACES[one], np.array([index]), scores[one], 8)
        np.testing.assert_array_equal(together[one], alone)
    assert occlusion_maps(classifier, FACES[:0], np.zeros(0, int), scores[:0], 8).shape[0] == 0


# ---------------------------------------------------------------- gradcam


def test_gradcam_follows_its_formula(classifier: Classifier) -> None:
    assert classifier.path is not None
    features = classifier.features(FACES).astype(np.float64)
    gradients = read_head(classifier.path).gradients(features, np.full(4, 5))
    for number, found in enumerate(gradcam_maps(classifier, FACES, np.full(4, 5), 3)):
        cells = np.zeros((3, 3), np.float32)
        for row in range(3):
            for column in range(3):
                cells[row, column] = max(0.0, features[number, row, column] @ gradients[number])
        enlarged = cv2.resize(cells, (48, 48), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(found, enlarged, atol=1e-5)


def test_gradcam_refuses_unsupported_models(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_head_model(tmp_path / "other", seed=9) / "model.onnx"
    monkeypatch.setattr(classifier, "path", other)
    with pytest.raises(ModelError, match="misreads"):
        explain_faces(classifier, FACES, method="gradcam")
    monkeypatch.setattr(classifier, "path", None)
    with pytest.raises(ModelError, match=r"Classifier\.open"):
        explain_faces(classifier, FACES, method="gradcam")
    sigmoid = write_head_model(tmp_path / "sigmoid", activation="Sigmoid")
    odd = Classifier.open(sigmoid, threads=1)
    with pytest.raises(ModelError, match="occlusion"):
        explain_faces(odd, FACES, method="gradcam")
    assert len(explain_faces(odd, FACES)) == 4


# ---------------------------------------------------------------- head
NINE = np.random.default_rng(0).integers(0, 256, (9, 48, 48)).astype(np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_head_model(tmp_path / "with_head")


@pytest.mark.parametrize("float_data", [False, True])
def test_the_head_reproduces_the_logits(tmp_path: Path, float_data: bool) -> None:
    folder = write_head_model(tmp_path / "m", float_data=float_data)
    classifier = Classifier.open(folder, threads=1)
    head = read_head(folder / "model.onnx")
    assert [layer is None for layer in head.layers] == [False, False, True, False]
    found = head.logits(classifier.features(NINE))
    np.testing.assert_allclose(found, classifier.logits(NINE), atol=1e-4)


@pytest.mark.parametrize("chosen", range(7))
def test_gradients_match_finite_differences(model: Path, chosen: int) -> None:
    head = read_head(model / "model.onnx")
    features = Classifier.open(model, threads=1).features(NINE).astype(np.float64)
    found = head.gradients(features, np.full(len(NINE), chosen))
    assert found.shape == (len(NINE), features.shape[3])
    assert (abs(found).max(axis=1) > 0).all()
    step = 1e-6
    for channel in range(features.shape[3]):
        for row, column in ((0, 0), (2, 1)):
            moved = np.zeros_like(features)
            moved[:, row, column, channel] = step
            rise = head.logits(features + moved) - head.logits(features - moved)
            slope = rise[:, chosen] / (2 * step)
            np.testing.assert_allclose(found[:, channel], slope, atol=1e-6)


def test_gradients_are_of_each_faces_class(model: Path) -> None:
    head = read_head(model / "model.onnx")
    features = Classifier.open(model, threads=1).features(NINE)
    mixed = head.gradients(features, np.arange(9) % 7)
    for number in range(9):
        alone = head.gradients(features[number : number + 1], np.array([number % 7]))
        np.testing.assert_allclose(mixed[number : number + 1], alone)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"activation": "Sigmoid"}, "there is Sigmoid between"),
        ({"stray": True}, "there is GlobalAveragePool between"),
    ],
)
def test_an_unsupported_head_is_reported(
    tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(head_onnx(**options))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=reason) as caught:
        read_head(path)
    assert "--method occlusion" in str(caught.value)


def test_cyclic_nodes_are_refused(tmp_path: Path) -> None:
    import onnx

    nodes = [
        onnx.helper.make_node("Relu", ["a"], ["logits"]),
        onnx.helper.make_node("Relu", ["logits"], ["a"]),
    ]
    path = tmp_path / "m.onnx"
    graph = onnx.helper.make_graph(nodes, "round", [], [])
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(ModelError, match="do not come from"):
        read_head(path)
