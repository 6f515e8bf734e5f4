"""Before and after fine-tuning: what the old model is asked, and what is shown."""

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


def test_the_old_model_is_asked_about_the_classes_that_it_knows(
    models: tuple[Classifier, Classifier], split: Split
) -> None:
    compared = compare(*models, split, meanings=MEANINGS, quiet=True)
    assert compared.known == ("negative", "positive")
    assert compared.before is not None
    assert compared.after_known is not None
    assert (compared.before.count, compared.after.count, compared.after_known.count) == (8, 12, 8)
    scores = models[0].classify(split.images[split.labels < 2])
    negative, positive = scores[:, 0] + scores[:, 5], scores[:, 3]
    right = (negative < positive) == split.labels[split.labels < 2]
    assert compared.before.correct == int(right.sum())
    assert json.loads(json.dumps(compared.to_dict()))["known"] == ["negative", "positive"]


def test_what_it_does_not_know_is_a_dash(
    models: tuple[Classifier, Classifier], split: Split
) -> None:
    compared = compare(*models, split, meanings=MEANINGS, quiet=True)
    header, rows = matrix_table(compared.before, CLASSES, compared.known)
    assert header == ["true \\ predicted", *CLASSES, "accuracy"]
    assert rows[2] == ["tired", "-", "-", "-", "-"]
    assert [row[3] for row in rows] == ["-", "-", "-"]
    text = comparison_text(compared)
    assert "on the 8 images of the classes that it has (not: tired)" in text
    assert "12 images; " in text


def test_a_model_that_knows_none_of_the_classes_has_no_figures(
    models: tuple[Classifier, Classifier], split: Split, tmp_path: Path
) -> None:
    compared = compare(*models, split, quiet=True)
    assert compared.before is None
    assert compared.known == ()
    assert "has none of these classes" in comparison_text(compared)
    write_comparison(compared, tmp_path / "report")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "before_after.md",
        "before_after.png",
    }
    assert "before_after.png" in (tmp_path / "report/before_after.md").read_text()


def test_without_images_of_the_known_classes_there_are_no_figures(
    models: tuple[Classifier, Classifier], split: Split
) -> None:
    tired = split.take(split.labels == CLASSES.index("tired"))
    compared = compare(*models, tired, meanings=MEANINGS, quiet=True)
    assert compared.before is None
    assert "no images of the classes that it has: negative, positive" in comparison_text(compared)


def test_a_model_that_knows_one_class_alone_has_nothing_to_choose_from(
    models: tuple[Classifier, Classifier], split: Split, tmp_path: Path
) -> None:
    compared = compare(*models, split, meanings={"positive": ["happy"]}, quiet=True)
    assert compared.known == ("positive",)
    assert compared.before is None
    assert compared.after_known is None
    text = comparison_text(compared)
    assert "has only positive of these classes: there is nothing to compare" in text
    assert "100" not in text.partition("after:")[0]
    write_comparison(compared, tmp_path / "report")
