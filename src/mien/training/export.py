"""A run becomes a model that inference can use: ``model.onnx`` and ``manifest.json``.

Nothing leaves here untested: what is written is opened as a user's program would open it, and its
probabilities must be those of Keras.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import InputError, ModelError, UsageError
from mien.core.faces import FACE_SIZE
from mien.core.manifest import (
    PEOPLE_OUTPUTS,
    Manifest,
    ModelFile,
    Reading,
    load_manifest,
    write_manifest,
)
from mien.core.models import MODEL_NAME, find_model
from mien.training import run_folder
from mien.training.backend import prepare_keras
from mien.training.config import Config, load_config
from mien.training.model_folder import check_target, move_in, staging
from mien.training.onnx_converter import keras_to_onnx
from mien.training.onnx_join import join_networks, one_reading
from mien.training.run_folder import RunFolder, read_json

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
    temperature: float = 1.0,
) -> Path:
    """Export the best network of a run.

    Args:
        run: the run's folder.
        output: the model's folder, ``RUN/export`` unless given. One that holds a model already is
            brought up to date; other files in it stay.
        name: the model's, that of the run's folder unless given.
        version: the model's.
        temperature: what the logits are divided by before the softmax.

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
    config = load_config(opened.config)
    model = load_best(opened, config)
    proto = keras_to_onnx(model, labels=config.labels, version=version)
    with staging(target) as folder:
        file = folder / MODEL_NAME
        file.write_bytes(proto.SerializeToString())
        manifest = Manifest(
            name=name,
            version=version,
            created=_now(),
            file=ModelFile.of(file),
            labels=config.labels,
            reading=_reading_of(config),
            temperature=temperature,
            config=_recipe(config),
            **_provenance(opened),
        )
        write_manifest(folder, manifest)
        difference = check_agreement(model, folder)
        checked = {"largest_difference": difference, "batch_sizes": list(BATCH_SIZES)}
        metrics = {**manifest.metrics, "export": checked}
        write_manifest(folder, dataclasses.replace(manifest, metrics=metrics))
        move_in(folder, target)
    return target


def join_run(
    run: Path,
    model: Path | str,
    output: Path,
    *,
    version: str | None = None,
    start_share: float = 0.0,
) -> Path:
    """Add a run that learnt FER+'s votes to an exported model, as its people's reading.

    Args:
        run: the run's folder; its recipe has ``data.targets = "votes"``.
        model: a bundled model's name, or the folder of one that follows FER-2013's labels; a
            people's reading that it has already is replaced.
        output: the folder of the model with both; it may be that of the other one.
        version: of the new model, that of the other one unless given.
        start_share: share of the weights that the run started from in those that are exported
            (Wortsman et al. 2021, 2109.01903): between what the network could do and what it
            learnt, 0-1.

    Returns:
        ``output``. What both networks have in common is in its file once (see `join_networks`).

    Raises:
        UsageError: if the run did not learn votes, the model has classes of its own, or the output
            is a folder of something else.
        ModelError: if a network is missing or damaged, or the new model's answers differ from what
            Keras or the other model gives by more than `TOLERANCE`; then nothing is written.
        InputError, OutputError: as `export_run`.
    """
    import onnx

    opened = run_folder.open_run(run)
    config = load_config(opened.config)
    base = find_model(model)
    manifest = load_manifest(base, labels=None)
    if _reading_of(config) != "people" or "fer2013" not in manifest.readings:
        raise UsageError(
            f'expected a run with data.targets = "votes" and a model of FER-2013\'s labels, got '
            f"{run} ({_reading_of(config)}) and {manifest.name} ({', '.join(manifest.readings)})"
        )
    check_target(output)
    manifest = manifest.read_by("fer2013")
    network = load_best(opened, config)
    if start_share:
        _toward_start(network, config, start_share)
    proto = join_networks(
        one_reading(onnx.load(base / manifest.file.name), manifest.outputs),
        keras_to_onnx(network, labels=config.labels),
    )
    provenance = _provenance(opened)
    versions = provenance.pop("versions")
    people = Reading(outputs=PEOPLE_OUTPUTS, config=_recipe(config), **provenance)
    if start_share:
        metrics = {**people.metrics, "start_share": start_share}
        people = dataclasses.replace(people, metrics=metrics)
    with staging(output) as folder:
        file = folder / MODEL_NAME
        file.write_bytes(proto.SerializeToString())
        joined = dataclasses.replace(
            manifest,
            version=version or manifest.version,
            created=_now(),
            file=ModelFile.of(file),
            others={"people": people},
            versions=versions,
        )
        write_manifest(folder, joined)
        difference = check_agreement(network, folder, reading="people")
        _check_same(base, folder)
        checked = {"largest_difference": difference, "batch_sizes": list(BATCH_SIZES)}
        people = dataclasses.replace(people, metrics={**people.metrics, "export": checked})
        write_manifest(folder, dataclasses.replace(joined, others={"people": people}))
        move_in(folder, output)
    return output


def _toward_start(network: Any, config: Config, share: float) -> None:
    """Move a network's weights and statistics toward those that its run started from."""
    from mien.training.model import build_model, refresh

    start = build_model(config.model, size=config.final_size, classes=len(config.labels))
    for own, first in zip(network.weights, start.weights, strict=True):
        value = np.asarray(own.numpy())
        if value.dtype == np.float32:
            own.assign((1 - share) * value + share * np.asarray(first.numpy()))
    refresh(network)


def _check_same(old: Path, new: Path) -> None:
    """Refuse a model that reads by FER-2013's labels otherwise than the one it was made from."""
    from mien.inference.classifier import Classifier

    faces = trial_faces()
    before, after = (
        Classifier.open(folder, threads=1, reading="fer2013").classify(faces)
        for folder in (old, new)
    )
    if not np.abs(before - after).max() <= TOLERANCE:
        raise ModelError(f"the model is refused: by FER-2013's labels it differs from {old}")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _reading_of(config: Config) -> str:
    """Return whose labels a run's network follows."""
    if config.data.targets == "votes":
        return "people"
    return "own" if config.data.labels else "fer2013"


# ---------------------------------------------------------------- the network
def load_best(run: RunFolder, config: Config) -> Any:
    """Load the best network of a run, in float32, on whichever backend of Keras is there.

    Raises:
        InputError: if the run has none yet.
        ModelError: if it is damaged.
        MissingExtra: if Keras is not installed.
    """
    if not run.best.is_file():
        raise InputError(
            f"{run.path} has no {run.best.name} yet: it is written at the end of the first epoch "
            f"(mien train --resume {run.path})"
        )
    prepare_keras(config.training.backend)
    from mien.training.model import load_keras_model

    return _in_float32(load_keras_model(run.best))


def _in_float32(model: Any) -> Any:
    """Return the network with every layer computing in float32, as ONNX Runtime will.

    One that was trained in mixed precision rounds to 8 bits on the way, and would differ.
    """
    import keras

    if all(layer.compute_dtype == "float32" for layer in model.layers):
        return model

    def plain(layer: Any) -> Any:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=plain)
    copy.set_weights(model.get_weights())
    for layer in copy.layers:
        if type(layer).__name__ == "Normalization":
            layer.finalize_state()
    return copy


# ---------------------------------------------------------------- the proof
def check_agreement(model: Any, folder: Path, *, reading: str | None = None) -> float:
    """Compare a Keras network with its export, as a user's program would run it.

    Args:
        model: the network.
        folder: the exported model's.
        reading: which of its readings is that network's; the one it has unless given.

    Returns:
        The largest difference in any probability.

    Raises:
        ModelError: if it is above `TOLERANCE`, or one of both gives what is not a number.
    """
    import keras

    from mien.inference.classifier import Classifier

    classifier = Classifier.open(folder, threads=1, labels=None, reading=reading)
    to_logits = keras.Model(model.inputs[0], _logits(model))
    largest = 0.0
    for size in BATCH_SIZES:
        for faces in _batches(trial_faces(), size):
            logits = to_logits(faces[..., None].astype(np.float32), training=False)
            scaled = np.asarray(keras.ops.convert_to_numpy(logits), np.float64)
            expected = classifier.manifest.softening.probabilities(scaled)
            found = classifier.classify(faces, batch_size=size)
            difference = float(np.abs(found - expected).max())
            # Put this way round, NaN is refused too.
            if not difference <= TOLERANCE:
                raise ModelError(
                    f"the export is refused: at batch {size}, ONNX Runtime and Keras differ by "
                    f"{difference:.2g} in a probability, expected at most {TOLERANCE:g}"
                )
            largest = max(largest, difference)
    return largest


def _logits(model: Any) -> Any:
    last = next(layer for layer in model.layers if layer.output is model.outputs[0])
    return last.input


def trial_faces(count: int = 32, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return images on which to compare networks.

    Returns:
        uint8 (2 * count, 48, 48): noise and smooth, lit shapes as faces have them, in turn; the
        first of the noise is black, the first of the smooth is white.
    """
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (count, FACE_SIZE, FACE_SIZE)).astype(np.uint8)
    smooth = np.stack([_smooth_face(random) for _ in range(count)])
    noise[0], smooth[0] = 0, 255
    return np.stack([noise, smooth], axis=1).reshape(-1, FACE_SIZE, FACE_SIZE)


def _smooth_face(random: np.random.Generator) -> npt.NDArray[np.uint8]:
    coarse = random.normal(0.0, 1.0, (7, 7)).astype(np.float32)
    shapes = np.asarray(cv2.resize(coarse, (FACE_SIZE, FACE_SIZE), interpolation=cv2.INTER_CUBIC))
    grain = random.normal(0.0, 0.05, shapes.shape)
    lit = random.uniform(70, 180) + random.uniform(15, 70) * (shapes + grain)
    return np.asarray(np.clip(lit, 0, 255), np.uint8)


def _batches(faces: npt.NDArray[np.uint8], size: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield whole batches; of single faces, a few."""
    count = min(len(faces), 8 * size)
    for start in range(0, count - size + 1, size):
        yield faces[start : start + size]


# ---------------------------------------------------------------- what the manifest tells
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
    versions = {
        key: environment[key] for key in ("python", "commit") if environment.get(key) is not None
    }
    return {
        "data": environment.get("data", {}),
        "metrics": {"validation": _validation_figures(run)},
        "versions": {**versions, **environment.get("packages", {})},
    }


def _validation_figures(run: RunFolder) -> dict[str, float]:
    """Return the best epoch's figures: of the summary, or of the history while a run goes on."""
    best: Mapping[str, Any] = read_json(run.summary).get("best", {})
    if not best and run.history.is_file():
        with run.history.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        best = max(rows, key=lambda row: float(row["val_accuracy"]), default={})
    figures = {key: float(best[key]) for key in _FIGURES if key in best}
    return {
        key: int(value) if key in ("epoch", "size") else value for key, value in figures.items()
    }
