from __future__ import annotations

import os
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from data_maker import write_tiny_dataset, zip_folder
from mien.core.errors import DataError
from mien.data.sources import FolderSource, ZipSource, open_source, source_kind, source_state


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
        assert source.members() == ["train/sad/good.png"]
        (refused,) = source.refused()
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
        reasons = {item.file: item.reason for item in source.refused()}
        assert reasons == {
            "train/sad/link.png": "is a link",
            "train/sad/bomb.png": "is larger than 1 MB",
            "train/sad/twice.png": "is in the zip twice",
            "train/sad/secret.png": "is encrypted",
        }
        assert source.members() == ["train/sad/twice.png"]
        assert source.read("train/sad/twice.png") == b"1"


def test_an_entry_with_damaged_bytes_is_an_error_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/sad/x.png", b"the content of x")
    path.write_bytes(path.read_bytes().replace(b"the content", b"THE CONTENT"))
    with zipfile.ZipFile(path) as archive, pytest.raises(DataError, match="damaged inside the zip"):
        ZipSource(archive).read("train/sad/x.png")


def test_folder_and_zip_hold_the_same(folder: Path, tmp_path: Path) -> None:
    with (
        open_source(folder) as one,
        open_source(zip_folder(folder, tmp_path / "tiny.zip")) as other,
    ):
        assert sorted(one.members()) == sorted(other.members())
        assert all(one.read(member) == other.read(member) for member in one.members())


def test_what_is_no_source_is_an_error_that_says_what_is(tmp_path: Path) -> None:
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
    with pytest.raises(DataError, match="download it again"), open_source(path) as source:
        source.members()


def test_a_folders_state_changes_with_each_of_its_files(folder: Path) -> None:
    before = source_state(folder)
    assert source_state(folder) == before
    file = next(folder.rglob("*.png"))
    os.utime(file, (1, 1))
    touched = source_state(folder)
    file.unlink()
    assert len({before, touched, source_state(folder)}) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_folders_links_are_followed_but_not_in_circles(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "train").symlink_to(folder / "train")
    (linked / "loop").symlink_to(linked)
    (linked / "gone.png").symlink_to(tmp_path / "nowhere")
    source = FolderSource(linked)
    assert len(source.members()) == 7
    assert {item.file: item.reason.split(" (")[0] for item in source.refused()} == {
        "loop/": "is a link to a folder above it",
        "gone.png": "cannot be read",
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_a_pipe_in_a_folder_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "train" / "sad" / "pipe.png")
    source = FolderSource(folder)
    assert [item.reason for item in source.refused()] == ["is not a regular file"]


def test_a_file_that_went_away_is_an_error_with_a_reason(folder: Path) -> None:
    source = FolderSource(folder)
    member = source.members()[0]
    (folder / member).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        source.read(member)
