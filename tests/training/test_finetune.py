"""Fine-tuning on other classes: starting network, recipe, run and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_maker import pattern
from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, InputError, ModelError, UsageError
from mien.core.manifest import load_manifest
from mien.data.dataset import Split
from mien.inference.classifier import Classifier
from mien.training.export import export_run, trial_faces
from mien.training.finetune import (
    build_starting_network,
    check_classes,
    export_finetuned,
    finetune,
    finetune_recipe,
    model_settings,
    read_notes,
)
from mien.training.recipe import Config, config_from_tables, load_config
from training_maker import threads, write_tiny_run

MEANINGS = {"negative": ["angry", "sad"], "positive": ["happy"], "new": ["new"]}
CLASSES = tuple(sorted(MEANINGS))


@pytest.fixture(scope="module")
def base(keras_ready: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model of the seven emotions."""
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("base")
    return export_run(write_tiny_run(folder / "run"), folder / "base")


def make_split(name: str, *, per_class: int, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(CLASSES)), per_class).astype(np.int64)
    images = np.stack([pattern(2 * int(label), rng) for label in labels])
    files = tuple(f"{CLASSES[label]}/{place}.png" for place, label in enumerate(labels))
    return Split(name, images, labels, files, (), (), CLASSES)


def probabilities(network: Any, faces: Any) -> Any:
    import keras

    answer = network(faces[..., None].astype(np.float32), training=False)
    return keras.ops.convert_to_numpy(answer)


def test_the_same_classes_in_another_order_start_from_the_same_predictions(base: Path) -> None:
    order = ("surprise", *EMOTIONS[:-1])
    network = build_starting_network(base, load_manifest(base), order, {})
    faces = trial_faces(4)
    expected = Classifier.open(base).classify(faces)[:, [6, 0, 1, 2, 3, 4, 5]]
    assert np.abs(probabilities(network, faces) - expected).max() < 1e-5


def test_merged_and_new_classes_start_from_mean_weights(base: Path) -> None:
    network = build_starting_network(base, load_manifest(base), CLASSES, MEANINGS)
    faces = trial_faces(4)
    logits = Classifier.open(base).logits(faces)
    expected = np.stack([logits[:, [0, 5]].mean(axis=1), logits.mean(axis=1), logits[:, 3]], axis=1)
    powers = np.exp(expected - expected.max(axis=1, keepdims=True))
    found = probabilities(network, faces)
    assert np.abs(found - powers / powers.sum(axis=1, keepdims=True)).max() < 1e-4


def test_the_recipe_keeps_the_architecture_and_fits_the_number_of_images(base: Path) -> None:
    manifest = load_manifest(base)

    def recipe(per_class: int, epochs: int | None = None) -> Config:
        train = make_split("train", per_class=per_class)
        tables = finetune_recipe(manifest, train, Path("r"), blocks=2, epochs=epochs)
        return config_from_tables(tables)

    few, many = recipe(6), recipe(300)
    assert few.training.batch_size < many.training.batch_size
    assert few.total_epochs > many.total_epochs
    assert few.labels == CLASSES
    assert few.model.backbone == model_settings(manifest).backbone
    assert few.training.fine_tune_blocks == 2
    assert recipe(6, epochs=3).training.epochs == 3


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (("a",), [0] * 9, "two classes or more"),
        (("a", "b"), [0] * 9 + [1], "class 'b' has 1 usable images"),
        (("a", "b"), [0] * 9, "class 'b' has 0 usable images"),
    ],
)
def test_too_few_classes_or_images_are_an_error(
    classes: tuple[str, ...], labels: list[int], message: str
) -> None:
    count = len(labels)
    images = np.zeros((count, 48, 48), np.uint8)
    files = tuple(map(str, range(count)))
    train = Split("train", images, np.array(labels), files, (), (), classes)
    val = Split("val", images[:0], np.array([], np.int64), (), (), (), classes)
    with pytest.raises(DataError, match=message):
        check_classes(train, val)


def test_a_model_without_its_architecture_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="lacks its architecture"):
        model_settings(load_manifest(tiny_model))


def test_a_run_without_the_files_of_finetuning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run of mien finetune"):
        read_notes(tmp_path)


def test_the_run_learns_the_classes_and_its_export_has_them(base: Path, tmp_path: Path) -> None:
    splits = {
        "train": make_split("train", per_class=8),
        "val": make_split("val", per_class=4, seed=1),
    }
    run = finetune(
        splits,
        tmp_path / "run",
        model=base,
        meanings=MEANINGS,
        epochs=2,
        threads=threads(),
        overrides=["training.learning_rate=0.02", "training.head_epochs=2"],
        quiet=True,
    )
    assert load_config(run.config).training.learning_rate == 0.02
    folder = export_finetuned(run)
    classifier = Classifier.open(folder, labels=None)
    assert classifier.labels == CLASSES
    assert classifier.manifest.data["classes"] == MEANINGS
    assert classifier.manifest.data["started_from"]["sha256"] == load_manifest(base).file.sha256
    assert classifier.classify(splits["val"].images).shape == (12, 3)
    with pytest.raises(ModelError, match="expected the labels"):
        Classifier.open(folder)
    with pytest.raises(UsageError, match="holds a run already"):
        finetune(splits, tmp_path / "run", model=base)
    wrong, count = ["training.nothing=1"], threads()
    with pytest.raises(UsageError, match="unknown key"):
        finetune(splits, tmp_path / "x", model=base, threads=count, overrides=wrong)
    assert not (tmp_path / "x").exists()
