"""Comparison of a fine-tuned model with its base model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mien.data.dataset import Split
from mien.evaluation.evaluate import compare, comparison_text, matrix_table, write_comparison
from mien.inference.classifier import Classifier

pytest.importorskip("seaborn")

CLASSES = ("negative", "positive", "tired")
MEANINGS = {"negative": ["angry", "sad"], "positive": ["happy"], "tired": ["tired"]}


@pytest.fixture
def split() -> Split:
    images = np.random.default_rng(0).integers(0, 256, (12, 48, 48)).astype(np.uint8)
    labels = np.arange(12) % 3
    return Split("val", images, labels, tuple(map(str, range(12))), (), (), CLASSES)


@pytest.fixture
def models(make_tiny_model: Callable[..., Path]) -> tuple[Classifier, Classifier]:
    old = Classifier.open(make_tiny_model("old"))
    return old, Classifier.open(make_tiny_model("new", labels=CLASSES), labels=None)


def test_the_base_model_is_evaluated_on_its_classes(
    models: tuple[Classifier, Classifier], split: Split
) -> None:
    comparison = compare(*models, split, meanings=MEANINGS, quiet=True)
    assert comparison.known == ("negative", "positive")
    assert comparison.before is not None
    assert comparison.after_known is not None
    assert (comparison.before.count, comparison.after.count, comparison.after_known.count) == (
        8,
        12,
        8,
    )
    scores = models[0].classify(split.images[split.labels < 2])
    negative, positive = scores[:, 0] + scores[:, 5], scores[:, 3]
    right = (negative < positive) == split.labels[split.labels < 2]
    assert comparison.before.correct == int(right.sum())
    assert json.loads(json.dumps(comparison.to_dict()))["known"] == ["negative", "positive"]


def test_unknown_classes_are_dashes(models: tuple[Classifier, Classifier], split: Split) -> None:
    comparison = compare(*models, split, meanings=MEANINGS, quiet=True)
    header, rows = matrix_table(comparison.before, CLASSES, comparison.known)
    assert header == ["true \\ predicted", *CLASSES, "accuracy"]
    assert rows[2] == ["tired", "-", "-", "-", "-"]
    assert [row[3] for row in rows] == ["-", "-", "-"]
    text = comparison_text(comparison)
    assert "on the 8 images of the classes that it has (not: tired)" in text
    assert "12 images; " in text


def test_a_base_model_without_any_of_the_classes_has_no_figures(
    models: tuple[Classifier, Classifier], split: Split, tmp_path: Path
) -> None:
    comparison = compare(*models, split, quiet=True)
    assert comparison.before is None
    assert comparison.known == ()
    assert "has none of these classes" in comparison_text(comparison)
    write_comparison(comparison, tmp_path / "report")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "before_after.md",
        "before_after.png",
    }
    assert "before_after.png" in (tmp_path / "report/before_after.md").read_text()


def test_without_images_of_the_known_classes_there_are_no_figures(
    models: tuple[Classifier, Classifier], split: Split
) -> None:
    tired = split.take(split.labels == CLASSES.index("tired"))
    comparison = compare(*models, tired, meanings=MEANINGS, quiet=True)
    assert comparison.before is None
    assert "no images of the classes that it has: negative, positive" in comparison_text(comparison)


def test_a_base_model_with_one_of_the_classes_has_no_figures(
    models: tuple[Classifier, Classifier], split: Split, tmp_path: Path
) -> None:
    comparison = compare(*models, split, meanings={"positive": ["happy"]}, quiet=True)
    assert comparison.known == ("positive",)
    assert comparison.before is None
    assert comparison.after_known is None
    text = comparison_text(comparison)
    assert "has only positive of these classes: there is nothing to compare" in text
    assert "100" not in text.partition("after:")[0]
    write_comparison(comparison, tmp_path / "report")
