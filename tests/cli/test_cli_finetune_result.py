"""What a finished fine-tuning prints, and gives as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mien.cli.finetune import CALIBRATION_IMAGES, Finetuned
from mien.data.dataset import Split
from mien.evaluation.comparison import compare, comparison_text
from mien.inference.classifier import Classifier
from mien.training.run_folder import RunFolder

pytest.importorskip("sklearn")

CLASSES = ("good", "bad")
CALIBRATION = {"images": 1200, "error_before": 0.123, "error_after": 0.04}


@pytest.fixture
def done(make_tiny_model: Callable[..., Path]) -> Finetuned:
    images = np.random.default_rng(0).integers(0, 256, (6, 48, 48)).astype(np.uint8)
    names = tuple(map(str, range(6)))
    split = Split("val", images, np.arange(6) % 2, names, (), (), CLASSES)
    old = Classifier.open(make_tiny_model("old"))
    new = Classifier.open(make_tiny_model("new", labels=CLASSES), labels=None)
    meanings = {"good": ["happy"], "bad": ["angry", "sad"]}
    return Finetuned(
        run=RunFolder(Path("mine")),
        model=Path("mine/export"),
        counts={"train": {"good": 1000, "bad": 234}, "val": {"good": 3, "bad": 3}, "test": {}},
        compared=compare(old, new, split, meanings=meanings, quiet=True),
        calibration=CALIBRATION,
        summary={"seconds": 75.0, "epochs": 9, "best": {"epoch": 7}},
    )


def test_the_text_has_facts_both_matrices_and_the_next_step(done: Finetuned) -> None:
    text = done.to_text()
    facts = dict(line.split(maxsplit=1) for line in text.split("\n\n")[0].splitlines()[:3])
    assert facts["run"] == "mine"
    assert facts["images"] == "train 1,234, val 6"
    assert "best epoch   7 of 9\n" in text
    assert "on 1,200 images of val, error 12.3% before, 4.0% after" in text
    assert "measured on  val, which chose the best epoch too" in text
    assert comparison_text(done.compared) in text
    assert text.endswith("next: mien predict --model mine/export IMAGE\n")


def test_what_was_not_calibrated_or_is_of_test_says_so(done: Finetuned) -> None:
    other = replace(done, calibration=None, compared=replace(done.compared, split="test"))
    text = other.to_text()
    assert f"calibrated   no, fewer than {CALIBRATION_IMAGES} images are held out\n" in text
    assert "measured on  test\n" in text


def test_the_json_form_has_everything(done: Finetuned) -> None:
    written = json.loads(json.dumps(done.to_dict()))
    assert (written["run"], written["model"]) == ("mine", "mine/export")
    assert written["images"]["train"] == {"good": 1000, "bad": 234}
    assert written["comparison"] == json.loads(json.dumps(done.compared.to_dict()))
    assert written["calibration"] == CALIBRATION
    assert written["summary"]["best"] == {"epoch": 7}
