"""Export of a run, and joining of two readings; nothing is written without verification."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mien
from mien.core.emotions import EMOTIONS
from mien.core.errors import InputError, MissingExtra, ModelError, OutputError, UsageError
from mien.core.manifest import (
    OUTPUT_CONTRACT,
    PEOPLE_OUTPUTS,
    ModelFile,
    load_manifest,
)
from mien.data.dataset import Split
from mien.evaluation.calibration import calibrate_model
from mien.inference.classifier import Classifier
from mien.inference.explain import gradcam_maps
from mien.training import export
from mien.training.export import check_agreement, export_run, join_run, trial_faces
from mien.training.model import build_model
from mien.training.onnx_converter import keras_to_onnx, read_weights
from mien.training.onnx_graph import join_networks
from training_maker import BATCH, BEST, ENVIRONMENT, run_config, tiny_network, write_tiny_run

FACES = np.random.default_rng(5).integers(0, 256, (40, 48, 48)).astype(np.uint8)


@pytest.fixture(scope="module")
def finished(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; read-only."""
    del keras
    return write_tiny_run(tmp_path_factory.mktemp("outputs") / "tiny")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, which the test may change."""
    return Path(shutil.copytree(finished, tmp_path / "mien-tiny"))


@pytest.fixture
def best(keras: Any, finished: Path) -> Any:
    return keras.saving.load_model(finished / "best.keras", compile=False)


@pytest.fixture
def model(finished: Path, tmp_path: Path) -> Path:
    return export_run(finished, tmp_path / "model")


def _content(folder: Path) -> dict[str, bytes]:
    """All paths below a folder, including hidden files."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _probabilities(keras: Any, network: Any, faces: Any) -> Any:
    answer = network(faces[..., None].astype(np.float32), training=False)
    return keras.ops.convert_to_numpy(answer)


def test_the_model_gives_the_outputs_of_the_network(keras: Any, model: Path, best: Any) -> None:
    expected = _probabilities(keras, best, FACES)
    probabilities = Classifier.open(model).classify(FACES)
    assert probabilities.std(axis=0).max() > 0.05
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_by_default_it_is_in_the_folder_of_the_run_and_has_its_name(run: Path) -> None:
    folder = export_run(run)
    assert folder == run / "export"
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx"]
    assert load_manifest(folder).name == "mien-tiny"
    assert not list(run.glob(".*"))


def test_the_manifest_records_the_origin_of_the_model(model: Path) -> None:
    manifest = load_manifest(model)
    assert (manifest.name, manifest.version, manifest.labels) == ("tiny", "1.0.0", EMOTIONS)
    assert datetime.fromisoformat(manifest.created).tzinfo is not None
    assert manifest.file == ModelFile.of(model / "model.onnx")
    assert manifest.data == ENVIRONMENT["data"]
    assert manifest.metrics["validation"] == BEST
    assert 0 <= manifest.metrics["export"]["largest_difference"] <= 1e-4
    assert manifest.metrics["export"]["batch_sizes"] == [1, 32]
    assert manifest.versions["keras"] == "3.10.0"
    assert manifest.versions["commit"] == "abc1234"
    assert manifest.config["model"]["plain_channels"] == [4, 8]
    assert manifest.config["training"]["batch_size"] == BATCH
    # Of paths, which are the maker's own, only the last part.
    assert manifest.config["data"]["source"] == "faces.zip"
    assert manifest.config["data"]["votes"] == "votes.csv"
    assert manifest.config["distill"]["teachers"] == ["teacher"]
    assert manifest.config["distill"]["cache"] == "logits"
    assert "some/where" not in (model / "manifest.json").read_text()


def test_a_network_starts_from_an_exported_model_of_its_widths(model: Path, best: Any) -> None:
    settings = dataclasses.replace(run_config().model, weights=str(model))
    start = build_model(settings, size=32)
    for mine, theirs in zip(start.get_weights(), best.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(ModelError):
        build_model(dataclasses.replace(settings, plain_channels=(4, 6)), size=32)


def test_name_and_version_can_be_chosen(finished: Path, tmp_path: Path) -> None:
    folder = export_run(finished, tmp_path / "m", name="mien-x", version="2.0.1")
    manifest = load_manifest(folder)
    assert (manifest.name, manifest.version, manifest.temperature) == ("mien-x", "2.0.1", 1.0)


def test_an_unfinished_run_is_exported_with_its_best_epoch_so_far(run: Path) -> None:
    (run / "summary.json").unlink()
    assert load_manifest(export_run(run)).metrics["validation"] == BEST


def test_a_network_of_mixed_precision_is_exported_as_its_float32_weights(
    keras: Any, run: Path
) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = tiny_network()
    finally:
        keras.config.set_dtype_policy("float32")
    assert mixed.get_layer("block1_conv").compute_dtype == "bfloat16"
    mixed.save(run / "best.keras")
    faces = trial_faces(4)
    expected = _probabilities(keras, tiny_network(), faces)
    probabilities = Classifier.open(export_run(run)).classify(faces)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


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
    """Change a model's network on disk and adapt its manifest."""
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


def test_a_network_with_nan_outputs_in_keras_is_refused(model: Path, best: Any) -> None:
    kernel, bias = best.get_layer("logits").get_weights()
    best.get_layer("logits").set_weights([kernel * np.nan, bias])
    with pytest.raises(ModelError, match="differ by nan"):
        check_agreement(best, model)


def test_a_refused_model_is_not_written_and_an_older_one_is_kept(
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
def test_a_newer_model_replaces_an_older_one_and_keeps_other_files(
    finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    target = export_run(finished, tmp_path / "m", version="1.0.0")
    older = load_manifest(target)
    (target / "config.toml").write_text("kept")
    other = write_tiny_run(tmp_path / "other", seed=1)
    export_run(other, target, version="1.1.0")
    newer = load_manifest(target)
    assert newer.version == "1.1.0"
    assert newer.file.sha256 != older.file.sha256
    assert (target / "config.toml").read_text() == "kept"


def test_a_folder_of_other_things_is_not_touched(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "A web app"}')
    with pytest.raises(UsageError, match="holds other files"):
        export_run(finished, tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        export_run(finished, tmp_path / "manifest.json")
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_an_unwritable_folder_is_an_error(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        export_run(finished, tmp_path / "file" / "model")


# ---------------------------------------------------------------- what is not there
def test_missing_or_damaged_files_are_errors(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run"):
        export_run(tmp_path / "nowhere")
    whole = (run / "best.keras").read_bytes()
    for damaged in (b"", b"not a zip", whole[: len(whole) // 2]):
        (run / "best.keras").write_bytes(damaged)
        with pytest.raises(ModelError, match=r"cannot load .*best\.keras"):
            export_run(run)
    (run / "best.keras").unlink()
    with pytest.raises(InputError, match=r"has no best\.keras yet.*mien train --resume"):
        export_run(run)


def test_damaged_records_are_errors(run: Path) -> None:
    (run / "environment.json").write_text("{")
    with pytest.raises(InputError, match=r"environment\.json is damaged"):
        export_run(run)


@pytest.mark.parametrize("name", ["", "  ", "a/b", ".."])
def test_a_name_that_no_folder_can_have_is_refused(finished: Path, name: str) -> None:
    with pytest.raises(UsageError, match="expected a name"):
        export_run(finished, name=name)


def test_missing_keras_names_the_extra(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "keras" else find(name)
    )
    with pytest.raises(MissingExtra, match=r"mien\[train\]"):
        export_run(finished)


# ---------------------------------------------------------------- two readings
@pytest.fixture(scope="module")
def runs(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run trained on labels and one on votes; read-only."""
    del keras
    folder = tmp_path_factory.mktemp("outputs")
    labels = write_tiny_run(folder / "labels", seed=1)
    return labels, write_tiny_run(folder / "votes", seed=2, targets="votes")


@pytest.fixture(scope="module")
def models(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The exports of both runs; read-only."""
    folder = tmp_path_factory.mktemp("models")
    labels = export_run(runs[0], folder / "labels", version="1.2.0")
    return labels, export_run(runs[1], folder / "votes")


@pytest.fixture(scope="module")
def both(runs: tuple[Path, Path], models: tuple[Path, Path]) -> Path:
    """A model with both readings; read-only."""
    return join_run(runs[1], models[0], models[0].with_name("both"), version="1.3.0")


def test_each_reading_gives_the_outputs_of_its_run(models: tuple[Path, Path], both: Path) -> None:
    for model, reading in zip(models, ("fer2013", "people"), strict=True):
        alone, found = Classifier.open(model), Classifier.open(both, reading=reading)
        assert alone.manifest.reading == found.manifest.info.labels == reading
        np.testing.assert_allclose(found.classify(FACES), alone.classify(FACES), atol=1e-6)
        np.testing.assert_allclose(found.features(FACES), alone.features(FACES), atol=1e-5)


def test_an_exported_model_joins_as_its_run_does(
    models: tuple[Path, Path], both: Path, tmp_path: Path
) -> None:
    joined = join_run(models[1], models[0], tmp_path / "both", version="1.3.0")
    assert (joined / "model.onnx").read_bytes() == (both / "model.onnx").read_bytes()
    expected, found = (load_manifest(folder).to_dict() for folder in (both, joined))
    assert {**found, "created": ""} == {**expected, "created": ""}
    with pytest.raises(UsageError, match="a start share needs a run"):
        join_run(models[1], models[0], tmp_path / "other", start_share=0.5)


def test_people_is_the_default_reading_and_named_in_results(both: Path) -> None:
    for labels, expected in ((None, "people"), ("fer2013", "fer2013")):
        recognizer = mien.load(both, detector="none", labels=labels)
        assert recognizer.model.labels == expected
        assert recognizer.analyze_result(FACES[0]).to_dict()["labels"] == expected
    with pytest.raises(ModelError, match="no labels 'own'"):
        mien.load(both, detector="none", labels="own")


def test_older_programs_find_the_first_reading(both: Path) -> None:
    manifest = load_manifest(both)
    assert (manifest.version, manifest.reading) == ("1.3.0", "fer2013")
    assert manifest.outputs == OUTPUT_CONTRACT
    people = manifest.to_dict()["readings"]["people"]
    assert people["outputs"] == PEOPLE_OUTPUTS
    assert list(people["metrics"]) == ["validation", "export"]
    assert manifest.with_reading("people").to_dict() == manifest.to_dict()


def test_a_calibration_on_votes_applies_to_people_only(both: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(both, tmp_path / "own"))
    before = load_manifest(folder)
    people = Classifier.open(folder).classify(FACES)
    random = np.random.default_rng(0)
    votes = np.stack([random.multinomial(10, row / row.sum()) for row in people.astype(np.float64)])
    names = tuple(map(str, range(len(FACES))))
    split = Split("val", FACES, np.zeros(len(FACES), np.int64), names)
    figures = calibrate_model(folder, split, votes=votes, quiet=True)
    assert (figures["images"], figures["answers"]) == (len(FACES), 10 * len(FACES))
    after = load_manifest(folder)
    assert after.with_reading("people").thresholds
    assert (after.temperature, after.thresholds) == (before.temperature, before.thresholds)
    # Votes that were drawn by the scores leave them about as they are.
    assert after.with_reading("people").temperature == pytest.approx(1, abs=0.3)


def test_a_start_share_interpolates_the_weights(
    models: tuple[Path, Path], keras: Any, tmp_path: Path
) -> None:
    start = tmp_path / "start.keras"
    tiny_network(seed=9).save(start)
    run = write_tiny_run(tmp_path / "run", seed=2, targets="votes")
    config = (run / "config.toml").read_text().replace('"none"', f'"{start}"')
    (run / "config.toml").write_text(config)
    model = join_run(run, models[0], tmp_path / "half", start_share=0.25)
    first, own = (
        keras.saving.load_model(path, compile=False).get_layer("logits").get_weights()[0]
        for path in (start, run / "best.keras")
    )
    found = read_weights(model / "model.onnx", PEOPLE_OUTPUTS)["logits/kernel"]
    np.testing.assert_allclose(found, 0.25 * first + 0.75 * own, atol=1e-6)
    assert load_manifest(model).with_reading("people").metrics["start_share"] == 0.25


def test_training_starts_from_the_first_reading(models: tuple[Path, Path], both: Path) -> None:
    expected, found = (read_weights(model / "model.onnx") for model in (models[0], both))
    assert list(found) == list(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_grad_cam_reads_either_reading(both: Path) -> None:
    faces, classes = FACES[:2], np.array([0, 3])
    maps = [
        gradcam_maps(Classifier.open(both, reading=reading), faces, classes, batch_size=8)
        for reading in ("people", "fer2013")
    ]
    assert not np.allclose(maps[0], maps[1])


@pytest.mark.parametrize(("votes", "labels"), [(0, 0), (1, 1)])
def test_only_a_run_on_votes_joins_a_model_on_labels(
    runs: tuple[Path, Path], models: tuple[Path, Path], tmp_path: Path, votes: int, labels: int
) -> None:
    for source in (runs[votes], models[votes]):
        with pytest.raises(UsageError, match="and a model of FER-2013"):
            join_run(source, models[labels], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_a_joined_model_with_other_outputs_is_refused(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disturbed(first: Any, second: Any) -> Any:
        _scale_a_weight(first)
        return join_networks(first, second)

    monkeypatch.setattr(export, "join_networks", disturbed)
    with pytest.raises(ModelError, match="as fer2013 it differs"):
        join_run(models[1], models[0], tmp_path / "both")
    assert not list(tmp_path.iterdir())
