"""Export a run's network for LiteRT (TensorFlow Lite): ``model.tflite`` and notes on its use.

TensorFlow's own converter makes it, so the run's network is opened on that backend.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import MissingExtra, ModelError, UsageError
from mien.core.files import write_atomically
from mien.core.images import FACE_SIZE
from mien.core.manifest import INPUT_CONTRACT, OUTPUT_CONTRACT, load_manifest
from mien.training import run as run_folder
from mien.training.backend import stderr_held_back
from mien.training.export import (
    check_same,
    classify_with,
    load_best,
    to_logits,
    trial_faces,
)
from mien.training.recipe import load_run_config

TFLITE_NAME = "model.tflite"
TFLITE_NOTES = "model.tflite.json"
TFLITE_SCHEMA = "mien-tflite/1"

_COPIED = (
    "name", "version", "labels", "reading", "bias", "temperature", "entropy_exponent", "thresholds",
)  # fmt: skip
"""What the notes have from the exported model's manifest."""

Run = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def export_tflite(run: Path, folder: Path) -> Path:
    """Write a run's best network for LiteRT, beside its exported model.

    Args:
        run: the run's folder.
        folder: the exported model's, of the same network.

    Returns:
        ``model.tflite``: input "faces", uint8 (1, 48, 48); output "logits", float32 (1, classes),
        before bias, temperature and softmax. Beside it, ``model.tflite.json`` has labels, contract,
        temperatures, hash and how far it differs from the exported model.

    Raises:
        UsageError: if Keras runs on another backend than TensorFlow.
        ModelError: if it cannot be converted, or differs from the exported model by more than
            `TOLERANCE` in a probability; then nothing is written.
        MissingExtra: if Keras or TensorFlow is not installed.
    """
    require_tensorflow()
    opened = run_folder.open_run(run)
    with stderr_held_back():
        content = convert(load_best(opened, load_run_config(opened)))
    notes = _notes(content, folder)
    write_atomically(folder / TFLITE_NAME, content)
    text = json.dumps(notes, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / TFLITE_NOTES, (text + "\n").encode())
    return folder / TFLITE_NAME


def require_tensorflow() -> None:
    """Choose TensorFlow as Keras' backend where that is still open.

    Raises:
        UsageError: if Keras runs, or is asked to run, on another.
        MissingExtra: if TensorFlow is not installed.
    """
    if find_spec("tensorflow") is None:
        raise MissingExtra("train", "a network for LiteRT (TensorFlow makes it)")
    chosen = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if "keras" in sys.modules:
        chosen = sys.modules["keras"].backend.backend()
    if chosen != "tensorflow":
        raise UsageError(
            f"a network for LiteRT needs Keras on TensorFlow, and it runs on {chosen}: "
            "set KERAS_BACKEND=tensorflow"
        )


def convert(model: Any) -> bytes:
    """Convert a Keras network, grey faces to probabilities, to a LiteRT one that gives logits.

    Raises:
        ModelError: if the converter fails.
    """
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants as constants

    network = to_logits(model)
    shape = tf.TensorSpec([1, FACE_SIZE, FACE_SIZE], tf.uint8, name=INPUT_CONTRACT["name"])

    def run(faces: Any) -> dict[str, Any]:
        floats = tf.cast(faces[..., None], tf.float32)
        return {OUTPUT_CONTRACT["logits"]: network(floats, training=False)}

    try:
        function = tf.function(run, input_signature=[shape]).get_concrete_function()
        # Keras 3 keeps variables where the converter does not look: it would leave them empty.
        frozen = constants.convert_variables_to_constants_v2(function)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        return bytes(converter.convert())
    except Exception as error:  # the converter's errors share no nearer base
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"the network cannot be converted to LiteRT: {reason}") from error


def open_tflite(content: bytes) -> Run:
    """Return what runs a LiteRT network: uint8 (N, 48, 48) to float32 logits (N, classes)."""
    with warnings.catch_warnings():
        # TensorFlow's interpreter says that it will move to the package ai-edge-litert.
        warnings.simplefilter("ignore")
        own = find_spec("ai_edge_litert") is not None
        name = "ai_edge_litert.interpreter" if own else "tensorflow.lite.python.interpreter"
        module = importlib.import_module(name)
        interpreter = module.Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(faces: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        answers = []
        for face in faces:
            interpreter.set_tensor(source["index"], face[None])
            interpreter.invoke()
            answers.append(interpreter.get_tensor(result["index"])[0].copy())
        return np.asarray(answers, np.float32)

    return run


def _notes(content: bytes, folder: Path) -> dict[str, Any]:
    """Compare a LiteRT network with the exported model and return what a program needs to know."""
    manifest, faces = load_manifest(folder, labels=None).with_reading(None), trial_faces()
    with stderr_held_back():
        logits = open_tflite(content)(faces).astype(np.float64)
    bias = np.array([manifest.bias.get(label, 0.0) for label in manifest.labels])
    found = manifest.calibration.probabilities(logits + bias)
    refusal = "the network for LiteRT is refused: it differs from the exported model"
    difference = check_same(found, classify_with(folder, faces), refusal)
    told = manifest.to_dict()
    shape = [1, len(manifest.labels)]
    digest = hashlib.sha256(content).hexdigest()
    return {
        "schema": TFLITE_SCHEMA,
        **{key: told[key] for key in _COPIED},
        "input": {**told["input"], "shape": [1, FACE_SIZE, FACE_SIZE]},
        "output": {"name": OUTPUT_CONTRACT["logits"], "dtype": "float32", "shape": shape},
        "file": {"name": TFLITE_NAME, "sha256": digest, "bytes": len(content)},
        "largest_difference": difference,
    }
