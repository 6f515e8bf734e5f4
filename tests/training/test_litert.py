from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from mien.core.errors import MissingExtra, ModelError, UsageError
from mien.core.files import sha256_of
from mien.core.manifest import load_manifest, write_manifest
from mien.inference.classifier import Classifier
from mien.training import export
from mien.training.export import (
    TFLITE_NAME,
    TFLITE_NOTES,
    export_run,
    export_tflite,
    open_tflite,
    trial_faces,
)
from training_maker import write_tiny_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its export and its LiteRT network; read-only."""
    pytest.importorskip("tensorflow")
    keras = pytest.importorskip("keras")
    pytest.importorskip("onnx")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("needs Keras on TensorFlow")
    folder = write_tiny_run(tmp_path_factory.mktemp("outputs") / "tiny")
    manifest = load_manifest(export_run(folder))
    write_manifest(folder / "export", dataclasses.replace(manifest, temperature=1.3))
    export_tflite(folder, folder / "export")
    return folder


def test_logits_match_the_exported_model(run: Path) -> None:
    faces = trial_faces(6, seed=4)
    logits = open_tflite((run / "export" / TFLITE_NAME).read_bytes())(faces)
    expected = Classifier.open(run / "export").logits(faces)
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_metadata_has_what_a_program_needs(run: Path) -> None:
    notes = json.loads((run / "export" / TFLITE_NOTES).read_text())
    manifest = load_manifest(run / "export")
    assert notes["labels"] == list(manifest.labels)
    assert (notes["schema"], notes["temperature"]) == ("mien-tflite/1", 1.3)
    assert (notes["input"]["shape"], notes["input"]["dtype"]) == ([1, 48, 48], "uint8")
    assert notes["output"] == {"name": "logits", "dtype": "float32", "shape": [1, 7]}
    assert notes["file"]["sha256"] == sha256_of(run / "export" / TFLITE_NAME)
    assert 0 <= notes["largest_difference"] <= 1e-4


def test_a_differing_model_is_refused_and_not_written(run: Path, tmp_path: Path) -> None:
    other = export_run(write_tiny_run(tmp_path / "other", seed=5))
    with pytest.raises(ModelError, match="refused: it differs"):
        export_tflite(run, other)
    assert not (other / TFLITE_NAME).exists()


def test_requires_keras_on_tensorflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="LiteRT"):
        export.require_tensorflow()
    monkeypatch.setattr(export, "find_spec", lambda _: object())
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(UsageError, match="it runs on torch"):
        export.require_tensorflow()
