from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from head_maker import write_head_model
from mien.core.errors import ModelError
from mien.inference.classifier import Classifier
from mien.inference.explain import explain_faces
from mien.inference.gradcam import gradcam_maps
from mien.inference.head import read_head

pytest.importorskip("onnx")

FACES = np.random.default_rng(1).integers(0, 256, (4, 48, 48)).astype(np.uint8)


@pytest.fixture
def classifier(tmp_path: Path) -> Classifier:
    return Classifier.open(write_head_model(tmp_path / "with_head"), threads=1)


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


def test_gradcam_refuses_what_it_would_misread(
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
