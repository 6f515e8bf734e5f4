"""Export of a run: ``model.onnx`` with its ``manifest.json``, and ``model.tflite`` for LiteRT.

Nothing is put into place untested: a new model is opened as a user's program would open it, and its
probabilities must equal Keras' up to `TOLERANCE`.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib
import json
import os
import shutil
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import (
    InputError,
    MissingExtra,
    ModelError,
    OutputError,
    UsageError,
    error_reason,
)
from mien.core.files import write_atomically
from mien.core.images import FACE_SIZE
from mien.core.manifest import (
    INPUT_CONTRACT,
    MANIFEST_SCHEMA,
    OUTPUT_CONTRACT,
    PEOPLE_OUTPUTS,
    Manifest,
    ModelFile,
    load_manifest,
    write_manifest,
)
from mien.core.models import MANIFEST_NAME, MODEL_NAME, find_model
from mien.training import run_folder
from mien.training.architectures import update_normalization
from mien.training.backend import prepare_keras, silence_native_stderr
from mien.training.model import build_model, interpolate_weights, load_keras_model
from mien.training.onnx_converter import keras_to_onnx
from mien.training.onnx_graph import join_networks, one_reading
from mien.training.recipe import Config, load_run_config
from mien.training.run_folder import RunFolder, read_json
from mien.training.transforms import Faces, Floats

EXPORT_FOLDER = "export"
"""Name of the export in a run's folder."""

TOLERANCE = 1e-4
"""Largest difference between any probability of ONNX Runtime and of Keras."""

BATCH_SIZES: tuple[int, ...] = (1, 32)
"""Batch sizes at which both are compared."""

_FIGURES = ("val_accuracy", "val_macro_f1", "val_loss", "epoch", "size")


# ---------------------------------------------------------------- ONNX
def export_run(
    run: Path,
    output: Path | None = None,
    *,
    name: str | None = None,
    version: str = "1.0.0",
    start_share: float = 0.0,
) -> Path:
    """Export the best network of a run.

    Args:
        run: folder of the run.
        output: folder of the model, ``RUN/export`` by default. A model in it is replaced; other
            files stay.
        name: name of the model, by default that of the run's folder.
        version: version of the model.
        start_share: share, 0-1, of the starting weights in an interpolation with the trained ones
            (WiSE-FT, Wortsman et al. 2021, 2109.01903).

    Returns:
        The model's folder. The manifest's ``metrics.export`` holds the largest difference between
        Keras and ONNX Runtime.

    Raises:
        InputError: if there is no such run, or it has no network yet.
        ModelError: if the network is damaged, cannot be converted, or its probabilities in ONNX
            Runtime differ from Keras' by more than `TOLERANCE`; then nothing is written.
        UsageError: if the name is empty, or the output folder holds something else.
        OutputError: if it cannot be written.
        MissingExtra: if Keras or onnx is not installed.
    """
    opened = run_folder.open_run(run)
    name = opened.path.resolve().name if name is None else name
    if name.strip() in ("", "..") or Path(name).name != name:
        raise UsageError(f"expected a name for the model that is valid for a folder, got {name!r}")
    target = output or opened.path / EXPORT_FOLDER
    check_target(target)
    config = load_run_config(opened)
    network = load_best(opened, config)
    provenance = _provenance(opened)
    if start_share:
        start = build_model(config.model, size=config.final_size, classes=len(config.labels))
        interpolate_weights(network, start.get_weights(), 1 - start_share)
        provenance["metrics"]["start_share"] = start_share
    manifest = Manifest(
        name=name,
        version=version,
        created="",  # filled in by write_model, as is the file
        file=ModelFile(MODEL_NAME, "", 0),
        labels=config.labels,
        reading=_reading_of(config),
        config=_public_recipe(config),
        **provenance,
    )

    def verify(folder: Path) -> dict[str, Any]:
        difference = check_agreement(network, folder)
        return {"export": {"largest_difference": difference, "batch_sizes": list(BATCH_SIZES)}}

    proto = keras_to_onnx(network, labels=config.labels, version=version)
    return write_model(target, proto.SerializeToString(), manifest, verify)


def join_run(
    run: Path,
    model: Path | str,
    output: Path,
    *,
    version: str | None = None,
    start_share: float = 0.0,
) -> Path:
    """Add a network trained on FER+'s votes to a model, as its people's reading.

    Args:
        run: folder of a run with ``data.targets = "votes"``, or of the model exported from one.
        model: a bundled model's name or a model's folder, with FER-2013's labels; an existing
            people's reading is replaced.
        output: folder of the new model; may be that of ``model``.
        version: version of the new model, by default that of ``model``.
        start_share: as in `export_run`; only for a run.

    Returns:
        ``output``. Its file holds what both networks have in common once (see `join_networks`).

    Raises:
        UsageError: if the run was not trained on votes, the model has other classes, or the output
            folder holds something else.
        ModelError: if a network is missing or damaged, or the new model's probabilities differ from
            those of both networks by more than `TOLERANCE`; nothing is written then.
        InputError, OutputError, MissingExtra: as `export_run`.
    """
    base = find_model(model)
    manifest = load_manifest(base, labels=None)
    exported = (run / MANIFEST_NAME).is_file()
    if exported:
        readings = load_manifest(run, labels=None).readings
    else:
        readings = (_reading_of(load_run_config(run_folder.open_run(run))),)
    if "people" not in readings or "fer2013" not in manifest.readings:
        raise UsageError(
            f'expected a run with data.targets = "votes" and a model of FER-2013\'s labels, got '
            f"{run} ({', '.join(readings)}) and {manifest.name} ({', '.join(manifest.readings)})"
        )
    if exported and start_share:
        raise UsageError(f"a start share needs a run, and {run} is an exported model")
    check_target(output)
    with tempfile.TemporaryDirectory() as scratch:
        people = run
        if not exported:
            people = export_run(run, Path(scratch, "people"), start_share=start_share)
        return _join_models(base, people, output, version)


def _join_models(fer2013: Path, people: Path, output: Path, version: str | None) -> Path:
    """Write a model with the ``fer2013`` reading of one model and the ``people`` one of another."""
    import onnx

    parts = ((fer2013, "fer2013"), (people, "people"))
    first, second = (
        load_manifest(folder, labels=None).with_reading(name) for folder, name in parts
    )
    proto = join_networks(
        one_reading(onnx.load(fer2013 / first.file.name), first.outputs),
        one_reading(onnx.load(people / second.file.name), second.outputs),
    )
    joined = dataclasses.replace(
        first,
        version=version or first.version,
        others={"people": dataclasses.replace(second, outputs=PEOPLE_OUTPUTS)},
        versions=second.versions,
    )

    def verify(folder: Path) -> dict[str, Any]:
        for source, reading in parts:
            expected = classify_with(source, trial_faces(), reading=reading)
            actual = classify_with(folder, trial_faces(), reading=reading)
            check_difference(
                actual, expected, f"the model is refused: as {reading} it differs from {source}"
            )
        return {}

    return write_model(output, proto.SerializeToString(), joined, verify)


# ---------------------------------------------------------------- the network
def load_best(run: RunFolder, config: Config) -> Any:
    """Load the best network of a run in float32, on any installed Keras backend.

    Raises InputError if the run has none yet, ModelError if it is damaged, MissingExtra.
    """
    if not run.best.is_file():
        raise InputError(
            f"{run.path} has no {run.best.name} yet: it is written at the end of the first epoch "
            f"(mien train --resume {run.path})"
        )
    prepare_keras(config.training.backend)
    import keras

    network = load_keras_model(run.best)
    if all(layer.compute_dtype == "float32" for layer in network.layers):
        return network

    # After training in mixed precision, it would still round to bfloat16, unlike ONNX Runtime.
    def in_float32(layer: Any) -> Any:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    copy = keras.models.clone_model(network, clone_function=in_float32)
    copy.set_weights(network.get_weights())
    update_normalization(copy)
    return copy


def logits_network(network: Any) -> Any:
    """Return a Keras network without its final softmax."""
    import keras

    last = next(layer for layer in network.layers if layer.output is network.outputs[0])
    return keras.Model(network.inputs[0], last.input)


# ---------------------------------------------------------------- verification
def check_agreement(network: Any, folder: Path) -> float:
    """Compare a Keras network with its export, opened as a user's program would open it.

    Returns:
        The largest difference in any probability.

    Raises:
        ModelError: if it is above `TOLERANCE` or NaN.
    """
    import keras

    faces = trial_faces()
    logits = logits_network(network)(faces[..., None].astype(np.float32), training=False)
    logits = np.asarray(keras.ops.convert_to_numpy(logits), np.float64)
    expected = (
        load_manifest(folder, labels=None).with_reading(None).calibration.probabilities(logits)
    )
    return max(
        check_difference(
            classify_with(folder, faces, batch_size=size),
            expected,
            f"the export is refused: at batch {size}, ONNX Runtime and Keras differ",
        )
        for size in BATCH_SIZES
    )


def classify_with(
    folder: Path, faces: Faces, *, reading: str | None = None, batch_size: int = BATCH_SIZES[-1]
) -> Floats:
    """Return a model's probabilities (N, classes), as a user's program gets them."""
    from mien.inference.classifier import Classifier

    classifier = Classifier.open(folder, labels=None, reading=reading)
    return classifier.classify(faces, batch_size=batch_size)


def check_difference(actual: npt.NDArray[Any], expected: npt.NDArray[Any], refusal: str) -> float:
    """Return the largest difference of two networks' probabilities, both (N, classes).

    Raises:
        ModelError: beginning with ``refusal``, if it is above `TOLERANCE` or NaN.
    """
    difference = float(np.abs(actual - expected).max())
    # Not written as "difference > TOLERANCE", which is false for NaN.
    if not difference <= TOLERANCE:
        raise ModelError(
            f"{refusal} by {difference:.2g} in a probability, expected at most {TOLERANCE:g}"
        )
    return difference


def trial_faces(count: int = 32, *, seed: int = 0) -> Faces:
    """Return images to compare networks on, uint8 (2 * count, 48, 48).

    Noise and smooth shapes alternate; the first two images are black and white.
    """
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, FACE_SIZE, FACE_SIZE)).astype(np.uint8)
    size = (FACE_SIZE, FACE_SIZE)
    smooth = [cv2.resize(image[:7, :7], size, interpolation=cv2.INTER_CUBIC) for image in noise]
    faces = np.stack([noise, np.stack(smooth)], axis=1).reshape(-1, *size).astype(np.uint8)
    faces[0], faces[1] = 0, 255
    return faces


# ---------------------------------------------------------------- the model's folder
def check_target(target: Path) -> None:
    """Raise UsageError unless a folder for a model is new, empty, or holds a model already."""
    if target.is_dir():
        try:
            manifest = (target / MANIFEST_NAME).read_text(encoding="utf-8")
        except (OSError, ValueError):
            manifest = ""
        # A damaged manifest counts, but not another program's file of the same name.
        is_model = f'"{MANIFEST_SCHEMA.partition("/")[0]}/' in manifest
        if any(target.iterdir()) and not is_model:
            raise UsageError(
                f"{target} holds other files: expected a new folder, or one with a model in it"
            )
    elif target.exists():
        raise UsageError(f"{target} is a file: expected a folder for the model")


def write_model(
    target: Path, content: bytes, manifest: Manifest, verify: Callable[[Path], Mapping[str, Any]]
) -> Path:
    """Write a model's folder once the model has been verified, completely or not at all.

    Args:
        target: the folder, see `check_target`.
        content: the network's file.
        manifest: its manifest; ``created`` and ``file`` are filled in here.
        verify: opens the new model in a temporary folder and returns additional metrics, or raises
            ModelError.

    Returns:
        ``target``.

    Raises:
        OutputError: if it cannot be written.
    """
    staged = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        staged.mkdir(parents=True)
        (staged / MODEL_NAME).write_bytes(content)
        manifest = dataclasses.replace(
            manifest,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            file=ModelFile.of(staged / MODEL_NAME),
        )
        write_manifest(staged, manifest)
        metrics = {**manifest.metrics, **verify(staged)}
        write_manifest(staged, dataclasses.replace(manifest, metrics=metrics))
        if target.exists():
            # The manifest is replaced last: until then, its hash does not match the network.
            for name in (MODEL_NAME, MANIFEST_NAME):
                (staged / name).replace(target / name)
        else:
            staged.replace(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error_reason(error)}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return target


def _reading_of(config: Config) -> str:
    """Return the name of the reading of a run's network."""
    if config.data.targets == "votes":
        return "people"
    return "own" if config.data.labels else "fer2013"


def _public_recipe(config: Config) -> dict[str, Any]:
    """Return the recipe as nested dictionaries, its paths shortened to file names."""
    tables = dataclasses.asdict(config)
    paths = (("data", "source"), ("data", "votes"), ("model", "weights"), ("distill", "cache"))
    for section, key in paths:
        tables[section][key] = Path(tables[section][key]).name
    tables["distill"]["teachers"] = [Path(teacher).name for teacher in config.distill.teachers]
    return tables


def _provenance(run: RunFolder) -> dict[str, Any]:
    """Return the manifest's ``data``, ``metrics`` and ``versions`` from the run's records."""
    environment = read_json(run.environment)
    # The best epoch is in the summary, or in the history of an unfinished run.
    best = read_json(run.summary).get("best", {})
    if not best and run.history.is_file():
        with run.history.open(encoding="utf-8", newline="") as file:
            best = max(csv.DictReader(file), key=lambda row: float(row["val_accuracy"]), default={})
    figures = {key: float(best[key]) for key in _FIGURES if key in best}
    figures |= {key: int(figures[key]) for key in ("epoch", "size") if key in figures}
    versions = {key: environment.get(key) for key in ("python", "commit")}
    versions = {key: value for key, value in versions.items() if value is not None}
    return {
        "data": environment.get("data", {}),
        "metrics": {"validation": figures},
        "versions": {**versions, **environment.get("packages", {})},
    }


# ---------------------------------------------------------------- LiteRT
TFLITE_NAME = "model.tflite"
TFLITE_NOTES = "model.tflite.json"
TFLITE_SCHEMA = "mien-tflite/1"

_COPIED = (
    "name", "version", "labels", "reading", "bias", "temperature", "entropy_exponent", "thresholds",
)  # fmt: skip
"""Keys that the notes copy from the exported model's manifest."""


def export_tflite(run: Path, folder: Path) -> Path:
    """Write a run's best network for LiteRT (TensorFlow Lite), next to its exported model.

    Args:
        run: folder of the run.
        folder: folder of the model exported from it.

    Returns:
        Path of ``model.tflite``: input "faces", uint8 (1, 48, 48); output "logits", float32
        (1, classes), before bias, temperature and softmax. ``model.tflite.json`` next to it has
        labels, contract, temperatures, hash and the difference from the exported model.

    Raises:
        UsageError: if Keras runs on another backend than TensorFlow, whose converter is used.
        ModelError: if it cannot be converted, or differs from the exported model by more than
            `TOLERANCE` in a probability; then nothing is written.
        MissingExtra: if Keras or TensorFlow is not installed.
    """
    require_tensorflow()
    opened = run_folder.open_run(run)
    with silence_native_stderr():
        content = keras_to_tflite(load_best(opened, load_run_config(opened)))
    notes = _tflite_notes(content, folder)
    write_atomically(folder / TFLITE_NAME, content)
    text = json.dumps(notes, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / TFLITE_NOTES, (text + "\n").encode())
    return folder / TFLITE_NAME


def require_tensorflow() -> None:
    """Select TensorFlow as Keras' backend, if none is selected yet.

    Raises:
        UsageError: if Keras runs, or is configured to run, on another.
        MissingExtra: if TensorFlow is not installed.
    """
    if find_spec("tensorflow") is None:
        raise MissingExtra("train", "a network for LiteRT (TensorFlow makes it)")
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if "keras" in sys.modules:
        backend = sys.modules["keras"].backend.backend()
    if backend != "tensorflow":
        raise UsageError(
            f"a network for LiteRT needs Keras on TensorFlow, and it runs on {backend}: "
            "set KERAS_BACKEND=tensorflow"
        )


def keras_to_tflite(model: Any) -> bytes:
    """Convert a Keras network, grey faces to probabilities, to a LiteRT network with logits.

    Raises:
        ModelError: if the converter fails.
    """
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants as constants

    network = logits_network(model)
    shape = tf.TensorSpec([1, FACE_SIZE, FACE_SIZE], tf.uint8, name=INPUT_CONTRACT["name"])

    def run(faces: Any) -> dict[str, Any]:
        floats = tf.cast(faces[..., None], tf.float32)
        return {OUTPUT_CONTRACT["logits"]: network(floats, training=False)}

    try:
        function = tf.function(run, input_signature=[shape]).get_concrete_function()
        # The converter does not find Keras 3's variables and would leave them empty.
        frozen = constants.convert_variables_to_constants_v2(function)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        return bytes(converter.convert())
    except Exception as error:  # the converter's errors have no common base class
        reason = error_reason(error)[:300]
        raise ModelError(f"the network cannot be converted to LiteRT: {reason}") from error


def open_tflite(content: bytes) -> Callable[[Faces], Floats]:
    """Open a LiteRT network: uint8 faces (N, 48, 48) to float32 logits (N, classes)."""
    with warnings.catch_warnings():
        # TensorFlow's interpreter announces its move to the package ai-edge-litert.
        warnings.simplefilter("ignore")
        has_litert = find_spec("ai_edge_litert") is not None
        name = "ai_edge_litert.interpreter" if has_litert else "tensorflow.lite.python.interpreter"
        module = importlib.import_module(name)
        interpreter = module.Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def logits(faces: Faces) -> Floats:
        outputs = []
        for face in faces:
            interpreter.set_tensor(source["index"], face[None])
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(result["index"])[0].copy())
        return np.asarray(outputs, np.float32)

    return logits


def _tflite_notes(content: bytes, folder: Path) -> dict[str, Any]:
    """Compare a LiteRT network with the exported model, and describe it."""
    manifest, faces = load_manifest(folder, labels=None).with_reading(None), trial_faces()
    with silence_native_stderr():
        logits = open_tflite(content)(faces).astype(np.float64)
    bias = np.array([manifest.bias.get(label, 0.0) for label in manifest.labels])
    probabilities = manifest.calibration.probabilities(logits + bias)
    refusal = "the network for LiteRT is refused: it differs from the exported model"
    difference = check_difference(probabilities, classify_with(folder, faces), refusal)
    fields = manifest.to_dict()
    shape = [1, len(manifest.labels)]
    digest = hashlib.sha256(content).hexdigest()
    return {
        "schema": TFLITE_SCHEMA,
        **{key: fields[key] for key in _COPIED},
        "input": {**fields["input"], "shape": [1, FACE_SIZE, FACE_SIZE]},
        "output": {"name": OUTPUT_CONTRACT["logits"], "dtype": "float32", "shape": shape},
        "file": {"name": TFLITE_NAME, "sha256": digest, "bytes": len(content)},
        "largest_difference": difference,
    }
