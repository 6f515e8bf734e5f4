from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_maker import make_tiny_split, write_tiny_csv
from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError
from mien.data.loading import read_splits
from mien.data.votes import (
    VOTE_NAMES,
    agreement_mask,
    align_votes,
    emotion_shares,
    load_votes,
    not_a_face_mask,
)

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]
HEADER = ["split", "file", *NAMES, "unknown", "NF"]
SPLIT = make_tiny_split("test", per_class=1)
FILES = [file.rsplit("/", 1)[1] for file in SPLIT.files]


def ten(**counts: int) -> list[int]:
    return [counts.get(name, 0) for name in VOTE_NAMES]


def write(path: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = HEADER) -> Path:
    with path.open("w", newline="", encoding="utf-8") as text:
        csv.writer(text).writerows([header, *rows])
    return path


def for_all(path: Path, **changed: list[int]) -> Path:
    """Write ten votes for each image's own label, except for the emotions in ``changed``."""
    rows = []
    for file, label in zip(FILES, SPLIT.labels, strict=True):
        emotion = EMOTIONS[label]
        rows.append(["test", file, *changed.get(emotion, ten(**{emotion: 10}))])
    return write(path, rows)


def test_columns_are_translated_by_name(tmp_path: Path) -> None:
    votes = load_votes(for_all(tmp_path / "v.csv"))
    aligned = align_votes(SPLIT, votes)
    assert aligned.shape == (7, 10)
    for row, label in zip(aligned, SPLIT.labels, strict=True):
        assert row[VOTE_NAMES.index(EMOTIONS[label])] == 10
        assert row.sum() == 10


def test_columns_may_stand_in_any_order(tmp_path: Path) -> None:
    header = ["file", "NF", *reversed(HEADER[2:-1]), "split"]
    row = [FILES[0], 1, *range(2, 11), "test"]
    (counts,) = load_votes(write(tmp_path / "v.csv", [row], header)).values()
    assert counts.tolist() == [[10, 9, 8, 7, 6, 5, 4, 3, 2, 1]]


def test_the_suffix_of_a_file_is_ignored(tmp_path: Path) -> None:
    votes = load_votes(for_all(tmp_path / "v.csv"))
    jpegs = replace(SPLIT, files=tuple(file.replace(".png", ".jpg") for file in SPLIT.files))
    assert np.array_equal(align_votes(jpegs, votes), align_votes(SPLIT, votes))


def test_a_label_agrees_if_it_has_most_votes_or_is_first_of_a_tie(
    tmp_path: Path,
) -> None:
    changed = {
        "angry": ten(contempt=6, angry=4),
        "fear": ten(surprise=5, fear=5),
        "happy": ten(happy=5, fear=5),
        "neutral": ten(),
    }
    votes = load_votes(for_all(tmp_path / "v.csv", **changed))
    agreed = agreement_mask(align_votes(SPLIT, votes), SPLIT.labels)
    assert [EMOTIONS[label] for label in SPLIT.labels[~agreed]] == ["angry", "fear", "neutral"]


def test_images_without_votes_or_voted_no_face_are_marked(tmp_path: Path) -> None:
    changed = {"angry": ten(not_a_face=6, angry=4), "fear": ten(not_a_face=4, fear=6), "sad": ten()}
    votes = load_votes(for_all(tmp_path / "v.csv", **changed))
    mask = not_a_face_mask(SPLIT, votes)
    assert [EMOTIONS[label] for label in SPLIT.labels[mask]] == ["angry", "sad"]


def test_shares_sum_to_one_or_zero(tmp_path: Path) -> None:
    changed = {"angry": ten(angry=3, sad=1, contempt=6), "fear": ten(unknown=10)}
    shares = emotion_shares(SPLIT, load_votes(for_all(tmp_path / "v.csv", **changed)))
    assert shares.dtype == np.float32
    assert shares[0].tolist() == [0.75, 0, 0, 0, 0, 0.25, 0]
    assert shares[2].tolist() == [0] * 7
    assert np.array_equal(shares[3], np.eye(7)[3])


def test_a_name_in_two_class_folders_has_a_row_for_each_in_their_order(tmp_path: Path) -> None:
    files = (*SPLIT.files[:-1], "test/surprise/PrivateTest_0.png")
    split = replace(SPLIT, files=files)
    rows = [["test", name.rsplit("/", 1)[1], *ten(sad=place)] for place, name in enumerate(files)]
    aligned = align_votes(split, load_votes(write(tmp_path / "v.csv", rows)))
    assert aligned[:, VOTE_NAMES.index("sad")].tolist() == list(range(7))
    backwards = align_votes(split.take(np.arange(7)[::-1]), load_votes(tmp_path / "v.csv"))
    assert np.array_equal(backwards, aligned[::-1])


def test_ambiguous_rows_are_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = replace(SPLIT, files=(*SPLIT.files[:-1], "test/surprise/PrivateTest_0.png"))
    rows = [["test", name, *ten(sad=10)] for name in FILES[:-1]]
    aligned = align_votes(split, load_votes(write(tmp_path / "v.csv", rows)))
    assert aligned.sum(axis=1).tolist() == [0, 10, 10, 10, 10, 10, 0]
    assert "2 images of test are called PrivateTest_0 but there are 1 rows of votes" in caplog.text


def test_votes_of_another_data_set_are_refused(tmp_path: Path) -> None:
    votes = load_votes(write(tmp_path / "v.csv", [["test", FILES[0], *ten(sad=10)]]))
    with pytest.raises(DataError, match="votes for only 1 of the 7 images of test"):
        not_a_face_mask(SPLIT, votes)


def test_ferplus_own_file_goes_with_the_challenges_csv(tmp_path: Path) -> None:
    splits = read_splits(write_tiny_csv(tmp_path / "fer2013.csv", per_class=1))
    rows: list[list[object]] = []
    for split in splits.values():
        for place, label in enumerate(split.labels):
            usage = split.files[place].rsplit("/", 1)[1].split("_")[0]
            number = int(split.files[place].rsplit("row", 1)[1].split(".")[0])
            rows.append([usage, number, *ten(**{EMOTIONS[label]: 10})])
    rows.sort(key=lambda row: int(str(row[1])))
    named = [[usage, f"fer{number:07d}.png", *counts] for usage, number, *counts in rows]
    votes = load_votes(
        write(tmp_path / "fer2013new.csv", named, ["Usage", "Image name", *HEADER[2:]])
    )
    for split in splits.values():
        assert agreement_mask(align_votes(split, votes), split.labels).all()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (["test", "a.png", *["x"] * 10], "row 1 is not a name and ten counts"),
        (["test", "a.png", 1, 2], "row 1 is not a name and ten counts"),
        (["test", "a.png", 1 << 64, *[1] * 9], "row 1 is not a name and ten counts"),
        (["test", "a.png", -1, *[1] * 9], "row 1 has a negative count"),
    ],
)
def test_a_bad_row_is_an_error_that_names_it(
    tmp_path: Path, row: list[object], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        load_votes(write(tmp_path / "v.csv", [row]))


def test_other_files_of_votes_are_an_error_that_says_what_is_expected(tmp_path: Path) -> None:
    path = write(tmp_path / "v.csv", [], ["emotion", "pixels", "Usage"])
    with pytest.raises(DataError, match="expected the columns split,file"):
        load_votes(path)
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(DataError, match="not a readable CSV of votes"):
        load_votes(path)
    with pytest.raises(DataError, match="cannot read the votes"):
        load_votes(tmp_path / "missing.csv")
