from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_maker import make_tiny_splits, write_tiny_csv
from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError
from mien.data.csv_file import read_csv

PIXELS = " ".join(["7"] * 2304)


def write(folder: Path, *rows: str, header: str = "emotion,pixels,Usage") -> Path:
    path = folder / "fer2013.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_the_challenges_csv_is_read_by_name_not_by_code(tmp_path: Path) -> None:
    expected = make_tiny_splits(per_class=2)
    splits = read_csv(write_tiny_csv(tmp_path / "fer2013.csv", per_class=2))
    for name, split in expected.items():
        assert np.array_equal(splits[name].images, split.images)
        assert np.array_equal(splits[name].labels, split.labels)
        assert splits[name].skipped == ()


@pytest.mark.parametrize(
    ("code", "emotion"),
    list(enumerate(["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"])),
)
def test_each_code_means_what_the_challenge_says(tmp_path: Path, code: int, emotion: str) -> None:
    split = read_csv(write(tmp_path, f"{code},{PIXELS},PrivateTest"))["test"]
    assert EMOTIONS[split.labels[0]] == emotion
    assert split.files == (f"test/{emotion}/PrivateTest_row00001.png",)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"7,{PIXELS},Training", "emotion '7' is not a code from 0 to 6"),
        (f"-1,{PIXELS},Training", "emotion '-1' is not"),
        (f"happy,{PIXELS},Training", "emotion 'happy' is not"),
        (f",{PIXELS},Training", "emotion '' is not"),
        (f"{'9' * 5000},{PIXELS},Training", "is not a code"),
        (f"3,{PIXELS} 7,Training", "has 2305 pixels, expected 2304"),
        (f"3,{PIXELS[:-2]},Training", "has 2303 pixels, expected 2304"),
        ("3,,Training", "has 0 pixels"),
        (f"3,{PIXELS[:-1]}x,Training", "pixels are not all whole numbers"),
        (f"3,{PIXELS[:-1]}.5,Training", "pixels are not all whole numbers"),
        (f"3,{PIXELS[:-1]}256,Training", "has a pixel outside 0 to 255"),
        (f"3,{PIXELS[:-1]}-1,Training", "has a pixel outside 0 to 255"),
        (f"3,{PIXELS},Spam", "usage 'Spam' is none of Training, PublicTest, PrivateTest"),
        (f"3,{PIXELS}", "usage '' is none of"),
        ("3", "usage '' is none of"),
    ],
)
def test_a_bad_row_is_skipped_by_number_and_reason(tmp_path: Path, row: str, reason: str) -> None:
    splits = read_csv(write(tmp_path, f"3,{PIXELS},Training", row, f"4,{PIXELS},Training"))
    (skipped,) = splits["train"].skipped
    assert skipped.file == "row 2"
    assert reason in skipped.reason
    assert [EMOTIONS[label] for label in splits["train"].labels] == ["happy", "sad"]


def test_a_bad_row_counts_for_its_own_split(tmp_path: Path) -> None:
    splits = read_csv(write(tmp_path, "3,1 2 3,PublicTest"))
    assert len(splits["val"].skipped) == 1
    assert splits["train"].skipped == ()


def test_columns_may_stand_in_another_order_with_blanks(tmp_path: Path) -> None:
    path = write(tmp_path, f"3,Training,{PIXELS}", "", header="emotion, Usage, pixels")
    assert len(read_csv(path)["train"]) == 1


@pytest.mark.parametrize("header", ["", "emotion,pixels", "a,b,c"])
def test_missing_columns_are_an_error_that_names_them(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError, match="expected the columns emotion,pixels,Usage"):
        read_csv(write(tmp_path, header=header))


@pytest.mark.parametrize(
    "content",
    [b"emotion,pixels,Usage\n3,\xff\xfe,Training\n", b'emotion,pixels,Usage\n3,"' + b"1 " * 99999],
    ids=["not utf-8", "a quote that never ends"],
)
def test_a_file_that_is_no_csv_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable CSV"):
        read_csv(path)


def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_csv(tmp_path / "none.csv")
