from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_maker import write_tiny_dataset
from mien import load
from mien.core.emotions import EMOTIONS
from mien.core.manifest import load_manifest
from mien.core.models import MANIFEST_NAME
from mien.data.loading import load_split
from mien.evaluation.calibration import fit_temperature, fit_thresholds
from mien.evaluation.metrics import measure_calibration
from mien.inference.classifier import Classifier
from predict_maker import Mien
from training_maker import write_tiny_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended; leave it as it is."""
    pytest.importorskip("keras")
    pytest.importorskip("onnx")
    return write_tiny_run(tmp_path_factory.mktemp("outputs") / "tiny")


def test_the_summary_lists_the_written_files(mien: Mien, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    words = ("--output", folder, "--name", "mien-x", "--version", "2.0.0")
    lines = mien("export", finished, *words).out.splitlines()
    result = dict(line.split(maxsplit=1) for line in lines[:6])
    assert list(result) == ["model", "network", "manifest", "sha256", "difference", "temperature"]
    assert result["model"] == "mien-x 2.0.0"
    assert result["network"].startswith(f"{folder / 'model.onnx'}  (")
    assert result["manifest"].startswith(f"{folder / 'manifest.json'}  (")
    assert result["sha256"] == load_manifest(folder).file.sha256
    assert result["difference"].endswith("at most, batch 1 and 32")
    assert float(result["difference"].split()[0]) <= 1e-4
    assert result["temperature"] == "1 (not fitted: give --calibrate DATA)"
    starts = {len(line) - len(line.split(maxsplit=1)[1]) for line in lines[:6]}
    assert len(starts) == 1, "the values stand in one column"
    assert lines[-1] == f"next: mien predict --model {folder} IMAGE"


def test_json_has_the_same_figures(mien: Mien, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    result = mien("export", finished, "--output", folder, "--json").json
    manifest = load_manifest(folder)
    assert result["folder"] == str(folder)
    assert (result["name"], result["version"]) == ("tiny", "1.0.0")
    assert result["model"] == {
        "path": str(folder / "model.onnx"),
        "bytes": (folder / "model.onnx").stat().st_size,
        "sha256": manifest.file.sha256,
    }
    assert result["manifest"]["bytes"] == (folder / "manifest.json").stat().st_size
    assert result["largest_difference"] == manifest.metrics["export"]["largest_difference"]
    assert (result["temperature"], result["thresholds"]) == (1.0, {})
    assert result["calibration"] is None


def test_calibrating_fits_the_temperature_on_the_split_val(
    mien: Mien, finished: Path, tmp_path: Path
) -> None:
    data = write_tiny_dataset(tmp_path / "data", per_class=12)
    folder = tmp_path / "model"
    result = mien("export", finished, "--output", folder, "--calibrate", data, "--json").json
    manifest = load_manifest(folder)
    val = load_split(data, "val", cache=False)
    classifier = Classifier.open(folder)
    logits = classifier.logits(val.images).astype(np.float64)
    fitted = fit_temperature(logits, val.labels)
    assert fitted != pytest.approx(1.0, abs=0.05)
    assert manifest.temperature == pytest.approx(fitted, rel=1e-5)
    assert result["temperature"] == manifest.temperature
    assert result["calibration"] == manifest.metrics["calibration"]
    assert (result["calibration"]["split"], result["calibration"]["images"]) == ("val", len(val))

    # What the figures say is what the model now does.
    probabilities = classifier.classify(val.images)
    correct = probabilities.argmax(axis=1) == val.labels
    error = measure_calibration(probabilities.max(axis=1).astype(np.float64), correct).error
    assert result["calibration"]["error_after"] == pytest.approx(error, abs=1e-5)
    assert result["calibration"]["error_before"] != result["calibration"]["error_after"]


def test_calibrating_sets_the_thresholds_of_uncertain_predictions(
    mien: Mien, finished: Path, tmp_path: Path
) -> None:
    data = write_tiny_dataset(tmp_path / "data", per_class=12)
    folder = tmp_path / "model"
    result = mien("export", finished, "--output", folder, "--calibrate", data, "--json").json
    val = load_split(data, "val", cache=False)
    probabilities = Classifier.open(folder).classify(val.images)
    expected = fit_thresholds(probabilities.astype(np.float64), val.labels)
    assert list(result["thresholds"]) == list(EMOTIONS)
    assert list(result["thresholds"].values()) == pytest.approx(expected, abs=1e-5)
    faces = load(folder, detector="none").analyze_many(val.images)
    uncertain = [face.uncertain for result in faces for face in result.faces]
    assert result["calibration"]["uncertain"] == pytest.approx(np.mean(uncertain))
    assert sum(uncertain) > 0


def test_thresholds_may_be_given_by_name(mien: Mien, finished: Path, tmp_path: Path) -> None:
    data = write_tiny_dataset(tmp_path / "data", per_class=4)
    words = ("--output", tmp_path / "model", "--calibrate", data, "--json", "--certain-from")
    result = mien("export", finished, *words, "0.6,neutral=0.8").json
    assert result["thresholds"] == {e: 0.8 if e == "neutral" else 0.6 for e in EMOTIONS}
    words = ("--output", tmp_path / "other", *words[2:])
    for wrong, word in (
        ("calm=0.5,0.6", "unknown emotion 'calm': expected one of angry"),
        ("netural=0.8,0.6", "unknown emotion 'netural': did you mean 'neutral'?"),
        ("neutral=0.8", "for all"),
        ("2", "from 0 to 1"),
    ):
        mien("export", finished, *words, wrong).assert_error(2, word)
    assert not (tmp_path / "other").exists()


def test_thresholds_may_be_given_for_a_run_of_an_earlier_version(
    mien: Mien, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.toml").write_text("[training]\nstart_share = 0.25\n")
    words = ("--calibrate", tmp_path, "--certain-from", "netural=0.8,0.6")
    mien("export", tmp_path / "old", *words).assert_error(2, "did you mean 'neutral'?")


def test_balancing_gives_rare_emotions_a_bias(mien: Mien, finished: Path, tmp_path: Path) -> None:
    # All emotions are equally frequent in the run's data: there is nothing to lift.
    result = mien(
        "export", finished, "--output", tmp_path / "model", "--balance", "0.5", "--json"
    ).json
    assert result["bias"] == dict.fromkeys(EMOTIONS, 0.0)
    mien("export", finished, "--output", tmp_path / "other", "--balance", "2").assert_error(
        2, "--balance: expected a number from 0 to 1"
    )
    assert not (tmp_path / "other").exists()


def test_if_calibration_data_are_missing_nothing_is_written(
    mien: Mien, finished: Path, tmp_path: Path
) -> None:
    words = ("--output", tmp_path / "model", "--calibrate", tmp_path / "nowhere")
    mien("export", finished, *words).assert_error(3, "mien: no data set at")
    assert not list(tmp_path.iterdir())


def test_a_missing_run_is_one_line_and_code_3(mien: Mien, tmp_path: Path) -> None:
    mien("export", tmp_path / "nowhere").assert_error(3, "expected a folder with config.toml")


def test_a_folder_of_other_things_is_code_2(mien: Mien, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"jpg")
    mien("export", finished, "--output", tmp_path).assert_error(2, "holds other files")
    # Web applications and browser extensions have a file of this name.
    (tmp_path / MANIFEST_NAME).write_text('{"name": "My app", "manifest_version": 3}')
    mien("export", finished, "--output", tmp_path).assert_error(2, "holds other files")


@pytest.mark.parametrize("words", [["--int8"], ["--data", "archive"]])
def test_int8_and_data_need_each_other(
    mien: Mien, finished: Path, tmp_path: Path, words: list[str]
) -> None:
    mien("export", finished, "--output", tmp_path / "model", *words).assert_error(
        2, "--int8 and --data DATA go together"
    )
    assert not (tmp_path / "model").exists()


def test_the_int8_model_is_reported_and_next_to_the_other(
    mien: Mien,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mien.training import quantize

    # A network of noise on images of discs loses more than one that was trained.
    monkeypatch.setattr(quantize.export_int8, "__kwdefaults__", {"limit": 100.0})
    data = write_tiny_dataset(tmp_path / "data", per_class=8)
    words = ("--output", tmp_path / "model", "--int8", "--data", data)
    result = mien("export", finished, *words, "--json").json
    small = load_manifest(tmp_path / "model-int8")
    assert small.precision == "int8"
    assert result["int8"]["path"] == str(tmp_path / "model-int8" / "model.onnx")
    assert result["int8"]["points_lost"] == small.metrics["quantization"]["points_lost"]
    assert result["tflite"] is None
