"""The record of a model's training images."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_maker import make_tiny_splits
from mien.core.errors import DataError
from mien.data.dataset import RECORD, find_record, seen_masks, write_record


def test_images_are_recognized_by_their_pixels(tmp_path: Path) -> None:
    splits = make_tiny_splits(per_class=2)
    write_record(tmp_path / RECORD, splits)
    record = find_record("mien-b0", None, tmp_path)
    assert record is not None
    for name, (trained, chosen) in {n: seen_masks(s, record) for n, s in splits.items()}.items():
        assert trained.all() == trained.any() == (name == "train")
        assert chosen.all() == chosen.any() == (name == "val")


def test_the_record_includes_that_of_the_model_before(
    tmp_path: Path,
) -> None:
    first, second = make_tiny_splits(per_class=2), make_tiny_splits(per_class=2, seed=1)
    write_record(tmp_path / "first.json", first)
    (tmp_path / RECORD).write_bytes((tmp_path / "first.json").read_bytes())
    write_record(tmp_path / RECORD, second, before=find_record(tmp_path))
    record = find_record(tmp_path)
    assert record is not None
    for splits in (first, second):
        assert seen_masks(splits["train"], record)[0].all()
        assert not seen_masks(splits["test"], record)[0].any()


def test_a_photo_is_recognized_by_its_bytes_whatever_face_is_cropped(tmp_path: Path) -> None:
    splits = make_tiny_splits(per_class=2)
    train = splits["train"]
    for image, file in zip(train.images, train.files, strict=True):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    write_record(tmp_path / RECORD, splits, tmp_path)
    record = find_record(tmp_path)
    assert record is not None
    train.images[:] = np.roll(train.images, 1, axis=1)
    assert not seen_masks(train, record)[0].any()
    assert seen_masks(train, record, tmp_path)[0].all()
    (tmp_path / train.files[0]).unlink()
    assert seen_masks(train, record, tmp_path)[0].sum() == len(train) - 1


def test_a_model_without_a_record_has_none(tmp_path: Path) -> None:
    assert find_record("mien-b0", None, tmp_path) is None


@pytest.mark.parametrize(
    "content", ["", "[]", '{"schema": "other/1"}', json.dumps({"schema": "mien-trained-on/1"})]
)
def test_a_damaged_record_is_one_error(tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(DataError, match=r"is not a readable record.*delete it to continue without"):
        find_record(tmp_path)
