"""`mien data download|import|audit`: what they print, write and refuse."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from data_maker import write_tiny_csv, write_tiny_dataset, zip_folder
from mien.core.files import claim_folder
from predict_maker import Mien


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def source() -> Path:
    """A zip of a tiny data set, in the current folder."""
    return zip_folder(write_tiny_dataset(Path("made"), per_class=2), Path("tiny.zip"))


@pytest.fixture
def spoilt(source: Path) -> Path:
    """The same with two files that cannot be used."""
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("../train/sad/evil.png", b"x")
        archive.writestr("train/sad/fake.png", b"x")
    return source


def test_import_writes_archive_and_prints_a_table(mien: Mien, source: Path) -> None:
    done = mien("data", "import", source)
    assert (done.code, done.err) == (0, "")
    assert len(list(Path("archive/train/sad").iterdir())) == 2
    lines = done.out.splitlines()
    assert lines[0] == "archive: 28 images; val is the source's own"
    assert lines[2].split() == ["class", "train", "val", "test", "all"]
    assert lines[-1].split() == ["all", "14", "7", "7", "28"]
    assert len({len(line) for line in lines[2:]}) == 1, "the columns are aligned"


def test_skipped_files_are_listed_with_exit_code_6(mien: Mien, spoilt: Path) -> None:
    done = mien("data", "import", spoilt)
    assert done.code == 6
    assert "unusable files, skipped: 2" in done.out
    assert "../train/sad/evil.png has a path that leads outside ('..')" in done.out
    assert "train/sad/fake.png is not an image: expected one of JPEG" in done.out
    done = mien("data", "import", spoilt, "--output", "elsewhere", "--json")
    assert (done.code, done.json["output"], done.json["images"]) == (6, "elsewhere", 28)
    assert (done.json["classes"]["test"]["disgust"], done.json["val_from"]) == (1, "folder")
    skipped = [item["file"] for item in done.json["skipped"]]
    assert skipped == ["../train/sad/evil.png", "train/sad/fake.png"]


def test_import_lists_empty_classes(mien: Mien) -> None:
    folder = write_tiny_dataset(Path("made"), per_class=1)
    for file in (folder / "val" / "fear").iterdir():
        file.unlink()
    done = mien("data", "import", folder)
    assert (done.code, "no images: val/fear" in done.out) == (0, True)


def test_import_options_reach_the_random_val(mien: Mien) -> None:
    folder = write_tiny_dataset(Path("made"), per_class=10)
    for file in (folder / "val").rglob("*.png"):
        file.unlink()
    assert mien("data", "import", folder, "--seed", 3, "--val-fraction", 0.3).code == 0
    assert len(list(Path("archive/val/sad").iterdir())) == 3


def test_a_second_import_needs_force(mien: Mien, source: Path) -> None:
    assert mien("data", "import", source).code == 0
    mien("data", "import", source).assert_error(2, "mien: archive/train already exists")
    assert mien("data", "import", source, "--force").code == 0


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_simultaneous_import_is_refused(mien: Mien, source: Path, force: tuple[str, ...]) -> None:
    with claim_folder(Path("archive/.importing")):
        done = mien("data", "import", source, *force)
    done.assert_error(2, "mien: another process is writing archive/.importing: wait for it")
    assert mien("data", "import", source, *force).code == 0


@pytest.mark.parametrize("name", ["missing.zip", "notes.txt"])
def test_a_bad_source_is_refused(mien: Mien, name: str) -> None:
    Path("notes.txt").write_text("hello", encoding="utf-8")
    mien("data", "import", name).assert_error(3, name)
    assert not Path("archive").exists()


def test_import_takes_the_challenges_csv(mien: Mien) -> None:
    done = mien("data", "import", write_tiny_csv(Path("fer2013.csv")))
    assert "val is the rows of usage PublicTest" in done.out


def test_download_without_kagglehub_gives_manual_instructions(
    mien: Mien, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    mien("data", "download").assert_error(2, "mien data import archive.zip")


def test_download_imports_what_kagglehub_fetched(
    mien: Mien, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = write_tiny_dataset(Path("fetched"), kaggle=True)
    monkeypatch.setattr("mien.data.importing.download_dataset", lambda: fetched)
    done = mien("data", "download")
    assert "archive: 56 images; val is the PublicTest_* files of test" in done.out
    monkeypatch.setattr("mien.data.importing.download_dataset", pytest.fail)
    assert mien("data", "download").code == 2, "refused before anything is fetched"


def test_audit_prints_aligned_tables_and_lists_files(mien: Mien, spoilt: Path) -> None:
    done = mien("data", "audit", spoilt, "--limit", 1)
    assert done.code == 0
    assert done.out.startswith("tiny.zip: 28 images, 28 distinct\n")
    for text in ("test in train or val", "unusable files, skipped: 2", "... and 1 more"):
        assert text in done.out
    for block in done.out.split("\n\n")[1:3]:
        assert len({len(line) for line in block.strip("\n").splitlines()}) == 1


def test_audit_json_holds_everything(mien: Mien, source: Path) -> None:
    record = mien("data", "audit", source, "--json", "--near-threshold", 0.99).json
    assert (record["distinct"], record["near_threshold"], record["votes"]) == (28, 0.99, None)


def test_audit_compares_votes(mien: Mien, source: Path) -> None:
    lines = ["split,file,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    for path in sorted(Path("made").rglob("*.png")):
        lines.append(f"{path.parts[1]},{path.name},10,0,0,0,0,0,0,0,0,0")
    Path("votes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = mien("data", "audit", source, "--votes", "votes.csv")
    rows = done.out.split("FER+")[1].splitlines()
    assert rows[2].split() == ["val", "7", "7", "1", "14.3%", "0"]


def test_audit_draws_a_picture(mien: Mien, source: Path) -> None:
    assert mien("data", "audit", source, "--figure", "pictures/audit.png").code == 0
    assert Path("pictures/audit.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["audit", "tiny.zip", "--limit", "-1"], 2, "whole number from 0"),
        (["audit", "tiny.zip", "--near-threshold", "0.1"], 2, "from 0.8 to 1"),
        (["audit", "tiny.zip", "--votes", "missing.csv"], 3, "cannot read the votes"),
        (["audit", "nowhere"], 3, "no data set at nowhere"),
        ([], 2, "COMMAND"),
    ],
)
def test_bad_calls_are_refused(
    mien: Mien, source: Path, words: list[str], code: int, text: str
) -> None:
    mien("data", *words).assert_error(code, text)
