from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

import mien
from mien.core.calibration import softmax
from mien.core.emotions import EMOTIONS
from mien.core.errors import ModelError, UsageError
from mien.core.images import load_image
from mien.core.manifest import ModelFile, load_manifest, write_manifest
from mien.core.models import MODEL_NAME
from mien.core.onnx_runtime import onnxruntime
from mien.core.process import usable_cores
from mien.inference.classifier import (
    MIN_TIMED_RUNS,
    Classifier,
    describe_machine,
    time_model,
)
from mien.inference.detectors import load_detector
from mien.inference.detectors.yunet import WEIGHTS
from mien.inference.onnx_model import ModelSession
from mien.inference.preprocess import TTA_SHIFTS, shift, tta_views
from mien.inference.recognizer import Recognizer

Faces = npt.NDArray[np.uint8]
MakeModel = Callable[..., Path]

NONE = np.empty((0, 48, 48), np.uint8)


@pytest.fixture(scope="module")
def classifier(tiny_model: Path) -> Classifier:
    return Classifier.open(tiny_model)


def _faces(count: int, seed: int = 0) -> Faces:
    """Faces of a few grey levels in large cells: the tiny model tells them apart."""
    cells = np.random.default_rng(seed).integers(0, 256, (count, 6, 6), np.uint8)
    return cells.repeat(8, axis=1).repeat(8, axis=2)


def _replace_model(folder: Path, content: bytes) -> None:
    """Replace a model's file and update its manifest."""
    manifest = load_manifest(folder)
    (folder / MODEL_NAME).write_bytes(content)
    changes = {**manifest.__dict__, "file": ModelFile.of(folder / MODEL_NAME)}
    write_manifest(folder, type(manifest)(**changes))


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 200])
def test_rows_are_probabilities(classifier: Classifier, count: int) -> None:
    probabilities = classifier.classify(_faces(count))
    assert probabilities.shape == (count, 7)
    assert probabilities.dtype == np.float32
    assert (probabilities >= 0).all()
    assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-6


@pytest.mark.parametrize("augment", [False, True])
def test_no_faces_return_no_rows(classifier: Classifier, augment: bool) -> None:
    probabilities = classifier.classify(NONE, augment=augment)
    assert probabilities.shape == (0, 7)
    assert probabilities.dtype == np.float32
    assert classifier.logits(NONE).shape == (0, 7)
    assert classifier.features(NONE).shape == (0, 6, 6, 8)


def test_no_faces_do_not_run_the_network(classifier: Classifier) -> None:
    class Resting:
        def get_outputs(self) -> Any:
            return classifier._session.get_outputs()

        def run(self, *_: object) -> None:
            raise AssertionError("ONNX Runtime 1.18 fails on an empty batch")

    resting = Classifier(Resting(), classifier.manifest)
    assert resting.classify(NONE).shape == (0, 7)
    assert resting.features(NONE).shape == (0, 6, 6, 8)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_results_do_not_depend_on_the_batch_size(classifier: Classifier, batch_size: int) -> None:
    faces = _faces(30)
    whole = classifier.classify(faces, batch_size=30)
    assert np.allclose(classifier.classify(faces, batch_size=batch_size), whole, atol=1e-6)


def test_features_are_the_last_feature_map(classifier: Classifier) -> None:
    faces = _faces(5)
    features = classifier.features(faces, batch_size=2)
    assert features.shape == (5, 6, 6, 8)
    # The tiny model's logits are linear in the mean of its features.
    means = features.mean(axis=(1, 2))
    together = np.hstack([means, np.ones((5, 1))])
    fit = np.linalg.lstsq(together, classifier.logits(faces), rcond=None)[0]
    assert np.allclose(together @ fit, classifier.logits(faces), atol=1e-4)


def test_temperature_divides_the_logits(make_tiny_model: MakeModel) -> None:
    faces = _faces(9)
    plain = Classifier.open(make_tiny_model("plain"))
    warm = Classifier.open(make_tiny_model("warm", temperature=2.5))
    assert np.array_equal(plain.logits(faces), warm.logits(faces))
    expected = softmax(plain.logits(faces).astype(np.float64) / 2.5)
    assert np.allclose(warm.classify(faces), expected, atol=1e-7)
    assert not np.allclose(warm.classify(faces), plain.classify(faces), atol=1e-3)


def test_threads_return_the_same_results(classifier: Classifier) -> None:
    batches = [_faces(11, seed) for seed in range(40)]
    alone = [classifier.classify(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(classifier.classify, batches))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)


@given(
    arrays.arrays(
        np.float64, st.tuples(st.integers(0, 5), st.integers(2, 9)), elements=st.floats(-1e4, 1e4)
    )
)
def test_softmax_returns_probabilities_ordered_like_the_logits(logits: Any) -> None:
    probabilities = softmax(logits) if len(logits) else logits
    assert np.isfinite(probabilities).all()
    if len(logits):
        assert np.allclose(probabilities.sum(axis=1), 1)
        best = np.take_along_axis(probabilities, logits.argmax(axis=1)[:, None], axis=1)
        assert (best[:, 0] == probabilities.max(axis=1)).all()
        assert np.allclose(softmax(logits + 3), probabilities)


@pytest.mark.parametrize(
    "faces",
    [
        np.zeros((48, 48), np.uint8),
        np.zeros((1, 48, 48), np.float32),
        np.zeros((1, 64, 64), np.uint8),
        np.zeros((1, 48, 48, 1), np.uint8),
    ],
)
@pytest.mark.parametrize("augment", [False, True])
def test_invalid_arrays_are_refused(classifier: Classifier, faces: Any, augment: bool) -> None:
    with pytest.raises(UsageError, match="expected faces as uint8"):
        classifier.classify(faces, augment=augment)


def test_invalid_options_are_refused(classifier: Classifier, tiny_model: Path) -> None:
    with pytest.raises(UsageError, match="batch_size as an integer of 1"):
        classifier.classify(_faces(1), batch_size=0)
    with pytest.raises(UsageError, match="threads as an integer of 1"):
        Classifier.open(tiny_model, threads=0)


# --- Augmentation


def test_augmentation_averages_over_its_views(classifier: Classifier) -> None:
    faces = _faces(4)
    views = list(tta_views(faces))
    assert len(views) == 2 * len(TTA_SHIFTS)
    expected = np.mean([classifier.classify(view) for view in views], axis=0)
    assert np.allclose(classifier.classify(faces, augment=True), expected, atol=1e-6)
    assert not np.allclose(classifier.classify(faces, augment=False), expected, atol=1e-3)


def test_augmentation_is_invariant_to_mirroring(classifier: Classifier) -> None:
    faces = _faces(6)
    mirrored = np.ascontiguousarray(faces[:, :, ::-1])
    here, there = (classifier.classify(some, augment=True) for some in (faces, mirrored))
    assert np.allclose(here, there, atol=1e-6)


@given(st.integers(-5, 5), st.integers(-5, 5))
def test_shift_moves_pixels_and_repeats_the_border(down: int, right: int) -> None:
    faces = np.arange(2 * 48 * 48).reshape(2, 48, 48).astype(np.uint8)
    moved = shift(faces, down, right)
    assert moved.shape == faces.shape
    for row, column in ((20, 20), (0, 47), (47, 3)):
        source = (min(max(row - down, 0), 47), min(max(column - right, 0), 47))
        assert (moved[:, row, column] == faces[:, source[0], source[1]]).all()


# --- Invalid models


def test_a_file_that_is_not_a_network_is_refused(make_tiny_model: MakeModel) -> None:
    folder = make_tiny_model()
    whole = (folder / MODEL_NAME).read_bytes()
    for content in (b"", b"not a network", whole[: len(whole) // 2]):
        _replace_model(folder, content)
        with pytest.raises(ModelError, match="not an ONNX") as error:
            Classifier.open(folder)
        assert "\n" not in str(error.value)


def test_external_weights_are_refused(
    make_tiny_model: MakeModel,
) -> None:
    folder = make_tiny_model()
    model = onnx.load(folder / MODEL_NAME)
    onnx.save(
        model,
        folder / "external.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert (folder / "weights.bin").stat().st_size > 0
    _replace_model(folder, (folder / "external.onnx").read_bytes())
    with pytest.raises(ModelError, match="weights in other files"):
        Classifier.open(folder)


def test_a_modified_file_is_refused(make_tiny_model: MakeModel) -> None:
    folder = make_tiny_model()
    content = bytearray((folder / MODEL_NAME).read_bytes())
    content[-1] ^= 1
    (folder / MODEL_NAME).write_bytes(content)
    with pytest.raises(ModelError, match="does not match its manifest"):
        Classifier.open(folder)


def _renamed_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "images"
    model.graph.node[0].input[0] = "images"


def _fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def _without_features(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


def _float_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


@pytest.mark.parametrize("change", [_renamed_input, _fixed_batch, _without_features, _float_input])
def test_a_network_that_breaks_the_contract_is_refused(
    make_tiny_model: MakeModel, change: Callable[[onnx.ModelProto], None]
) -> None:
    folder = make_tiny_model()
    model = onnx.load(folder / MODEL_NAME)
    change(model)
    _replace_model(folder, model.SerializeToString())
    with pytest.raises(ModelError, match=r"expected (one input|an output)") as error:
        Classifier.open(folder)
    assert "\n" not in str(error.value)


def test_nan_logits_are_refused(make_tiny_model: MakeModel) -> None:
    folder = make_tiny_model()
    model = onnx.load(folder / MODEL_NAME)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "bias")
    values = np.full(7, np.nan, np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, "bias"))
    _replace_model(folder, model.SerializeToString())
    with pytest.raises(ModelError, match="not a number"):
        Classifier.open(folder).classify(_faces(1))


def test_a_model_with_another_number_of_classes_is_refused(make_tiny_model: MakeModel) -> None:
    folder = make_tiny_model(labels=("calm", "tense"))
    with pytest.raises(ModelError, match="calm, tense"):
        Classifier.open(folder)
    own = Classifier.open(folder, labels=None)
    assert own.labels == ("calm", "tense")
    assert own.classify(_faces(3)).shape == (3, 2)
    content = json.loads((folder / "manifest.json").read_text())
    content["labels"] = list(EMOTIONS)
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="expected an output 'logits'"):
        Classifier.open(folder)


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model"):
        Classifier.open("no-such-model")
    with pytest.raises(ModelError, match=r"manifest\.json"):
        Classifier.open(tmp_path)


# ---------------------------------------------------------------- session
Make: TypeAlias = Callable[..., Path]

SAMPLE = Path(__file__).resolve().parent.parent.parent / "images" / "sample.png"
FACES = np.random.default_rng(0).integers(0, 256, (4, 6, 6), np.uint8).repeat(8, 1).repeat(8, 2)


def test_a_pickled_classifier_returns_the_same_results(tiny_model: Path) -> None:
    classifier = Classifier.open(tiny_model, threads=1)
    again = pickle.loads(pickle.dumps(classifier))
    assert again.manifest == classifier.manifest
    assert np.array_equal(again.classify(FACES), classifier.classify(FACES))


def test_a_bundled_model_is_pickled_by_its_name() -> None:
    content = pickle.dumps(Classifier.open("mien-nano")._session)
    assert b"mien-nano" in content
    assert str(Path(mien.__file__).parent).encode() not in content
    assert len(content) < 1000  # no weights


def test_unpickling_a_changed_model_is_refused(make_tiny_model: Make) -> None:
    folder = make_tiny_model()
    content = pickle.dumps(Classifier.open(folder))
    damaged = bytearray((folder / MODEL_NAME).read_bytes())
    damaged[-1] ^= 1
    (folder / MODEL_NAME).write_bytes(damaged)
    with pytest.raises(ModelError, match="does not match its manifest"):
        pickle.loads(content)
    (folder / MODEL_NAME).unlink()
    with pytest.raises(ModelError, match="cannot read"):
        pickle.loads(content)


def test_a_pickle_does_not_depend_on_the_working_directory(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    content = pickle.dumps(Classifier.open(tiny_model.name))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(content).classify(FACES).shape == (4, 7)


def test_copies_share_only_the_session(tiny_model: Path) -> None:
    recognizer = mien.load(tiny_model, detector="none", max_faces=3)
    for again in (copy.deepcopy(recognizer), copy.copy(recognizer)):
        assert again.choice == recognizer.choice
        assert again.analyze(FACES[0]) == recognizer.analyze(FACES[0])
    assert copy.deepcopy(recognizer).classifier is not recognizer.classifier
    assert copy.deepcopy(recognizer).classifier._session is recognizer.classifier._session


@pytest.mark.parametrize("away", [pickle.dumps, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_pickling_a_custom_session_is_refused(
    tiny_model: Path, away: Callable[[object], object]
) -> None:
    session = onnxruntime.InferenceSession(str(tiny_model / MODEL_NAME))
    classifier = Classifier(session, Classifier.open(tiny_model).manifest)
    recognizer = Recognizer(classifier, load_detector("none"))
    with pytest.raises(UsageError, match=r"open it by Classifier\.open") as error:
        away(recognizer)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["libface", "haar", "none", "yunet"])
def test_pickled_detectors_keep_their_options(name: str, request: pytest.FixtureRequest) -> None:
    options: dict[str, Any] = {"side": 320, "thorough": True}
    if name == "yunet":
        options["weights"] = request.getfixturevalue("shared") / "models" / WEIGHTS.name
    detector = load_detector(name, **options)
    image = load_image(SAMPLE)
    expected = detector.detect(image)
    for again in (pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):
        assert again.name == name
        assert getattr(again, "_side", None) == getattr(detector, "_side", None)
        assert getattr(again, "_thorough", None) == getattr(detector, "_thorough", None)
        assert again.detect(image) == expected


def test_a_recognizer_can_be_sent_to_spawned_processes(tiny_model: Path) -> None:
    recognizer = mien.load(tiny_model, detector="haar", threads=1)
    expected = recognizer.analyze(SAMPLE)
    assert expected
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        assert list(pool.map(recognizer.analyze, [SAMPLE] * 2)) == [expected] * 2


STORM = """
import os, sys, threading, time
import mien

recognizer = mien.load(sys.argv[1], detector=sys.argv[2], threads=2)
sample = open(sys.argv[3], "rb").read()
expected = recognizer.analyze(sample)
assert expected
going = True

def analyse():
    while going:
        recognizer.analyze(sample)

threads = [threading.Thread(target=analyse) for _ in range(2)]
for thread in threads:
    thread.start()
time.sleep(0.2)
right = 0
for number in range(20):
    child = os.fork()
    if child == 0:
        right = recognizer.analyze(sample) == expected
        os._exit(0 if right else 1)
    started, ended = time.monotonic(), 0
    while not ended and time.monotonic() - started < 60:
        time.sleep(0.005)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, 9)
        os.waitpid(child, 0)
        break
    right += status == 0
going = False
for thread in threads:
    thread.join()
print(right)
"""

ENDS = """
import os, sys
import mien

recognizer = mien.load(sys.argv[1], detector="none", threads=2)
recognizer.analyze(sys.argv[2])
child = os.fork()
if child == 0:
    if sys.argv[3] == "uses":
        recognizer.analyze(sys.argv[2])
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def _run(program: str, *arguments: object) -> str:
    # Python warns about forking with threads.
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_children_forked_while_threads_analyze_can_analyze(
    tiny_model: Path, tmp_path: Path
) -> None:
    small = tmp_path / "face.png"
    Image.open(SAMPLE).crop((20, 20, 340, 340)).resize((128, 128)).save(small)
    assert _run(STORM, tiny_model, "auto", small) == "20"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("use", ["uses", "leaves"])
def test_a_forked_child_can_exit(use: str, tiny_model: Path) -> None:
    # Destroying the parent's session would wait for threads that do not exist in the child.
    assert _run(ENDS, tiny_model, SAMPLE, use) == "0"


def test_a_forked_child_checks_the_model_again(make_tiny_model: Make) -> None:
    folder = make_tiny_model()
    classifier = Classifier.open(folder)
    classifier._session.abandon()  # as a fork does
    assert classifier.classify(FACES).shape == (4, 7)
    classifier._session.abandon()
    (folder / MODEL_NAME).write_bytes(b"another one")
    with pytest.raises(ModelError, match="does not match its manifest"):
        classifier.classify(FACES)


def test_a_damaged_model_prints_nothing(
    make_tiny_model: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_tiny_model()
    path = folder / MODEL_NAME
    path.write_bytes(path.read_bytes().replace(b"pattern", b"\xd8attern", 1))
    with pytest.raises(ModelError, match="not an ONNX model that can be run"):
        ModelSession(folder, ModelFile.of(path))
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------- speed
def _clock(steps: Iterator[float]) -> Iterator[float]:
    """Start and end times of runs with these durations."""
    now = 0.0
    for step in steps:
        yield now
        now += step
        yield now


def test_median_and_quartiles_are_per_face(tiny_model: Path) -> None:
    ticks = _clock(iter([0.004, 0.008, 0.012, 0.016, 0.020] * 4))
    timing = time_model(
        tiny_model, threads=1, batch_size=4, seconds=0.12, clock=lambda: next(ticks)
    )
    assert timing.runs == MIN_TIMED_RUNS
    assert (timing.low, timing.median, timing.high) == pytest.approx((2, 3, 4))
    assert (timing.model, timing.precision) == ("tiny", "float32")
    assert (timing.threads, timing.batch_size) == (1, 4)
    assert timing.megabytes == (tiny_model / "model.onnx").stat().st_size / 1e6


def test_slow_runs_stop_at_the_minimum_number(tiny_model: Path) -> None:
    ticks = _clock(iter([9.0] * 99))
    timing = time_model(tiny_model, threads=1, batch_size=1, clock=lambda: next(ticks))
    assert timing.runs == MIN_TIMED_RUNS


def test_fast_runs_continue_until_the_duration(tiny_model: Path) -> None:
    ticks = _clock(iter([0.01] * 99))
    timing = time_model(
        tiny_model, threads=1, batch_size=1, seconds=0.195, clock=lambda: next(ticks)
    )
    assert timing.runs == 20


def test_invalid_timings_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    for threads, size, seconds in ((0, 1, 1.0), (1, 0, 1.0), (1, 1, -1.0)):
        with pytest.raises(UsageError):
            time_model(tiny_model, threads=threads, batch_size=size, seconds=seconds)
    with pytest.raises(ModelError):
        time_model(tmp_path / "none", threads=1, batch_size=1)


def test_the_machine_is_described() -> None:
    assert describe_machine()["cores"] == usable_cores() >= 1
    assert {"processor", "system", "python", "onnxruntime", "numpy"} < set(describe_machine())
