from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from data_maker import write_tiny_csv, write_tiny_dataset, zip_folder
from mien.cli.data import register
from mien.cli.main import main
from mien.core.files import claim_folder


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def source() -> Path:
    """A zip of a tiny data set, in the current folder."""
    return zip_folder(write_tiny_dataset(Path("made"), per_class=2), Path("tiny.zip"))


def run(*words: str) -> int:
    return main(["data", *words], registers=[register])


def spoil(source: Path) -> None:
    import zipfile

    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("../train/sad/evil.png", b"x")
        archive.writestr("train/sad/fake.png", b"x")


def test_import_lays_out_archive_and_prints_a_table(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("import", str(source)) == 0
    assert len(list(Path("archive/train/sad").iterdir())) == 2
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "archive: 28 images; val is the source's own"
    assert lines[2].split() == ["class", "train", "val", "test", "all"]
    assert lines[-1].split() == ["all", "14", "7", "7", "28"]
    assert len({len(line) for line in lines[2:]}) == 1, "the columns are aligned"
    assert captured.err == ""


def test_import_names_what_it_skipped_and_says_so_with_its_exit_code(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(source)
    assert run("import", str(source)) == 6
    out = capsys.readouterr().out
    assert "unusable files, skipped: 2" in out
    assert "../train/sad/evil.png has a path that leads outside ('..')" in out
    assert "train/sad/fake.png is not an image: expected one of JPEG" in out


def test_import_can_print_json(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(source)
    assert run("import", str(source), "--output", "elsewhere", "--json") == 6
    record = json.loads(capsys.readouterr().out)
    assert record["output"] == "elsewhere"
    assert record["images"] == 28
    assert record["classes"]["test"]["disgust"] == 1
    assert record["val_from"] == "folder"
    assert [item["file"] for item in record["skipped"]] == [
        "../train/sad/evil.png",
        "train/sad/fake.png",
    ]


def test_import_says_where_classes_are_empty(capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny_dataset(Path("made"), per_class=1)
    for file in (folder / "val" / "fear").iterdir():
        file.unlink()
    assert run("import", str(folder)) == 0
    assert "no images: val/fear" in capsys.readouterr().out


def test_import_options_reach_the_split() -> None:
    folder = write_tiny_dataset(Path("made"), per_class=10)
    for file in (folder / "val").rglob("*.png"):
        file.unlink()
    assert run("import", str(folder), "--seed", "3", "--val-fraction", "0.3") == 0
    assert len(list(Path("archive/val/sad").iterdir())) == 3


def test_a_second_import_needs_force(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import", str(source)) == 0
    assert run("import", str(source)) == 2
    err = capsys.readouterr().err
    assert err.startswith("mien: archive/train is there already")
    assert err.count("\n") == 1
    assert run("import", str(source), "--force") == 0


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_an_import_where_another_is_running_is_one_line(
    source: Path, force: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with claim_folder(Path("archive/.importing")):
        assert run("import", str(source), *force) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mien: another process is writing archive/.importing: let it")
    assert captured.err.count("\n") == 1
    assert run("import", str(source), *force) == 0


@pytest.mark.parametrize("name", ["missing.zip", "notes.txt"])
def test_a_bad_source_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.txt").write_text("hello", encoding="utf-8")
    assert run("import", name) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert name in captured.err
    assert not Path("archive").exists()


def test_import_takes_the_challenges_csv(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import", str(write_tiny_csv(Path("fer2013.csv")))) == 0
    assert "val is the rows of usage PublicTest" in capsys.readouterr().out


def test_download_without_kagglehub_is_one_line_with_the_way_by_hand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    assert run("download") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "mien data import archive.zip" in err


def test_download_imports_what_kagglehub_fetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched = write_tiny_dataset(Path("fetched"), kaggle=True)
    monkeypatch.setattr("mien.data.importing.download_dataset", lambda: fetched)
    assert run("download") == 0
    assert "archive: 56 images; val is the PublicTest_* files of test" in capsys.readouterr().out
    monkeypatch.setattr("mien.data.importing.download_dataset", pytest.fail)
    assert run("download") == 2, "refused before anything is fetched"


def test_audit_prints_aligned_tables_and_names_files(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(source)
    assert run("audit", str(source), "--limit", "1") == 0
    out = capsys.readouterr().out
    assert out.startswith("tiny.zip: 28 images, 28 distinct\n")
    assert "test in train or val" in out
    assert "unusable files, skipped: 2" in out
    assert "... and 1 more" in out
    for block in out.split("\n\n")[1:3]:
        assert len({len(line) for line in block.strip("\n").splitlines()}) == 1


def test_audit_json_holds_everything(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("audit", str(source), "--json", "--near-threshold", "0.99") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["distinct"] == 28
    assert record["near_threshold"] == 0.99
    assert record["votes"] is None


def test_audit_compares_votes(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["split,file,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    for path in sorted(Path("made").rglob("*.png")):
        lines.append(f"{path.parts[1]},{path.name},10,0,0,0,0,0,0,0,0,0")
    Path("votes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert run("audit", str(source), "--votes", "votes.csv") == 0
    rows = capsys.readouterr().out.split("FER+")[1].splitlines()
    assert rows[2].split() == ["val", "7", "7", "1", "14.3%", "0"]


def test_audit_draws_a_picture(source: Path) -> None:
    assert run("audit", str(source), "--figure", "pictures/audit.png") == 0
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
def test_bad_calls_are_one_line(
    source: Path, words: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert source.exists()
    assert run(*words) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert text in captured.err
    assert captured.err.count("\n") == 1
