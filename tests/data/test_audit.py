from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from data_maker import make_tiny_splits
from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError
from mien.data.audit import Audit, CopyCount, VoteCount, audit_splits
from mien.data.dataset import SPLITS, Skipped, Split
from mien.data.votes import VOTE_NAMES, Votes


def noise_splits() -> dict[str, Split]:
    """Return splits of random images, two of each emotion."""
    rng = np.random.default_rng(5)
    splits = make_tiny_splits(per_class=2)
    return {
        name: replace(split, images=rng.integers(0, 256, split.images.shape).astype(np.uint8))
        for name, split in splits.items()
    }


def spoiled_splits() -> dict[str, Split]:
    """Plant copies, blanks and bad files in the noise."""
    splits = noise_splits()
    train, val, test = (splits[name].images for name in SPLITS)
    train[1] = train[0]  # within train, angry both
    train[5] = train[0]  # and in fear: another label
    test[0] = train[0]  # test in train: angry, with one of another label there
    test[3] = val[3]  # test in val alone
    val[2] = train[13][:, ::-1]  # near: mirrored, fear in surprise
    train[7] = 12  # blank
    splits["train"] = replace(
        splits["train"],
        skipped=(Skipped("train/sad/cut.png", "is truncated"),),
        resized=(splits["train"].files[4],),
    )
    return splits


@pytest.fixture
def audit() -> Audit:
    return audit_splits(spoiled_splits())


def count_of(audit: Audit, split: str, *within: str) -> CopyCount:
    return next(c for c in audit.copies if (c.split, c.within) == (split, within))


def test_a_clean_data_set_is_clean() -> None:
    audit = audit_splits(noise_splits())
    assert audit.images == audit.distinct == 28
    assert audit.classes["train"] == dict.fromkeys(EMOTIONS, 2)
    assert all(count.exact == count.near == 0 for count in audit.copies)
    assert (audit.exact_pairs, audit.near_pairs, audit.blank, audit.resized) == ((), (), (), ())


def test_copies_within_a_split_are_other_images(audit: Audit) -> None:
    count = count_of(audit, "train", "train")
    assert (count.exact, count.exact_other_label) == (3, 3)
    assert count_of(audit, "val", "val").exact == 0


def test_copies_across_splits_are_counted(audit: Audit) -> None:
    count = count_of(audit, "test", "train")
    assert (count.exact, count.exact_other_label, count.near) == (1, 1, 1)
    both = count_of(audit, "test", "train", "val")
    assert (both.exact, both.exact_other_label, both.near, both.near_distinct) == (2, 1, 2, 2)


def test_mirrored_near_copies_are_found(audit: Audit) -> None:
    count = count_of(audit, "val", "train")
    assert (count.exact, count.near, count.near_other_label) == (0, 1, 1)
    (pair,) = audit.near_pairs
    assert (pair.first, pair.second) == (
        "train/surprise/Training_6001.png",
        "val/fear/PublicTest_2000.png",
    )
    assert pair.flipped
    assert not pair.same_label
    assert pair.cosine == pytest.approx(1, abs=1e-4)


def test_bad_files_are_listed(audit: Audit) -> None:
    assert audit.blank == ("train/happy/Training_3001.png",)
    assert audit.resized == ("train/fear/Training_2000.png",)
    assert audit.skipped["train"] == (Skipped("train/sad/cut.png", "is truncated"),)


def test_two_blanks_are_copies_but_not_near_pairs() -> None:
    splits = noise_splits()
    splits["train"].images[[0, 5]] = 9
    audit = audit_splits(splits)
    assert count_of(audit, "train", "train").exact == 2
    assert audit.near_pairs == ()


def test_the_threshold_decides_what_is_near() -> None:
    splits = noise_splits()
    mixed = 0.85 * splits["train"].images[0].astype(float) + 0.4 * splits["val"].images[1]
    splits["test"].images[0] = np.clip(mixed, 0, 255).astype(np.uint8)
    assert count_of(audit_splits(splits), "test", "train").near == 0
    assert count_of(audit_splits(splits, near_threshold=0.8), "test", "train").near == 1


def votes_for(splits: dict[str, Split]) -> Votes:
    """Everybody votes for the label, but for the first image of train: no face."""
    votes = {}
    for name, split in splits.items():
        for file, label in zip(split.files, split.labels, strict=True):
            counts = np.zeros(len(VOTE_NAMES), np.int64)
            counts[VOTE_NAMES.index(EMOTIONS[label])] = 10
            votes[name, file.rsplit("/", 1)[1].removesuffix(".png")] = counts[None]
    votes["train", "Training_0"] = np.array([[0] * 9 + [10]])
    return votes


def test_votes_are_compared_where_they_are_given(audit: Audit) -> None:
    assert audit.votes is None
    splits = noise_splits()
    counts = audit_splits(splits, votes=votes_for(splits)).votes
    assert counts is not None
    assert counts["train"] == VoteCount(images=14, voted=14, agreeing=13, not_a_face=1)
    assert counts["train"].agreement == pytest.approx(13 / 14)
    assert counts["test"].agreement == 1.0


def test_an_empty_split_is_counted_as_empty() -> None:
    splits = noise_splits()
    splits["val"] = splits["val"].take(np.zeros(len(splits["val"]), np.bool_))
    audit = audit_splits(splits, votes=votes_for(splits))
    assert sum(audit.classes["val"].values()) == 0
    assert count_of(audit, "val", "train").near == 0
    assert audit.votes is not None
    assert audit.votes["val"].agreement == 0.0


def test_no_image_at_all_is_an_error_with_the_reason() -> None:
    none = {
        name: split.take(np.zeros(len(split), np.bool_)) for name, split in spoiled_splits().items()
    }
    with pytest.raises(DataError, match=r"1 files were skipped, the first: train/sad/cut\.png"):
        audit_splits(none)


def test_the_record_is_json_and_holds_everything(audit: Audit) -> None:
    record = json.loads(json.dumps(audit.to_dict("d.zip")))
    assert record["source"] == "d.zip"
    assert record["classes"]["test"]["sad"] == 1
    assert record["copies"][4]["within"] == ["train"]
    assert record["copies"][4]["exact"] == 1
    assert len(record["exact_pairs"]) == 4
    assert record["near_pairs"][0]["cosine"] == pytest.approx(1, abs=1e-3)
    assert record["skipped"]["train"] == [{"file": "train/sad/cut.png", "reason": "is truncated"}]
    assert record["votes"] is None
