"""A run that learnt votes becomes a model's people's reading; what the model said stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mien
import run_maker
from mien.core.errors import ModelError, UsageError
from mien.core.manifest import OUTPUT_CONTRACT, PEOPLE_OUTPUTS, load_manifest
from mien.evaluation.temperature import calibrate_model
from mien.inference.classifier import Classifier
from mien.inference.explain import gradcam_maps
from mien.training.export import export_run, join_run, load_best
from mien.training.onnx_converter import load_onnx_weights, read_weights
from mien.training.run_folder import RunFolder

# Keras' own way to save a variable of TensorFlow's is not yet NumPy 2's.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

FACES = np.random.default_rng(5).integers(0, 256, (40, 48, 48)).astype(np.uint8)


@pytest.fixture(scope="module")
def runs(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of labels and one of votes; leave them as they are."""
    del keras
    folder = tmp_path_factory.mktemp("outputs")
    labels = run_maker.write_tiny_run(folder / "labels", seed=1)
    return labels, run_maker.write_tiny_run(folder / "votes", seed=2, targets="votes")


@pytest.fixture(scope="module")
def both(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with both readings; leave it as it is."""
    folder = tmp_path_factory.mktemp("models")
    base = export_run(runs[0], folder / "base", version="1.2.0")
    return join_run(runs[1], base, folder / "both", version="1.3.0")


def test_each_reading_is_its_own_runs(runs: tuple[Path, Path], both: Path, tmp_path: Path) -> None:
    for run, reading in zip(runs, ("fer2013", "people"), strict=True):
        alone = Classifier.open(export_run(run, tmp_path / reading))
        assert alone.manifest.reading == reading
        found = Classifier.open(both, reading=reading)
        assert found.manifest.info.labels == reading
        np.testing.assert_allclose(found.classify(FACES), alone.classify(FACES), atol=1e-6)
        np.testing.assert_allclose(found.features(FACES), alone.features(FACES), atol=1e-5)


def test_people_are_the_default_and_every_result_says_so(both: Path) -> None:
    recognizer = mien.load(both, detector="none")
    assert recognizer.model.labels == "people"
    result = recognizer.analyze_result(FACES[0])
    assert result.to_dict()["labels"] == "people"
    other = mien.load(both, detector="none", labels="fer2013")
    assert other.analyze_result(FACES[0]).to_dict()["labels"] == "fer2013"
    with pytest.raises(ModelError, match="no labels 'own'"):
        mien.load(both, detector="none", labels="own")


def test_older_programs_find_the_first_reading_where_it_always_was(both: Path) -> None:
    manifest = load_manifest(both)
    assert (manifest.version, manifest.reading) == ("1.3.0", "fer2013")
    assert manifest.outputs == OUTPUT_CONTRACT
    assert manifest.to_dict()["readings"]["people"]["outputs"] == PEOPLE_OUTPUTS
    assert manifest.read_by("people").to_dict() == manifest.to_dict()


def test_a_calibration_on_votes_is_the_peoples_alone(both: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(both, tmp_path / "own"))
    before = load_manifest(folder)
    people = Classifier.open(folder).classify(FACES)
    random = np.random.default_rng(0)
    votes = np.stack([random.multinomial(10, row / row.sum()) for row in people.astype(np.float64)])
    labels = np.zeros(len(FACES), np.int64)
    figures = calibrate_model(
        folder, FACES, labels, split="val", votes=votes, reading="people", quiet=True
    )
    assert (figures["images"], figures["answers"]) == (len(FACES), 10 * len(FACES))
    after = load_manifest(folder)
    assert after.read_by("people").thresholds
    assert (after.temperature, after.thresholds) == (before.temperature, before.thresholds)
    # Votes that were drawn by the scores leave them about as they are.
    assert after.read_by("people").temperature == pytest.approx(1, abs=0.3)


def test_a_share_of_the_start_is_between_both(
    runs: tuple[Path, Path], keras: Any, tmp_path: Path
) -> None:
    base = export_run(runs[0], tmp_path / "base")
    start = tmp_path / "start.keras"
    run_maker.tiny_network(seed=9).save(start)
    run = run_maker.write_tiny_run(tmp_path / "run", seed=2, targets="votes")
    config = (run / "config.toml").read_text().replace('"none"', f'"{start}"')
    (run / "config.toml").write_text(config)
    model = join_run(run, base, tmp_path / "half", start_share=0.25)
    first = read_weights(export_run(runs[0], tmp_path / "x") / "model.onnx")
    kernels = [
        network.get_layer("logits").get_weights()[0]
        for network in (
            keras.saving.load_model(start, compile=False),
            keras.saving.load_model(run / "best.keras", compile=False),
        )
    ]
    found = read_weights(model / "model.onnx", PEOPLE_OUTPUTS)["logits/kernel"]
    np.testing.assert_allclose(found, 0.25 * kernels[0] + 0.75 * kernels[1], atol=1e-6)
    same = read_weights(model / "model.onnx")
    assert all(np.array_equal(same[name], first[name]) for name in first)


def test_grad_cam_reads_either_reading(both: Path) -> None:
    maps = [
        gradcam_maps(
            Classifier.open(both, reading=reading), FACES[:2], np.array([0, 3]), batch_size=8
        )
        for reading in ("people", "fer2013")
    ]
    assert not np.allclose(maps[0], maps[1])


def test_training_starts_from_the_first_reading(runs: tuple[Path, Path], both: Path) -> None:
    from mien.training.config import load_config

    network = load_best(RunFolder(runs[0]), load_config(runs[0] / "config.toml"))
    expected = [np.array(value) for value in network.get_weights()]
    for layer in network.layers:
        layer.set_weights([np.zeros_like(value) for value in layer.get_weights()])
    load_onnx_weights(both / "model.onnx", network)
    kernel = network.get_layer("logits").get_weights()[0]
    assert any(np.array_equal(kernel, value) for value in expected)


@pytest.mark.parametrize(("run", "model"), [(0, 0), (1, 1)])
def test_only_votes_join_only_labels(
    runs: tuple[Path, Path], tmp_path: Path, run: int, model: int
) -> None:
    base = export_run(runs[model], tmp_path / "base")
    with pytest.raises(UsageError, match="and a model of FER-2013"):
        join_run(runs[run], base, tmp_path / "both")
    assert not (tmp_path / "both").exists()
