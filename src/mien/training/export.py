"""Turn a run into a model for inference: a folder with ``model.onnx`` and ``manifest.json``.

Nothing is put in its place untested: a new model is opened as a user's program would open it, and
its probabilities must be those of Keras.
"""

from __future__ import annotations

import csv
import dataclasses
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import InputError, ModelError, OutputError, UsageError
from mien.core.images import FACE_SIZE
from mien.core.manifest import (
    MANIFEST_SCHEMA,
    PEOPLE_OUTPUTS,
    Manifest,
    ModelFile,
    load_manifest,
    write_manifest,
)
from mien.core.models import MANIFEST_NAME, MODEL_NAME, find_model
from mien.training import run as run_folder
from mien.training.architectures import refresh
from mien.training.backend import prepare_keras
from mien.training.model import build_model, interpolate_weights, load_keras_model
from mien.training.onnx_converter import keras_to_onnx
from mien.training.onnx_join import join_networks, one_reading
from mien.training.recipe import Config, load_run_config
from mien.training.run import RunFolder, read_json
from mien.training.transforms import Faces, Floats

EXPORT_FOLDER = "export"
"""Where in a run's folder its export goes."""

TOLERANCE = 1e-4
"""Largest difference that any probability may have between ONNX Runtime and Keras."""

BATCH_SIZES: tuple[int, ...] = (1, 32)
"""At which both are compared: one may be right where the other is not."""

_FIGURES = ("val_accuracy", "val_macro_f1", "val_loss", "epoch", "size")


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
        run: the run's folder.
        output: the model's folder, ``RUN/export`` unless given. A model in it is replaced; other
            files stay.
        name: the model's, that of the run's folder unless given.
        version: the model's.
        start_share: weight interpolation (WiSE-FT, Wortsman et al. 2021, 2109.01903): the share,
            0-1, of the weights that the run started from in those that are exported.

    Returns:
        The model's folder. The manifest's ``metrics.export`` says how far Keras and ONNX Runtime
        differ.

    Raises:
        InputError: if there is no such run, or it has no network yet.
        ModelError: if the network is damaged, cannot be converted, or its probabilities in ONNX
            Runtime differ from Keras' by more than `TOLERANCE`; then nothing is written.
        UsageError: if the name is empty, or the output is a folder of something else.
        OutputError: if it cannot be written.
        MissingExtra: if Keras or onnx is not installed.
    """
    opened = run_folder.open_run(run)
    name = opened.path.resolve().name if name is None else name
    if name.strip() in ("", "..") or Path(name).name != name:
        raise UsageError(f"expected a name for the model that a folder could have, got {name!r}")
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
        created="",  # this and the file are filled in by publish
        file=ModelFile(MODEL_NAME, "", 0),
        labels=config.labels,
        reading=_reading_of(config),
        config=_recipe(config),
        **provenance,
    )

    def prove(folder: Path) -> dict[str, Any]:
        difference = check_agreement(network, folder)
        return {"export": {"largest_difference": difference, "batch_sizes": list(BATCH_SIZES)}}

    proto = keras_to_onnx(network, labels=config.labels, version=version)
    return publish(target, proto.SerializeToString(), manifest, prove)


def join_run(
    run: Path,
    model: Path | str,
    output: Path,
    *,
    version: str | None = None,
    start_share: float = 0.0,
) -> Path:
    """Add a network that learnt FER+'s votes to a model, as its people's reading.

    Args:
        run: the folder of a run with ``data.targets = "votes"``, or of the model that one was
            exported to.
        model: a bundled model's name, or the folder of one that follows FER-2013's labels; a
            people's reading that it has already is replaced.
        output: the folder of the model with both; it may be that of the other one.
        version: of the new model, that of the other one unless given.
        start_share: as in `export_run`, for a run.

    Returns:
        ``output``. What both networks have in common is in its file once (see `join_networks`).

    Raises:
        UsageError: if the run did not learn votes, the model has classes of its own, or the output
            is a folder of something else.
        ModelError: if a network is missing or damaged, or the new model's probabilities differ from
            those of the two by more than `TOLERANCE`; then nothing is written.
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
        raise UsageError(f"a start share is for a run, and {run} is an exported model")
    check_target(output)
    with tempfile.TemporaryDirectory() as scratch:
        votes = run
        if not exported:
            votes = export_run(run, Path(scratch, "people"), start_share=start_share)
        return _join_models(base, votes, output, version)


def _join_models(labels: Path, votes: Path, output: Path, version: str | None) -> Path:
    """Write the model that reads by FER-2013's labels as one model does, by votes as another."""
    import onnx

    parts = ((labels, "fer2013"), (votes, "people"))
    first, second = (
        load_manifest(folder, labels=None).with_reading(name) for folder, name in parts
    )
    proto = join_networks(
        one_reading(onnx.load(labels / first.file.name), first.outputs),
        one_reading(onnx.load(votes / second.file.name), second.outputs),
    )
    joined = dataclasses.replace(
        first,
        version=version or first.version,
        others={"people": dataclasses.replace(second, outputs=PEOPLE_OUTPUTS)},
        versions=second.versions,
    )

    def prove(folder: Path) -> dict[str, Any]:
        for old, reading in parts:
            expected, found = (
                classify_with(each, trial_faces(), reading=reading) for each in (old, folder)
            )
            check_same(found, expected, f"the model is refused: as {reading} it differs from {old}")
        return {}

    return publish(output, proto.SerializeToString(), joined, prove)


# ---------------------------------------------------------------- the network
def load_best(run: RunFolder, config: Config) -> Any:
    """Load the best network of a run, in float32, on whichever backend of Keras is there.

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

    # One that was trained in mixed precision rounds to 8 bits, and ONNX Runtime will not.
    def in_float32(layer: Any) -> Any:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    copy = keras.models.clone_model(network, clone_function=in_float32)
    copy.set_weights(network.get_weights())
    refresh(copy)
    return copy


def to_logits(network: Any) -> Any:
    """Return a Keras network without the softmax at its end."""
    import keras

    last = next(layer for layer in network.layers if layer.output is network.outputs[0])
    return keras.Model(network.inputs[0], last.input)


# ---------------------------------------------------------------- the proof
def check_agreement(network: Any, folder: Path) -> float:
    """Compare a Keras network with its export, as a user's program would run it.

    Returns the largest difference in any probability; raises ModelError if it is above `TOLERANCE`
    or not a number.
    """
    import keras

    faces = trial_faces()
    logits = to_logits(network)(faces[..., None].astype(np.float32), training=False)
    logits = np.asarray(keras.ops.convert_to_numpy(logits), np.float64)
    expected = (
        load_manifest(folder, labels=None).with_reading(None).calibration.probabilities(logits)
    )
    return max(
        check_same(
            classify_with(folder, faces, batch_size=size),
            expected,
            f"the export is refused: at batch {size}, ONNX Runtime and Keras differ",
        )
        for size in BATCH_SIZES
    )


def classify_with(
    folder: Path, faces: Faces, *, reading: str | None = None, batch_size: int = BATCH_SIZES[-1]
) -> Floats:
    """Return the probabilities (N, classes) that a model gives a user's program."""
    from mien.inference.classifier import Classifier

    classifier = Classifier.open(folder, labels=None, reading=reading)
    return classifier.classify(faces, batch_size=batch_size)


def check_same(found: npt.NDArray[Any], expected: npt.NDArray[Any], refusal: str) -> float:
    """Return the largest difference of two networks' probabilities, both (N, classes).

    Raises ModelError, which begins with ``refusal``, if it is above `TOLERANCE` or not a number.
    """
    difference = float(np.abs(found - expected).max())
    # Put this way round, NaN is refused too.
    if not difference <= TOLERANCE:
        raise ModelError(
            f"{refusal} by {difference:.2g} in a probability, expected at most {TOLERANCE:g}"
        )
    return difference


def trial_faces(count: int = 32, *, seed: int = 0) -> Faces:
    """Return images to compare networks on, uint8 (2 * count, 48, 48).

    Noise and smooth shapes in turn, of which the first two are black and white.
    """
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, FACE_SIZE, FACE_SIZE)).astype(np.uint8)
    size = (FACE_SIZE, FACE_SIZE)
    smooth = [cv2.resize(each[:7, :7], size, interpolation=cv2.INTER_CUBIC) for each in noise]
    faces = np.stack([noise, np.stack(smooth)], axis=1).reshape(-1, *size).astype(np.uint8)
    faces[0], faces[1] = 0, 255
    return faces


# ---------------------------------------------------------------- the folder
def check_target(target: Path) -> None:
    """Raise UsageError unless a model can be put there: it is new, empty, or holds one already."""
    if target.is_dir():
        try:
            manifest = (target / MANIFEST_NAME).read_text(encoding="utf-8")
        except (OSError, ValueError):
            manifest = ""
        # Damaged or not, it is a model's manifest; other programs have files of that name.
        is_model = f'"{MANIFEST_SCHEMA.partition("/")[0]}/' in manifest
        if any(target.iterdir()) and not is_model:
            raise UsageError(
                f"{target} holds other things: expected a new folder, or one with a model in it"
            )
    elif target.exists():
        raise UsageError(f"{target} is a file: expected a folder for the model")


def publish(
    target: Path, content: bytes, manifest: Manifest, prove: Callable[[Path], Mapping[str, Any]]
) -> Path:
    """Write a model's folder, whole or not at all, once the model has been proven.

    Args:
        target: the folder, see `check_target`; it is returned, too.
        content: the network's file.
        manifest: the model's; ``created`` and ``file`` are filled in here.
        prove: opens the new model in a folder and returns metrics, or raises ModelError.

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
        metrics = {**manifest.metrics, **prove(staged)}
        write_manifest(staged, dataclasses.replace(manifest, metrics=metrics))
        if target.exists():
            # The manifest follows its network: in between, a reader is told that they don't match.
            for name in (MODEL_NAME, MANIFEST_NAME):
                (staged / name).replace(target / name)
        else:
            staged.replace(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return target


# ---------------------------------------------------------------- what the manifest tells
def _reading_of(config: Config) -> str:
    """Return whose labels a run's network follows."""
    if config.data.targets == "votes":
        return "people"
    return "own" if config.data.labels else "fer2013"


def _recipe(config: Config) -> dict[str, Any]:
    """Return the recipe as nested dictionaries; of paths, which are the maker's own, the names."""
    tables = dataclasses.asdict(config)
    paths = (("data", "source"), ("data", "votes"), ("model", "weights"), ("distill", "cache"))
    for section, key in paths:
        tables[section][key] = Path(tables[section][key]).name
    tables["distill"]["teachers"] = [Path(teacher).name for teacher in config.distill.teachers]
    return tables


def _provenance(run: RunFolder) -> dict[str, Any]:
    """Return the manifest's ``data``, ``metrics`` and ``versions`` from the run's records."""
    environment = read_json(run.environment)
    # Of the best epoch: in the summary, or in the history while a run goes on.
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
