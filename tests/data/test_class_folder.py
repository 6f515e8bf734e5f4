"""Image folders with any classes: listing, reading, holding out, mappings."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, NoFaceError, UsageError
from mien.data.class_folder import (
    find_label,
    hold_out,
    list_class_folder,
    map_to_labels,
    merged_classes,
    parse_mapping,
    read_class_folder,
    resolve_mapping,
)
from mien.data.dataset import Split


def write_face(path: Path, seed: int, *, side: int = 20) -> None:
    """Write a small grey picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (side, side)).astype(np.uint8)
    path.write_bytes(cv2.imencode(".png", noise)[1].tobytes())


def make_folder(folder: Path, counts: dict[str, int]) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            write_face(folder / name / f"{index}.png", 100 * number + index)
    return folder


def test_a_plain_folder_has_one_split_and_its_folders_are_the_classes(tmp_path: Path) -> None:
    listed = list_class_folder(make_folder(tmp_path / "faces", {"bored": 2, "awake": 3}))
    assert listed.classes == ("awake", "bored")
    assert listed.splits == ("all",)
    (split,) = read_class_folder(listed, splits=["all"], quiet=True).values()
    assert split.class_counts() == {"awake": 3, "bored": 2}
    assert split.images.shape == (5, 48, 48)
    assert split.files[0] == "awake/0.png"


def test_split_folders_are_distinguished_from_classes(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"yes": 2, "no": 2})
    make_folder(tmp_path / "Validation", {"yes": 1, "no": 1})
    listed = list_class_folder(tmp_path)
    assert listed.splits == ("train", "val")
    assert sum(map(len, listed.files["val"].values())) == 2
    # A class may be called "test" as long as another folder is no split.
    other = make_folder(tmp_path / "other", {"test": 1, "exam": 1})
    assert list_class_folder(other).classes == ("exam", "test")


def test_files_that_are_no_image_or_outside_a_class_are_skipped(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, {"a": 1, "b": 1})
    write_face(folder / "lost.png", 1)
    (folder / "a" / "notes.txt").write_text("x")
    (folder / ".hidden").write_text("x")
    reasons = {skipped.file: skipped.reason for skipped in list_class_folder(folder).skipped}
    assert set(reasons) == {"lost.png", "a/notes.txt"}
    assert "not in a class" in reasons["lost.png"]


def test_unreadable_images_are_skipped_with_their_reason(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, {"a": 1, "b": 1})
    (folder / "a" / "broken.png").write_bytes(b"no picture")
    (split,) = read_class_folder(list_class_folder(folder), splits=["all"], quiet=True).values()
    assert len(split) == 2
    (skipped,) = split.skipped
    assert skipped.file == "a/broken.png"
    assert skipped.reason.startswith("is not an image")


def test_classes_are_merged_and_left_out_and_the_decoder_is_used(tmp_path: Path) -> None:
    listed = list_class_folder(make_folder(tmp_path, {"a": 2, "b": 1, "c": 3}))
    looked_at = []

    def face_of(data: bytes) -> np.ndarray:
        looked_at.append(data)
        if len(looked_at) == 1:
            raise NoFaceError("has no face")
        return np.full((48, 48), len(looked_at), np.uint8)

    (split,) = read_class_folder(
        listed, splits=["all"], classes={"a": "x", "b": "x"}, decoder=face_of, quiet=True
    ).values()
    assert split.classes == ("x",)
    assert split.class_counts() == {"x": 2}
    assert [skipped.reason for skipped in split.skipped] == ["has no face"]


@pytest.mark.parametrize("what", ["missing", "empty", "files only"])
def test_a_folder_without_classes_is_refused(tmp_path: Path, what: str) -> None:
    if what == "files only":
        write_face(tmp_path / "a.png", 0)
    folder = tmp_path / "nowhere" if what == "missing" else tmp_path
    with pytest.raises(DataError, match="expected"):
        list_class_folder(folder)


def test_a_folder_without_readable_images_is_an_error_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a/x\.png is empty"):
        read_class_folder(list_class_folder(tmp_path), splits=["all"], quiet=True)


def test_holding_out_is_stratified_seeded_and_keeps_copies_in_training() -> None:
    images = np.arange(40, dtype=np.uint8)[:, None, None] * np.ones((1, 48, 48), np.uint8)
    images[1:20] = images[0]  # all of the first class but none of the second are copies
    labels = np.repeat([0, 1], 20).astype(np.int64)
    files = tuple(f"{label}/{place}.png" for place, label in enumerate(labels))
    split = Split("all", images, labels, files, (), (), ("a", "b"))
    train, val = hold_out(split, fraction=0.2, seed=0)
    assert (train.name, val.name) == ("train", "val")
    assert val.class_counts() == {"a": 0, "b": 4}
    assert len(train) + len(val) == 40
    assert hold_out(split, fraction=0.2, seed=0)[1].files == val.files
    assert hold_out(split, fraction=0.2, seed=1)[1].files != val.files


def test_every_class_gives_at_least_one_image_and_keeps_two() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 48, 48)).astype(np.uint8)
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    split = Split("all", images, labels, tuple("abcdefg"), (), (), ("a", "b"))
    train, val = hold_out(split, fraction=0.05, seed=0)
    assert val.class_counts() == {"a": 1, "b": 1}
    train, _ = hold_out(split, fraction=0.9, seed=0)
    assert train.class_counts() == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m\u00fcde", "mu\u0308de"),
        ("Happy", "happy"),
        ("bored", "bored "),
        ("joy", "Happiness"),
    ],
)
def test_spellings_of_a_class_in_train_and_val_are_merged(
    tmp_path: Path, one: str, other: str
) -> None:
    make_folder(tmp_path / "train", {one: 3, "x": 2})
    make_folder(tmp_path / "val", {other: 2, "x": 1})
    listed = list_class_folder(tmp_path)
    assert listed.classes == tuple(sorted((one, "x")))
    loaded = read_class_folder(listed, splits=["train", "val"], quiet=True)
    assert loaded["train"].class_counts() == {one: 3, "x": 2}
    assert loaded["val"].class_counts() == {one: 2, "x": 1}
    for name in (one, other):
        assert resolve_mapping(listed.classes, {name: "y"}) == {one: "y", "x": "x"}


def test_spellings_of_a_class_in_one_split_are_merged_with_a_note(tmp_path: Path) -> None:
    listed = list_class_folder(make_folder(tmp_path, {"Bored": 1, "bored": 2, "awake": 1}))
    assert listed.classes == ("Bored", "awake")
    assert listed.files["all"]["Bored"] == ("Bored/0.png", "bored/0.png", "bored/1.png")
    assert listed.notes == ("the folders 'Bored', 'bored' are one class: Bored",)


def test_synonyms_in_one_split_are_two_classes_with_a_note(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"calm": 1, "neutral": 2})
    make_folder(tmp_path / "val", {"Calm": 1, "neutral": 1})
    listed = list_class_folder(tmp_path)
    assert listed.classes == ("calm", "neutral")
    assert listed.files["val"]["calm"] == ("val/Calm/0.png",)
    (text,) = listed.notes
    assert "--map neutral=calm" in text


def test_a_split_folder_without_classes_does_not_make_classes_of_the_others(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"a": 1, "b": 1})
    write_face(tmp_path / "test" / "x.png", 1)
    listed = list_class_folder(tmp_path)
    assert listed.classes == ("a", "b")
    assert [skipped.file for skipped in listed.skipped] == ["test/x.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_broken_and_circular_links_are_skipped(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "faces", {"a": 2, "b": 1})
    (folder / "a" / "0").symlink_to("0")
    (folder / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "itself").symlink_to("itself")
    listed = list_class_folder(folder)
    assert sum(map(len, listed.files["all"].values())) == 3
    assert {skipped.file for skipped in listed.skipped} == {"a/0", "a/gone.png", "a/up", "itself"}


def make_split(classes: tuple[str, ...], labels: list[int]) -> Split:
    images = np.zeros((len(labels), 48, 48), np.uint8)
    files = tuple(f"{place}.png" for place in range(len(labels)))
    return Split("all", images, np.array(labels, np.int64), files, (), (), classes)


def test_a_mapping_is_parsed_from_text_lines_and_json(tmp_path: Path) -> None:
    expected = {"angry": "bad", "sad": "bad", "other": ""}
    assert parse_mapping("angry=bad, sad=bad,other=") == expected
    lines = tmp_path / "map.txt"
    lines.write_text("# merged\nangry = bad\nsad=bad  # too\n\nother=\n")
    assert parse_mapping(str(lines)) == expected
    (tmp_path / "map.json").write_text('{"angry": "bad", "sad": "bad", "other": ""}')
    assert parse_mapping(str(tmp_path / "map.json")) == expected


@pytest.mark.parametrize("text", ["nofile", "a=b,c", "=b", "a=b,a=c", ","])
def test_empty_and_contradictory_mappings_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--map"):
        parse_mapping(text)


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="cannot be read"):
        parse_mapping(str(tmp_path / "map.json"))


def test_a_mapping_accepts_synonyms_and_refuses_unknown_classes() -> None:
    named = resolve_mapping(
        ("anger", "bored", "Happy"), {"angry": "bad", "bored": "", "happy": "ok"}
    )
    assert named == {"anger": "bad", "Happy": "ok"}
    assert merged_classes(named) == {"bad": ["anger"], "ok": ["Happy"]}
    with pytest.raises(UsageError, match="no class 'hungry': expected one of anger"):
        resolve_mapping(("anger",), {"hungry": "bad"})


def test_spellings_of_a_new_name_are_one_class() -> None:
    named = resolve_mapping(("bored", "happy", "tired"), {"bored": "Tired", "happy": "NEW"})
    assert named == {"bored": "tired", "happy": "NEW", "tired": "tired"}
    with pytest.raises(UsageError, match="happy is mapped to a and b: choose one"):
        resolve_mapping(("happy",), {"happy": "a", "Joy": "b"})


def test_a_label_is_found_by_name_synonym_and_part() -> None:
    assert find_label("Happiness", EMOTIONS) == "happy"
    assert find_label("BORED", ("awake", "bored")) == "bored"
    meanings = {"negative": ["angry", "sadness"]}
    assert find_label("sad", ("negative", "positive"), meanings) == "negative"
    assert find_label("happy", ("negative", "positive"), meanings) is None


def test_images_get_the_models_labels_and_others_are_left_out() -> None:
    split = make_split(("bored", "joy", "Sadness"), [0, 1, 2, 1])
    fitted, left_out = map_to_labels(split, EMOTIONS)
    assert left_out == {"bored": 1}
    assert [fitted.classes[label] for label in fitted.labels] == ["happy", "sad", "happy"]
    assert fitted.files == ("1.png", "2.png", "3.png")
    with pytest.raises(DataError, match="none of the classes bored is one of the model's"):
        map_to_labels(make_split(("bored", "joy"), [0, 0]), EMOTIONS)
