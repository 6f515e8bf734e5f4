"""Fine-tuning of an exported model on a user's own classes.

The model's ONNX file holds every weight under its Keras name, so the network is rebuilt from it.
Only the last layer is new; its weights start from those of the model's corresponding classes.
Training is an ordinary run: first the head alone, then the last blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mien.core.errors import DataError, InputError, ModelError, OutputError
from mien.core.files import write_atomically
from mien.core.manifest import Manifest, load_manifest, write_manifest
from mien.core.models import find_model
from mien.data.class_folder import find_label
from mien.data.dataset import RECORD, Split, find_record, save_splits, write_record
from mien.training import run_folder
from mien.training.backend import prepare_backend
from mien.training.export import export_run
from mien.training.model import block_names, build_model
from mien.training.onnx_converter import assign_weights, read_weights
from mien.training.recipe import (
    ModelSettings,
    TrainingSettings,
    config_from_tables,
    override_tables,
)
from mien.training.run_folder import RunFolder, read_json
from mien.training.trainer import train

FACES = "faces.npz"
START = "start.keras"
NOTES = "finetune.json"

MIN_IMAGES = 4
"""Images that every class must have: one for validation and three for training."""

_LOGITS = "logits"


# ---------------------------------------------------------------- the run
def finetune(
    splits: Mapping[str, Split],
    folder: Path,
    *,
    model: str | Path,
    meanings: Mapping[str, Sequence[str]] | None = None,
    notes: Mapping[str, Any] | None = None,
    files: Path | None = None,
    epochs: int | None = None,
    seed: int = 0,
    threads: int = 0,
    overrides: Sequence[str] = (),
    quiet: bool = False,
) -> RunFolder:
    """Train a model on a user's own classes.

    Args:
        splits: "train" and "val", and "test" if there is one; see `mien.data.class_folder`.
        folder: folder of the run, which also stores the faces; must not hold a run yet.
        model: model to start from: a bundled model's name or a model's folder.
        meanings: the model's classes that each new class corresponds to (see `find_label`).
        notes: JSON values to store with the run, in ``finetune.json``.
        files: folder of the splits' files (see `mien.data.dataset.image_hashes`).
        epochs: epochs of the second phase; depends on the number of images by default.
        seed: random seed of weights, order and augmentation.
        threads: CPU threads, 0 for all.
        overrides: ``section.key=value`` strings, as in ``mien train --set``.
        quiet: no progress bars and no line per epoch.

    Raises:
        DataError: if there are fewer than two classes, or one has too few images.
        ModelError: if the model is missing or cannot be trained on.
        UsageError, MissingExtra, OutputError, TrainingStopped: as `mien.training.trainer.train`.
    """
    run = run_folder.new_run(folder)
    base = find_model(model)
    manifest = load_manifest(base, labels=None)
    check_classes(splits["train"], splits["val"])
    prepare_backend(TrainingSettings(seed=seed, threads=threads))
    network = build_starting_network(base, manifest, splits["train"].classes, meanings or {})
    tables = finetune_recipe(
        manifest, splits["train"], run.path, blocks=len(block_names(network)), epochs=epochs
    )
    tables["training"] |= {"seed": seed, "threads": threads}
    override_tables(tables, overrides)
    config = config_from_tables(tables)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create {run.path}: {error.strerror}") from error
    save_splits(run.path / FACES, splits)
    write_record(run.path / RECORD, splits, files, before=find_record(base))
    with run_folder.saving(run.path / START) as temporary:
        network.save(temporary)
    notes = {
        **(notes or {}),
        "classes": {name: list(parts) for name, parts in (meanings or {}).items()},
        "started_from": manifest.info.to_dict(),
        "model": str(model),
    }
    run_folder.write_json(run.path / NOTES, notes)
    return train(config, run.path, quiet=quiet)


def read_notes(folder: Path) -> dict[str, Any]:
    """Read what `finetune` stored with a run; raises InputError if it is another kind of run."""
    path = folder / NOTES
    if not path.is_file():
        raise InputError(f"{folder} is not a run of mien finetune: expected {NOTES} in it")
    return read_json(path)


def export_finetuned(run: RunFolder) -> Path:
    """Export a fine-tuned run with its classes, origin and record of files; as `export_run`."""
    notes = read_notes(run.path)
    folder = export_run(run.path)
    manifest = load_manifest(folder, labels=None)
    origin: dict[str, Any] = {
        key: notes[key] for key in ("classes", "started_from") if key in notes
    }
    write_manifest(folder, dataclasses.replace(manifest, data={**manifest.data, **origin}))
    if (run.path / RECORD).is_file():
        write_atomically(folder / RECORD, (run.path / RECORD).read_bytes())
    return folder


def check_classes(train: Split, val: Split) -> None:
    """Raise DataError unless there are at least two classes, each with enough images."""
    counts = train.class_counts()
    if len(counts) < 2:
        raise DataError(
            f"expected two classes or more, got {', '.join(counts) or 'none'}: "
            "put the images of each class into a separate folder"
        )
    val_counts = val.class_counts()
    for name, count in counts.items():
        total = count + val_counts[name]
        if total < MIN_IMAGES or count < 2:
            raise DataError(
                f"class {name!r} has {total} usable images: expected at least {MIN_IMAGES}; add "
                f'some, leave it out with --map "{name}=", or merge it with --map "{name}=OTHER"'
            )
    if len(val) == 0:
        raise DataError(
            "no image is left to validate on: expected val/CLASS/IMAGE, or images that differ"
        )


# ---------------------------------------------------------------- the recipe
def finetune_recipe(
    manifest: Manifest, train: Split, run: Path, *, blocks: int, epochs: int | None = None
) -> dict[str, dict[str, Any]]:
    """Return the tables of a recipe for a number of images: minutes on a CPU for 50 to 5,000.

    Args:
        manifest: of the model to start from.
        train: the training images.
        run: folder of the run.
        blocks: number of blocks of the model's backbone.
        epochs: as in `finetune`.
    """
    count = len(train)
    batch = 32 if count >= 256 else 16 if count >= 64 else min(8, count)
    steps = max(1, count // batch)
    if epochs is None:
        epochs = int(np.clip(round(16000 / count), 6, 20))
    model = dataclasses.asdict(model_settings(manifest))
    return {
        "data": {"source": str(run / FACES), "labels": list(train.classes)},
        "model": {**model, "weights": str(run / START)},
        "augmentation": {
            "rotation": 9.0,
            "shift": 0.07,
            "scale": 0.1,
            "brightness": 0.12,
            "contrast": 0.35,
            "blur": 0.08,
            "erasing": 0.1,
        },
        "training": {
            "batch_size": batch,
            "head_epochs": int(np.clip(round(8000 / count), 2, 8)),
            "head_learning_rate": 1e-3,
            "epochs": epochs,
            "fine_tune_blocks": min(4, blocks) if blocks else -1,
            "learning_rate": 3e-4,
            "warmup_epochs": 0.5,
            "weight_decay": 0.05,
            "label_smoothing": 0.05,
            "early_stopping": 8,
            "class_weights": True,
            "class_weight_power": 0.5,
            # Averages over about a quarter of a phase; longer would retain the starting weights.
            "ema": round(min(0.998, 1 - 4 / max(8, steps * max(1, epochs))), 4),
        },
    }


def model_settings(manifest: Manifest) -> ModelSettings:
    """Return the architecture of an exported model, with the input size of its last epoch.

    Raises:
        ModelError: if its manifest does not hold the recipe.
    """
    recipe = manifest.config.get("model")
    if not isinstance(recipe, Mapping):
        raise ModelError(
            f"the manifest of {manifest.name} lacks its architecture: "
            "expected a model of mien export"
        )
    known = {item.name for item in dataclasses.fields(ModelSettings)}
    table = {key: value for key, value in recipe.items() if key in known}
    validation, size = manifest.metrics.get("validation"), table.get("input_size")
    if isinstance(validation, Mapping):
        size = validation.get("size", size)
    return config_from_tables({"model": {**table, "weights": "none", "input_size": size}}).model


# ---------------------------------------------------------------- the starting network
def build_starting_network(
    base: Path, manifest: Manifest, labels: Sequence[str], meanings: Mapping[str, Sequence[str]]
) -> Any:
    """Rebuild a model as a Keras network whose outputs are a user's own classes.

    The last layer's weights for a class are the mean of those of the model's labels that it
    corresponds to; for a class unknown to the model, the mean of all.

    Args:
        base: folder of the model.
        manifest: its manifest.
        labels: the new classes.
        meanings: as in `finetune`.

    Raises:
        ModelError: if the model is damaged or its architecture is not that of the manifest.
    """
    settings = model_settings(manifest)
    weights = read_weights(base / manifest.file.name)
    targets = [find_label(label, labels, meanings) for label in manifest.labels]
    every = list(range(len(targets)))
    columns = [[i for i in every if targets[i] == label] or every for label in labels]
    for part in ("kernel", "bias"):
        name = f"{_LOGITS}/{part}"
        if name not in weights:
            raise ModelError(f"{base} has no weights {name}: expected a model of mien export")
        weights[name] = np.stack(
            [weights[name][..., column].mean(axis=-1) for column in columns], axis=-1
        )
    network = build_model(settings, size=settings.input_size, initialise=False, classes=len(labels))
    assign_weights(network, weights, where=str(base))
    return network
