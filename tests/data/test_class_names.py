"""Renaming classes, and finding a model's label for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, UsageError
from mien.data.class_names import (
    fit_labels,
    label_for,
    meanings_of,
    named_classes,
    parse_map,
)
from mien.data.dataset import Split


def make_split(classes: tuple[str, ...], labels: list[int]) -> Split:
    images = np.zeros((len(labels), 48, 48), np.uint8)
    files = tuple(f"{place}.png" for place in range(len(labels)))
    return Split("all", images, np.array(labels, np.int64), files, (), (), classes)


def test_a_map_is_read_from_words_lines_and_json(tmp_path: Path) -> None:
    expected = {"angry": "bad", "sad": "bad", "other": ""}
    assert parse_map("angry=bad, sad=bad,other=") == expected
    lines = tmp_path / "map.txt"
    lines.write_text("# merged\nangry = bad\nsad=bad  # too\n\nother=\n")
    assert parse_map(str(lines)) == expected
    (tmp_path / "map.json").write_text('{"angry": "bad", "sad": "bad", "other": ""}')
    assert parse_map(str(tmp_path / "map.json")) == expected


@pytest.mark.parametrize("text", ["nofile", "a=b,c", "=b", "a=b,a=c", ","])
def test_a_map_that_says_nothing_or_two_things_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--map"):
        parse_map(text)


def test_a_map_of_any_depth_is_refused(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="cannot be read"):
        parse_map(str(tmp_path / "map.json"))


def test_a_map_takes_synonyms_and_refuses_classes_that_are_not_there() -> None:
    named = named_classes(("anger", "bored", "Happy"), {"angry": "bad", "bored": "", "happy": "ok"})
    assert named == {"anger": "bad", "Happy": "ok"}
    assert meanings_of(named) == {"bad": ["anger"], "ok": ["Happy"]}
    with pytest.raises(UsageError, match="no class 'hungry', expected one of anger"):
        named_classes(("anger",), {"hungry": "bad"})


def test_spellings_of_what_classes_become_are_one_class() -> None:
    named = named_classes(("bored", "happy", "tired"), {"bored": "Tired", "happy": "NEW"})
    assert named == {"bored": "tired", "happy": "NEW", "tired": "tired"}
    with pytest.raises(UsageError, match="happy becomes a and b: choose one"):
        named_classes(("happy",), {"happy": "a", "Joy": "b"})


def test_a_label_is_found_by_name_synonym_and_part() -> None:
    assert label_for("Happiness", EMOTIONS) == "happy"
    assert label_for("BORED", ("awake", "bored")) == "bored"
    meanings = {"negative": ["angry", "sadness"]}
    assert label_for("sad", ("negative", "positive"), meanings) == "negative"
    assert label_for("happy", ("negative", "positive"), meanings) is None


def test_images_get_the_models_labels_and_others_are_left_out() -> None:
    split = make_split(("bored", "joy", "Sadness"), [0, 1, 2, 1])
    fitted, left_out = fit_labels(split, EMOTIONS)
    assert left_out == {"bored": 1}
    assert [fitted.classes[label] for label in fitted.labels] == ["happy", "sad", "happy"]
    assert fitted.files == ("1.png", "2.png", "3.png")
    with pytest.raises(DataError, match="none of the classes bored is one of the model's"):
        fit_labels(make_split(("bored", "joy"), [0, 0]), EMOTIONS)
