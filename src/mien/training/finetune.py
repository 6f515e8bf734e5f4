"""Fine-tune an exported model on a user's own classes.

The model's ONNX file holds every weight under its Keras name, so the network is rebuilt from it;
only the last layer is new, and starts from what the model knows of the classes. What follows is a
run like any other: the head alone, then the last blocks.
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
from mien.training import run as run_folder
from mien.training.backend import prepare_backend
from mien.training.export import export_run
from mien.training.model import block_names, build_model
from mien.training.onnx_converter import fill_network, read_weights
from mien.training.recipe import (
    ModelSettings,
    TrainingSettings,
    config_from_tables,
    override_tables,
)
from mien.training.run import RunFolder, read_json
from mien.training.trainer import train

FACES = "faces.npz"
START = "start.keras"
NOTES = "finetune.json"

LEAST_IMAGES = 4
"""Images that every class must have: one to hold out and three to learn from."""

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
    """Train a model on a user's own classes; the run's folder keeps the faces, too.

    Args:
        splits: "train" and "val", and "test" if there is one; see `mien.data.class_folder`.
        folder: of the run; must not hold one yet.
        model: what to start from: a bundled model's name or a model's folder.
        meanings: the model's classes that each class is made of (see `find_label`).
        notes: JSON values to keep with the run, in ``finetune.json``.
        files: the folder that the splits' files are in (see `mien.data.dataset.image_hashes`).
        epochs: of the second phase; as many as fit the number of images unless given.
        seed: of weights, order and augmentation.
        threads: CPU threads, 0 for all.
        overrides: ``section.key=value`` each, as in ``mien train --set``.
        quiet: draw no progress and print no epochs.

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
    network = starting_network(base, manifest, splits["train"].classes, meanings or {})
    tables = finetune_tables(
        manifest, splits["train"], run.path, blocks=len(block_names(network)), epochs=epochs
    )
    tables["training"] |= {"seed": seed, "threads": threads}
    override_tables(tables, overrides)
    config = config_from_tables(tables)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {run.path}: {error.strerror}") from error
    save_splits(run.path / FACES, splits)
    write_record(run.path / RECORD, splits, files, before=find_record(base))
    with run_folder.saving(run.path / START) as temporary:
        network.save(temporary)
    kept = {
        **(notes or {}),
        "classes": {name: list(parts) for name, parts in (meanings or {}).items()},
        "started_from": manifest.info.to_dict(),
        "model": str(model),
    }
    run_folder.write_json(run.path / NOTES, kept)
    return train(config, run.path, quiet=quiet)


def read_notes(folder: Path) -> dict[str, Any]:
    """Return what `finetune` kept with a run; raises InputError if it is no fine-tuning."""
    path = folder / NOTES
    if not path.is_file():
        raise InputError(
            f"{folder} is not a fine-tuning: expected {NOTES} in it, as mien finetune leaves"
        )
    return read_json(path)


def export_finetuned(run: RunFolder) -> Path:
    """Export a fine-tuned run, with its classes, origin and files on record; as `export_run`."""
    notes = read_notes(run.path)
    folder = export_run(run.path)
    manifest = load_manifest(folder, labels=None)
    told: dict[str, Any] = {key: notes[key] for key in ("classes", "started_from") if key in notes}
    write_manifest(folder, dataclasses.replace(manifest, data={**manifest.data, **told}))
    if (run.path / RECORD).is_file():
        write_atomically(folder / RECORD, (run.path / RECORD).read_bytes())
    return folder


def check_classes(train: Split, val: Split) -> None:
    """Raise DataError unless there are two classes or more, each with enough images."""
    counts = train.class_counts()
    if len(counts) < 2:
        raise DataError(
            f"expected two classes or more, got {', '.join(counts) or 'none'}: "
            "put the images of each class into a folder of its own"
        )
    held = val.class_counts()
    for name, count in counts.items():
        total = count + held[name]
        if total < LEAST_IMAGES or count < 2:
            raise DataError(
                f"class {name!r} has {total} images that can be used: expected at least "
                f'{LEAST_IMAGES}; add some, or leave it out or merge it with --map "{name}=" or '
                f'"{name}=OTHER"'
            )
    if len(val) == 0:
        raise DataError(
            "no image is left to validate on: expected val/CLASS/IMAGE, or images that differ"
        )


# ---------------------------------------------------------------- the recipe
def finetune_tables(
    manifest: Manifest, train: Split, run: Path, *, blocks: int, epochs: int | None = None
) -> dict[str, dict[str, Any]]:
    """Return a recipe that fits the number of images: minutes on a CPU for 50 to 5,000.

    The backbone of the manifest's model has ``blocks`` blocks; ``epochs`` as in `finetune`.
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
            # About a quarter of a phase: with few steps, a longer memory would keep the start.
            "ema": round(min(0.998, 1 - 4 / max(8, steps * max(1, epochs))), 4),
        },
    }


def model_settings(manifest: Manifest) -> ModelSettings:
    """Return the architecture of an exported model, at the input size that it ended with.

    Raises:
        ModelError: if its manifest does not tell.
    """
    recipe = manifest.config.get("model")
    if not isinstance(recipe, Mapping):
        raise ModelError(
            f"the manifest of {manifest.name} does not tell its architecture: "
            "expected a model of mien export"
        )
    known = {item.name for item in dataclasses.fields(ModelSettings)}
    table = {key: value for key, value in recipe.items() if key in known}
    validation, size = manifest.metrics.get("validation"), table.get("input_size")
    if isinstance(validation, Mapping):
        size = validation.get("size", size)
    return config_from_tables({"model": {**table, "weights": "none", "input_size": size}}).model


# ---------------------------------------------------------------- the network to start from
def starting_network(
    base: Path, manifest: Manifest, labels: Sequence[str], meanings: Mapping[str, Sequence[str]]
) -> Any:
    """Rebuild a model as a Keras network whose outputs are a user's own classes.

    The last layer's weights of a class in ``labels`` are the mean of those of the model's labels
    that it is made of (``meanings``); of a class that the model does not know, the mean of all.

    Raises:
        ModelError: if the model is damaged or of another architecture than it says.
    """
    settings = model_settings(manifest)
    weights = read_weights(base / manifest.file.name)
    owners = [find_label(label, labels, meanings) for label in manifest.labels]
    everything = list(range(len(owners)))
    columns = [[at for at in everything if owners[at] == label] or everything for label in labels]
    for part in ("kernel", "bias"):
        name = f"{_LOGITS}/{part}"
        if name not in weights:
            raise ModelError(f"{base} has no weights {name}: expected a model of mien export")
        weights[name] = np.stack(
            [weights[name][..., column].mean(axis=-1) for column in columns], axis=-1
        )
    network = build_model(settings, size=settings.input_size, initialise=False, classes=len(labels))
    fill_network(network, weights, where=str(base))
    return network
