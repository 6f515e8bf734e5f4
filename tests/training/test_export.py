from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import run_maker
from mien.core.emotions import EMOTIONS
from mien.core.errors import InputError, MissingExtra, ModelError, OutputError, UsageError
from mien.core.manifest import ModelFile, load_manifest
from mien.inference.classifier import Classifier
from mien.training import export
from mien.training.export import check_agreement, export_run, trial_faces
from mien.training.model import build_model
from mien.training.onnx_converter import keras_to_onnx

# Keras' own way to save a variable of TensorFlow's is not yet NumPy 2's.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture(scope="module")
def finished(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended; leave it as it is."""
    del keras
    return run_maker.write_tiny_run(tmp_path_factory.mktemp("outputs") / "tiny")


@pytest.fixture
def best(keras: Any, finished: Path) -> Any:
    return keras.saving.load_model(finished / "best.keras", compile=False)


@pytest.fixture
def model(finished: Path, tmp_path: Path) -> Path:
    return export_run(finished, tmp_path / "model")


def _content(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden files too."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _probabilities(keras: Any, network: Any, faces: Any) -> Any:
    answer = network(faces[..., None].astype(np.float32), training=False)
    return keras.ops.convert_to_numpy(answer)


def test_the_model_gives_what_the_network_gives(keras: Any, model: Path, best: Any) -> None:
    faces = np.random.default_rng(5).integers(0, 256, (40, 48, 48)).astype(np.uint8)
    expected = _probabilities(keras, best, faces)
    found = Classifier.open(model).classify(faces)
    assert found.std(axis=0).max() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_by_default_it_stands_in_the_runs_folder_under_the_runs_name(
    keras: Any, tmp_path: Path
) -> None:
    del keras
    run = run_maker.write_tiny_run(tmp_path / "mien-tiny")
    folder = export_run(run)
    assert folder == run / "export"
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx"]
    assert load_manifest(folder).name == "mien-tiny"
    assert not list(run.glob(".*"))


def test_the_manifest_tells_where_the_model_comes_from(model: Path) -> None:
    manifest = load_manifest(model)
    assert (manifest.name, manifest.version, manifest.labels) == ("tiny", "1.0.0", EMOTIONS)
    assert datetime.fromisoformat(manifest.created).tzinfo is not None
    assert manifest.file == ModelFile.of(model / "model.onnx")
    assert manifest.data == run_maker.ENVIRONMENT["data"]
    assert manifest.metrics["validation"] == {
        "epoch": 2,
        "size": 32,
        "val_accuracy": 0.45,
        "val_macro_f1": 0.4,
        "val_loss": 1.4,
    }
    assert 0 <= manifest.metrics["export"]["largest_difference"] <= 1e-4
    assert manifest.metrics["export"]["batch_sizes"] == [1, 32]
    assert manifest.versions["keras"] == "3.10.0"
    assert manifest.versions["commit"] == "abc1234"
    assert manifest.config["model"]["plain_channels"] == [4, 8]
    assert manifest.config["training"]["batch_size"] == 64


def test_the_manifest_names_no_folder_of_the_makers_machine(model: Path) -> None:
    manifest = load_manifest(model)
    assert manifest.config["data"]["source"] == "faces.zip"
    assert manifest.config["data"]["votes"] == "votes.csv"
    assert manifest.config["distill"]["teachers"] == ["teacher"]
    assert manifest.config["distill"]["cache"] == "logits"
    assert "some/where" not in (model / "manifest.json").read_text()


def test_a_network_can_start_from_an_exported_model(model: Path, best: Any) -> None:
    start = build_model(
        dataclasses.replace(run_maker.tiny_config().model, weights=str(model)), size=32
    )
    for mine, theirs in zip(start.get_weights(), best.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_network_does_not_start_from_an_exported_model_of_other_widths(model: Path) -> None:
    other = dataclasses.replace(
        run_maker.tiny_config().model, weights=str(model), plain_channels=(4, 6)
    )
    with pytest.raises(ModelError):
        build_model(other, size=32)


def test_name_version_and_temperature_can_be_chosen(finished: Path, tmp_path: Path) -> None:
    folder = export_run(finished, tmp_path / "m", name="mien-x", version="2.0.1", temperature=0.5)
    manifest = load_manifest(folder)
    assert (manifest.name, manifest.version, manifest.temperature) == ("mien-x", "2.0.1", 0.5)
    faces = trial_faces(2)
    classifier = Classifier.open(folder)
    powers = np.exp(classifier.logits(faces).astype(np.float64) / 0.5)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.classify(faces), expected, atol=1e-5)


def test_a_run_that_goes_on_is_exported_with_its_best_epoch_so_far(
    keras: Any, tmp_path: Path
) -> None:
    del keras
    run = run_maker.write_tiny_run(tmp_path / "run", ended=False)
    figures = load_manifest(export_run(run)).metrics["validation"]
    assert figures == {
        "epoch": 2,
        "size": 32,
        "val_accuracy": 0.45,
        "val_macro_f1": 0.4,
        "val_loss": 1.4,
    }


def test_a_network_of_mixed_precision_is_exported_as_its_float32_weights(
    keras: Any, tmp_path: Path
) -> None:
    run = run_maker.write_tiny_run(tmp_path / "run")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = run_maker.tiny_network()
    finally:
        keras.config.set_dtype_policy("float32")
    assert mixed.get_layer("block1_conv").compute_dtype == "bfloat16"
    mixed.save(run / "best.keras")
    faces = trial_faces(4)
    expected = _probabilities(keras, run_maker.tiny_network(), faces)
    found = Classifier.open(export_run(run)).classify(faces)
    np.testing.assert_allclose(found, expected, atol=1e-5)


# ---------------------------------------------------------------- the proof
def _scale_a_weight(proto: Any) -> None:
    from onnx import numpy_helper

    (kernel,) = (item for item in proto.graph.initializer if item.name == "logits/kernel")
    kernel.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(kernel), kernel.name))


def _drift_in_batches(proto: Any) -> None:
    """Add a little to the first logit for every face but one in a batch."""
    from onnx import helper, numpy_helper

    (last,) = (node for node in proto.graph.node if "logits" in node.output)
    last.output[0] = "true_logits"
    constants = {"one": np.float32(1), "drift": np.eye(1, 7, dtype=np.float32)[0] / 1000}
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    proto.graph.node.extend(
        [
            helper.make_node("Shape", ["faces"], ["count"], start=0, end=1),
            helper.make_node("Cast", ["count"], ["faces_in_batch"], to=1),
            helper.make_node("Sub", ["faces_in_batch", "one"], ["others"]),
            helper.make_node("Mul", ["others", "drift"], ["error"]),
            helper.make_node("Add", ["true_logits", "error"], ["logits"]),
        ]
    )


def _not_a_number(proto: Any) -> None:
    from onnx import numpy_helper

    (bias,) = (item for item in proto.graph.initializer if item.name == "logits/bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(7, np.nan, np.float32), bias.name))


def _disturb(folder: Path, change: Callable[[Any], None]) -> None:
    """Change a model's network on disk and make its manifest fit."""
    import onnx

    proto = onnx.load(folder / "model.onnx")
    change(proto)
    onnx.save(proto, folder / "model.onnx")
    manifest = json.loads((folder / "manifest.json").read_text())
    file = ModelFile.of(folder / "model.onnx")
    manifest["file"] = {"name": file.name, "sha256": file.sha256, "bytes": file.size_bytes}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_same_numbers_agree(model: Path, best: Any) -> None:
    assert check_agreement(best, model) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_scale_a_weight, "at batch 1, ONNX Runtime and Keras differ by .* at most 0.0001"),
        (_drift_in_batches, "at batch 32, ONNX Runtime and Keras differ by"),
        (_not_a_number, "not a number"),
    ],
)
def test_a_disturbed_network_is_refused(
    model: Path, best: Any, change: Callable[[Any], None], message: str
) -> None:
    _disturb(model, change)
    with pytest.raises(ModelError, match=message):
        check_agreement(best, model)


def test_a_network_that_gives_no_numbers_in_keras_is_refused(model: Path, best: Any) -> None:
    kernel, bias = best.get_layer("logits").get_weights()
    best.get_layer("logits").set_weights([kernel * np.nan, bias])
    with pytest.raises(ModelError, match="differ by nan"):
        check_agreement(best, model)


def test_what_is_refused_is_not_written_and_an_older_model_stays(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_run(finished, tmp_path / "old")
    before = _content(tmp_path)

    def disturbed(network: Any, **options: Any) -> Any:
        proto = converter(network, **options)
        _scale_a_weight(proto)
        return proto

    converter = keras_to_onnx
    monkeypatch.setattr(export, "keras_to_onnx", disturbed)
    for output in ("old", "new"):
        with pytest.raises(ModelError, match="the export is refused"):
            export_run(finished, tmp_path / output)
    assert _content(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_the_trial_faces_are_always_the_same_noise_and_smooth_ones() -> None:
    faces = trial_faces()
    np.testing.assert_array_equal(faces, trial_faces())
    assert faces.shape == (64, 48, 48)
    assert faces.dtype == np.uint8
    assert (faces[0] == 0).all()
    assert (faces[1] == 255).all()
    steps = np.abs(np.diff(faces[2:].astype(float), axis=2)).mean(axis=(1, 2))
    assert steps[0::2].min() > 60
    assert steps[1::2].max() < 20


# ---------------------------------------------------------------- where it is written
def test_a_newer_model_takes_the_place_of_an_older_and_leaves_other_files(
    keras: Any, finished: Path, tmp_path: Path
) -> None:
    del keras
    target = export_run(finished, tmp_path / "m", version="1.0.0")
    older = load_manifest(target)
    (target / "config.toml").write_text("kept")
    other = run_maker.write_tiny_run(tmp_path / "other", seed=1)
    export_run(other, target, version="1.1.0")
    newer = load_manifest(target)
    assert newer.version == "1.1.0"
    assert newer.file.sha256 != older.file.sha256
    assert (target / "config.toml").read_text() == "kept"


def test_a_folder_of_other_things_is_not_touched(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"jpg")
    with pytest.raises(UsageError, match="holds other things"):
        export_run(finished, tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        export_run(finished, tmp_path / "holiday.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_where_nothing_can_be_written_that_is_said(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        export_run(finished, tmp_path / "file" / "model")


def test_an_empty_folder_may_be_named(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert load_manifest(export_run(finished, tmp_path / "model")).name == "tiny"


# ---------------------------------------------------------------- what is not there
def test_a_missing_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run"):
        export_run(tmp_path / "nowhere")


def test_a_run_without_a_network_says_when_there_will_be_one(keras: Any, tmp_path: Path) -> None:
    del keras
    run = run_maker.write_tiny_run(tmp_path / "run")
    (run / "best.keras").unlink()
    with pytest.raises(InputError, match=r"has no best\.keras yet.*mien train --resume"):
        export_run(run)


def test_a_damaged_network_is_said(keras: Any, tmp_path: Path) -> None:
    del keras
    run = run_maker.write_tiny_run(tmp_path / "run")
    whole = (run / "best.keras").read_bytes()
    for damaged in (b"", b"not a zip", whole[: len(whole) // 2]):
        (run / "best.keras").write_bytes(damaged)
        with pytest.raises(ModelError, match=r"cannot load .*best\.keras"):
            export_run(run)


def test_damaged_records_are_said(keras: Any, tmp_path: Path) -> None:
    del keras
    run = run_maker.write_tiny_run(tmp_path / "run")
    (run / "environment.json").write_text("{")
    with pytest.raises(InputError, match=r"environment\.json is damaged"):
        export_run(run)


@pytest.mark.parametrize("name", ["", "  ", "a/b", ".."])
def test_a_name_that_no_folder_can_have_is_refused(finished: Path, name: str) -> None:
    with pytest.raises(UsageError, match="expected a name"):
        export_run(finished, name=name)


def test_without_keras_the_extra_is_named(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "keras" else find(name)
    )
    with pytest.raises(MissingExtra, match=r"mien\[train\]"):
        export_run(finished)
