from __future__ import annotations

import io
import os
import stat
import string
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_maker import write_tiny_dataset, zip_folder
from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError
from mien.data.sources import (
    FolderSource,
    Listing,
    ZipSource,
    choose_validation,
    list_entries,
    open_source,
    source_kind,
    source_state,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_dataset(tmp_path / "tiny", per_class=1)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../train/sad/x.png", "leads outside"),
        ("train/../../x.png", "leads outside"),
        ("train\\..\\..\\x.png", "leads outside"),
        ("/etc/x.png", "absolute path"),
        ("C:/x.png", "absolute path"),
        ("\\\\host\\share\\x.png", "absolute path"),
        ("train\\sad\\x.png", "backslash"),
    ],
)
def test_a_zip_entry_with_an_unsafe_name_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")
        archive.writestr("train/sad/good.png", b"x")
    with zipfile.ZipFile(path) as archive:
        source = ZipSource(archive)
        assert source.members == ["train/sad/good.png"]
        (refused,) = source.refused
    assert refused.file == name
    assert reason in refused.reason


def test_links_encrypted_large_and_repeated_entries_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mien.data.sources.MAX_FILE_BYTES", 1 << 20)
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        link = zipfile.ZipInfo("train/sad/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("train/sad/bomb.png", b"\0" * (2 << 20))
        archive.writestr("train/sad/twice.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("train/sad/twice.png", b"2")
        archive.writestr("train/sad/secret.png", b"s")
    with zipfile.ZipFile(path) as archive:
        archive.getinfo("train/sad/secret.png").flag_bits |= 0x1
        source = ZipSource(archive)
        reasons = {item.file: item.reason for item in source.refused}
        assert reasons == {
            "train/sad/link.png": "is a link",
            "train/sad/bomb.png": "is larger than 1 MB",
            "train/sad/twice.png": "is in the zip twice",
            "train/sad/secret.png": "is encrypted",
        }
        assert source.members == ["train/sad/twice.png"]
        assert source.read("train/sad/twice.png") == b"1"


def test_an_entry_with_damaged_bytes_is_an_error_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/sad/x.png", b"the content of x")
    path.write_bytes(path.read_bytes().replace(b"the content", b"THE CONTENT"))
    with zipfile.ZipFile(path) as archive, pytest.raises(DataError, match="damaged inside the zip"):
        ZipSource(archive).read("train/sad/x.png")


def test_an_entry_that_unpacks_to_more_than_it_says_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/sad/x.png", bytes(50 << 20))
    with zipfile.ZipFile(path) as archive:
        archive.getinfo("train/sad/x.png").file_size = 1000
        tracemalloc.start()
        with pytest.raises(DataError, match="damaged inside the zip"):
            ZipSource(archive).read("train/sad/x.png")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10 << 20


def zip_bytes() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/sad/x.png", b"x" * 100)
        archive.writestr("train/sad/\u00fc.png", b"y" * 100)
    return stream.getvalue()


ZIP = zip_bytes()


@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(ZIP) - 1), st.integers(0, 255)), min_size=1, max_size=3
    )
)
def test_a_damaged_zip_is_read_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    """zipfile meets damage with errors of many kinds (NotImplementedError, UnicodeDecodeError)."""
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    content = bytearray(ZIP)
    for place, value in changes:
        content[place] = value
    path.write_bytes(content)
    message = ""
    try:
        with open_source(path) as source:
            for member in source.members:
                source.read(member)
    except DataError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize(("offset", "value"), [(6, 99), (8, 0xFFFF)])
def test_a_zip_with_a_damaged_directory_is_an_error(
    tmp_path: Path, offset: int, value: int
) -> None:
    """The version that is needed to unpack an entry, and flags that say that its name is UTF-8."""
    path = tmp_path / "odd.zip"
    content = bytearray(ZIP.replace(b"train/sad/x", b"train/sad/\xff"))
    start = content.index(b"PK\1\2") + offset
    content[start : start + 2] = value.to_bytes(2, "little")
    path.write_bytes(content)
    expected = pytest.raises(DataError, match=r"cannot be opened as a zip.*download it again")
    with expected, open_source(path):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="not a regular file"):
        source_kind(tmp_path / "pipe.csv")


def test_other_files_are_an_error_that_says_what_is_expected(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello", encoding="utf-8")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK\3\4 and no more")
    with pytest.raises(DataError, match="expected a folder or zip"):
        source_kind(text)
    with pytest.raises(DataError, match="damaged or not a zip"):
        source_kind(broken)
    with pytest.raises(DataError, match=r"no data set at .*mien data download"):
        source_kind(tmp_path / "missing")


def test_a_zip_cut_short_is_an_error(folder: Path, tmp_path: Path) -> None:
    path = zip_folder(folder, tmp_path / "tiny.zip")
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(DataError, match="damaged or not a zip"):
        source_kind(path)
    path.write_bytes(content.replace(b"PK\1\2", b"XX\1\2"))
    with pytest.raises(DataError, match="download it again"), open_source(path):
        pass


def test_a_folders_state_changes_with_each_of_its_files(folder: Path) -> None:
    before = source_state(folder)
    assert source_state(folder) == before
    file = next(folder.rglob("*.png"))
    os.utime(file, (1, 1))
    touched = source_state(folder)
    file.unlink()
    assert len({before, touched, source_state(folder)}) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_in_a_folder_are_followed_but_not_in_circles(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "train").symlink_to(folder / "train")
    (linked / "loop").symlink_to(linked)
    (linked / "gone.png").symlink_to(tmp_path / "nowhere")
    (linked / "itself").symlink_to("itself")
    source = FolderSource(linked)
    assert len(source.members) == 7
    assert {item.file: item.reason.split(" (")[0] for item in source.refused} == {
        "loop": "is a link to a folder that is one of its parents",
        "gone.png": "cannot be read",
        "itself": "cannot be read",
    }


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    """Two links in each of thirty folders are a billion ways down."""
    folders = [tmp_path / "data" / "train" / "sad", *(tmp_path / f"{n}" for n in range(30))]
    for folder, below in zip(folders, [*folders[1:], folders[1]], strict=True):
        folder.mkdir(parents=True)
        for link in ("a", "b"):
            (folder / link).symlink_to(below)
        (folder / "x.png").write_bytes(b"x")
    source = FolderSource(tmp_path / "data")
    assert len(source.members) == 31
    assert source.refused


def test_an_unreadable_subfolder_is_refused_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: Path) -> Any:
        if Path(path).name == "happy":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    source = FolderSource(folder)
    assert len(source.members) == 18
    assert [item.reason for item in source.refused] == ["cannot be read (Permission denied)"] * 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_a_pipe_in_a_folder_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "train" / "sad" / "pipe.png")
    source = FolderSource(folder)
    assert [item.reason for item in source.refused] == ["is not a regular file"]


def test_a_file_that_went_away_is_an_error_with_a_reason(folder: Path) -> None:
    source = FolderSource(folder)
    member = source.members[0]
    (folder / member).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        source.read(member)


def files_of(listing: Listing, split: str) -> list[str]:
    return [entry.file for entry in listing.entries if entry.split == split]


def reasons_of(listing: Listing) -> dict[str, str]:
    return {item.file: item.reason for files in listing.skipped.values() for item in files}


def test_split_folders_decide_the_splits() -> None:
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


def test_without_val_a_stratified_part_of_train_is_chosen() -> None:
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


@pytest.mark.parametrize("top", ["", "archive/", "a/b/c/"])
def test_any_common_top_folder_is_skipped(top: str) -> None:
    listing = list_entries([f"{top}Train/Anger/x.PNG", f"{top}validation/Happiness/y.jpeg"])
    assert [entry.file for entry in listing.entries] == ["train/angry/x.PNG", "val/happy/y.jpeg"]
    assert listing.entries[0].member == f"{top}Train/Anger/x.PNG"


def test_of_two_data_sets_the_smaller_one_is_skipped() -> None:
    listing = list_entries(["a/train/sad/1.png", "a/train/sad/2.png", "b/train/sad/3.png"])
    assert [e.member for e in listing.entries if e.split == "train"][-1].startswith("a/")
    assert reasons_of(listing) == {"b/train/sad/3.png": "is outside the data set's folder a"}


def test_foreign_files_are_listed_with_the_reason() -> None:
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
    assert reasons["train/sad/README"] == "is not an image file (no suffix)"
    assert "is not in a folder" in reasons["train/stray.png"]
    assert "is not in a folder" in reasons["val/sad/deep/2.png"]
    assert "train/sad/x.png" in reasons["train/sadness/x.png"]
    assert [item.file for item in listing.skipped["test"]] == ["test/contempt/3.png"]
    assert [entry.file for entry in listing.entries] == ["train/sad/x.png"]


def test_system_files_and_other_files_are_ignored() -> None:
    listing = list_entries(
        ["README.md", "__MACOSX/train/sad/._1.png", "train/sad/.DS_Store", "train/sad/1.png"],
        val_fraction=0,
    )
    assert reasons_of(listing) == {}
    assert len(listing.entries) == 1


NAMES = st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=6), unique=True, max_size=40)


@given(NAMES, st.integers(0, 5), st.floats(0, 0.5), st.randoms(use_true_random=False))
def test_the_choice_of_val_depends_only_on_names_and_seed(
    names: list[str], seed: int, fraction: float, random: object
) -> None:
    chosen = choose_validation(names, seed=seed, fraction=fraction)
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert chosen == choose_validation(shuffled, seed=seed, fraction=fraction)
    assert chosen <= set(names)
    assert len(chosen) == round(fraction * len(names))


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


def test_merged_class_folders_have_a_note() -> None:
    listing = list_entries(["train/Angry/1.png", "train/anger/2.png", "val/joy/3.png"])
    assert len(listing.entries) == 3
    assert listing.merged == ("train/Angry, train/anger are one class: angry of train",)
