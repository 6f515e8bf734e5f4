from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.emotions import EMOTIONS
from mien.data.listing import Listing, choose_validation, list_entries


def files_of(listing: Listing, split: str) -> list[str]:
    return [entry.file for entry in listing.entries if entry.split == split]


def reasons_of(listing: Listing) -> dict[str, str]:
    return {item.file: item.reason for files in listing.skipped.values() for item in files}


def test_folders_that_name_the_splits_are_believed() -> None:
    listing = list_entries(
        ["test/sad/PublicTest_1.png", "val/happy/a.png", "train/angry/b.png", "train/angry/a.png"]
    )
    assert files_of(listing, "train") == ["train/angry/a.png", "train/angry/b.png"]
    assert files_of(listing, "val") == ["val/happy/a.png"]
    assert files_of(listing, "test") == ["test/sad/PublicTest_1.png"]
    assert listing.val_from == "folder"


def test_kaggles_public_files_of_test_are_val() -> None:
    listing = list_entries(
        ["test/sad/PrivateTest_1.jpg", "test/sad/PublicTest_2.jpg", "train/sad/Training_3.jpg"]
    )
    assert files_of(listing, "val") == ["val/sad/PublicTest_2.jpg"]
    assert files_of(listing, "test") == ["test/sad/PrivateTest_1.jpg"]
    assert listing.val_from == "names"
    assert listing.entries[1].member == "test/sad/PublicTest_2.jpg"


def test_names_that_do_not_tell_give_a_stratified_part_of_train() -> None:
    train = [f"train/{emotion}/{number}.png" for emotion in EMOTIONS for number in range(16)]
    listing = list_entries([*train, "test/sad/1.png"])
    assert listing.val_from == "random"
    for label, emotion in enumerate(EMOTIONS):
        val = [e for e in listing.entries if e.split == "val" and e.label == label]
        assert len(val) == 2
        assert all(entry.file.startswith(f"val/{emotion}/") for entry in val)
    assert len(files_of(listing, "train")) == len(train) - 2 * len(EMOTIONS)
    assert list_entries([*train, "test/sad/1.png"]) == listing
    assert list_entries([*train, "test/sad/1.png"], seed=1) != listing


def test_no_val_is_made_where_none_is_wanted() -> None:
    listing = list_entries(["train/sad/1.png"], val_fraction=0)
    assert (listing.val_from, files_of(listing, "val")) == ("none", [])


@pytest.mark.parametrize("top", ["", "archive/", "a/b/c/"])
def test_any_common_top_folder_is_seen_through(top: str) -> None:
    listing = list_entries([f"{top}Train/Anger/x.PNG", f"{top}validation/Happiness/y.jpeg"])
    assert [entry.file for entry in listing.entries] == ["train/angry/x.PNG", "val/happy/y.jpeg"]
    assert listing.entries[0].member == f"{top}Train/Anger/x.PNG"


def test_a_second_data_set_beside_the_larger_one_is_skipped_by_name() -> None:
    listing = list_entries(["a/train/sad/1.png", "a/train/sad/2.png", "b/train/sad/3.png"])
    assert [e.member for e in listing.entries if e.split == "train"][-1].startswith("a/")
    assert reasons_of(listing) == {"b/train/sad/3.png": "is outside the data set's folder a"}


def test_what_does_not_belong_is_named_with_its_reason() -> None:
    listing = list_entries(
        [
            "train/boredom/1.png",
            "train/sad/notes.txt",
            "train/sad/README",
            "train/stray.png",
            "val/sad/deep/2.png",
            "test/contempt/3.png",
            "train/sad/x.png",
            "train/sadness/x.png",
        ]
    )
    reasons = reasons_of(listing)
    assert "class folder 'boredom' is none of angry" in reasons["train/boredom/1.png"]
    assert reasons["train/sad/notes.txt"] == "is not an image file (.txt)"
    assert reasons["train/sad/README"] == "is not an image file (no ending)"
    assert "is not in a folder" in reasons["train/stray.png"]
    assert "is not in a folder" in reasons["val/sad/deep/2.png"]
    assert "train/sad/x.png" in reasons["train/sadness/x.png"]
    assert [item.file for item in listing.skipped["test"]] == ["test/contempt/3.png"]
    assert [entry.file for entry in listing.entries] == ["train/sad/x.png"]


def test_leftovers_of_systems_and_files_beside_the_data_are_no_data() -> None:
    listing = list_entries(
        ["README.md", "__MACOSX/train/sad/._1.png", "train/sad/.DS_Store", "train/sad/1.png"],
        val_fraction=0,
    )
    assert reasons_of(listing) == {}
    assert len(listing.entries) == 1


NAMES = st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=6), unique=True, max_size=40)


@given(NAMES, st.integers(0, 5), st.floats(0, 0.5), st.randoms(use_true_random=False))
def test_the_choice_of_val_hangs_on_names_and_seed_alone(
    names: list[str], seed: int, fraction: float, random: object
) -> None:
    chosen = choose_validation(names, seed=seed, fraction=fraction)
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert chosen == choose_validation(shuffled, seed=seed, fraction=fraction)
    assert chosen <= set(names)
    assert len(chosen) == round(fraction * len(names))


@given(NAMES, st.integers(0, 5))
def test_a_larger_val_holds_the_smaller_one(names: list[str], seed: int) -> None:
    smaller = choose_validation(names, seed=seed, fraction=0.1)
    assert smaller <= choose_validation(names, seed=seed, fraction=0.3)


def test_the_choice_of_val_is_the_same_in_every_version() -> None:
    names = [f"train/sad/{number}.png" for number in range(10)]
    assert sorted(choose_validation(names, seed=0, fraction=0.3)) == [
        "train/sad/0.png",
        "train/sad/4.png",
        "train/sad/5.png",
    ]


FOLDERS = st.sampled_from(["train", "val", "test", "sad", "happy", "x", "..", "a b", ".hidden"])
PATHS = st.lists(
    st.tuples(st.lists(FOLDERS, max_size=4), st.sampled_from(["1.png", "2.jpg", "t.txt", ".x"])),
    max_size=12,
)


@given(PATHS)
def test_every_image_is_an_entry_or_named_as_skipped(paths: list[tuple[list[str], str]]) -> None:
    members = sorted({"/".join([*folders, name]) for folders, name in paths})
    listing = list_entries(members)
    seen = {entry.member for entry in listing.entries} | set(reasons_of(listing))
    hidden = [name for name in members if any(p == ".hidden" or p == ".x" for p in name.split("/"))]
    images = [name for name in members if name.endswith((".png", ".jpg"))]
    assert {name for name in images if name not in hidden} <= seen
    assert len({entry.file for entry in listing.entries}) == len(listing.entries)
    assert all(".." not in entry.file.split("/") for entry in listing.entries)


def test_folders_of_one_split_that_are_one_class_are_said() -> None:
    listing = list_entries(["train/Angry/1.png", "train/anger/2.png", "val/joy/3.png"])
    assert len(listing.entries) == 3
    assert listing.merged == ("train/Angry, train/anger are one class: angry of train",)
