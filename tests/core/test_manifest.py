from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mien.core.calibration import Temperature
from mien.core.emotions import EMOTIONS
from mien.core.errors import ModelError
from mien.core.manifest import Manifest, ModelFile, load_manifest, write_manifest
from mien.core.models import MANIFEST_NAME, MODEL_NAME


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder; its network is never run here."""
    (tmp_path / MODEL_NAME).write_bytes(b"weights")
    write_manifest(tmp_path, _manifest(tmp_path))
    return tmp_path


def _manifest(folder: Path, **changes: Any) -> Manifest:
    known: dict[str, Any] = {
        "name": "mien-test",
        "version": "1.2.3",
        "created": "2025-01-01",
        "file": ModelFile.of(folder / MODEL_NAME),
        "temperature": 1.25,
        "thresholds": {"fear": 0.4},
        "data": {"name": "FER-2013"},
        "metrics": {"accuracy": 0.7},
        "config": {"seed": 1},
        "versions": {"keras": "3"},
    }
    return Manifest(**{**known, **changes})


def _damage(folder: Path, key: str, value: object) -> None:
    path = folder / MANIFEST_NAME
    content = json.loads(path.read_text())
    content[key] = value
    path.write_text(json.dumps(content))


def _one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_round_trip(folder: Path) -> None:
    assert load_manifest(folder) == _manifest(folder)


def test_the_json_is_the_contract(folder: Path) -> None:
    content = json.loads((folder / MANIFEST_NAME).read_text())
    assert content["schema"] == "mien-model/1"
    assert content["labels"] == list(EMOTIONS)
    assert content["input"] == {
        "name": "faces",
        "dtype": "uint8",
        "shape": [None, 48, 48],
        "color": "grey",
        "range": [0, 255],
    }
    assert content["outputs"] == {"logits": "logits", "features": "features"}
    assert set(content["file"]) == {"name", "sha256", "bytes"}
    assert content["file"]["bytes"] == 7
    assert content["temperature"] == 1.25


def test_missing_threshold_is_0(folder: Path) -> None:
    manifest = load_manifest(folder)
    assert manifest.threshold("fear") == 0.4
    assert manifest.threshold("happy") == 0.0


def test_writing_leaves_no_other_file_behind(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST_NAME, MODEL_NAME]


def test_manifest_with_nan_is_not_written(folder: Path) -> None:
    before = (folder / MANIFEST_NAME).read_text()
    with pytest.raises(ModelError, match="JSON"):
        write_manifest(folder, _manifest(folder, metrics={"loss": float("nan")}))
    assert (folder / MANIFEST_NAME).read_text() == before


def test_changed_weights_are_refused(folder: Path) -> None:
    (folder / MODEL_NAME).write_bytes(b"Weights")
    with pytest.raises(ModelError, match="does not match its manifest") as error:
        load_manifest(folder)
    _one_line(error)


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / MODEL_NAME).unlink()
    with pytest.raises(ModelError, match=MODEL_NAME):
        load_manifest(folder)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="mien export") as error:
        load_manifest(tmp_path)
    _one_line(error)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b'{"a": 1}'])
def test_a_damaged_manifest_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ModelError, match=MANIFEST_NAME) as error:
        load_manifest(folder)
    _one_line(error)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", "mien-model/2"),
        ("labels", list(reversed(EMOTIONS))),
        ("labels", ["happy", "happy"]),
        ("labels", ["happy", 1]),
        ("labels", "happy"),
        ("input", {"name": "image"}),
        ("outputs", {"logits": "probabilities"}),
        ("temperature", 0),
        ("temperature", "1"),
        ("temperature", True),
        ("thresholds", {"joy": 0.5}),
        ("thresholds", {"happy": 1.5}),
        ("thresholds", []),
        ("labels", ["happy", " "]),
        ("labels", [f"class {number}" for number in range(100_000)]),
        ("temperature", 10**400),
        ("temperature", 1e-300),
        ("entropy_exponent", 1000),
        ("entropy_exponent", 10**400),
        ("augmented", {"temperature": 10**400}),
        ("augmented", {"temperature": 1, "entropy_exponent": -1e9}),
        ("bias", {"happy": 1e308}),
        ("bias", {"happy": -(10**400)}),
        ("thresholds", {"happy": 10**400}),
        ("schema", ["x" * 100_000]),
        ("input", {"x" * 100_000: 1}),
        ("file", {"name": "../model.onnx", "sha256": "", "bytes": 1}),
        ("file", {"name": "model\0.onnx", "sha256": "", "bytes": 1}),
        ("file", {"name": "", "sha256": "", "bytes": 1}),
        ("file", {"name": ".", "sha256": "", "bytes": 1}),
        ("file", None),
        ("name", None),
        ("version", 1),
        ("metrics", 0.7),
    ],
)
def test_invalid_manifest_is_rejected(folder: Path, key: str, value: object) -> None:
    _damage(folder, key, value)
    with pytest.raises(ModelError, match=r"expected|not a label") as error:
        load_manifest(folder)
    assert str(folder / MANIFEST_NAME) in _one_line(error)
    assert len(_one_line(error)) < 1000


@pytest.mark.parametrize(
    "content",
    [
        "[" * 200_000,
        '{"schema": "mien-model/1", "name": "\\ud800"}',
        '{"schema": "mien-model/1", "temperature": NaN}',
        '{"schema": "mien-model/1", "temperature": -Infinity}',
        "9" * 5000,
        "\ufeff{}",
        " " * 16_000_001,
    ],
    ids=["deep", "half a character", "NaN", "infinity", "digits", "byte order mark", "huge"],
)
def test_unusable_json_is_rejected_in_one_line(folder: Path, content: str) -> None:
    (folder / MANIFEST_NAME).write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=MANIFEST_NAME) as error:
        load_manifest(folder)
    assert len(_one_line(error)) < 1000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", [MANIFEST_NAME, MODEL_NAME])
def test_special_files_are_rejected_without_blocking(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=name):
        load_manifest(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(ModelError, match=name):
        load_manifest(folder)


def test_own_classes_need_labels_none(folder: Path) -> None:
    write_manifest(folder, _manifest(folder, labels=("calm", "tense"), thresholds={"calm": 0.5}))
    with pytest.raises(ModelError, match="calm, tense"):
        load_manifest(folder)
    assert load_manifest(folder, labels=None).labels == ("calm", "tense")


def test_defaults_for_older_manifests(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    content = json.loads(path.read_text())
    for key in ("entropy_exponent", "augmented", "bias", "precision"):
        del content[key]
    path.write_text(json.dumps(content))
    manifest = load_manifest(folder)
    assert (manifest.calibration, manifest.augmented) == (Temperature(1.25), None)
    assert (manifest.bias, manifest.precision) == ({}, "float32")


def test_calibration_and_precision_round_trip(folder: Path) -> None:
    written = _manifest(
        folder,
        entropy_exponent=0.3,
        augmented=Temperature(1.1, 0.2),
        bias={"disgust": 0.5},
        precision="int8",
    )
    write_manifest(folder, written)
    assert load_manifest(folder) == written
    assert written.calibration == Temperature(1.25, 0.3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("entropy_exponent", "warm"),
        ("augmented", 1.2),
        ("augmented", {"temperature": 0}),
        ("augmented", {"entropy_exponent": 0.1}),
        ("bias", {"bored": 0.1}),
        ("bias", {"happy": "much"}),
        ("precision", "int4"),
    ],
)
def test_invalid_calibration_is_rejected(folder: Path, key: str, value: object) -> None:
    _damage(folder, key, value)
    with pytest.raises(ModelError) as error:
        load_manifest(folder)
    assert str(folder) in _one_line(error)
