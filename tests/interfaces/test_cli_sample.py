"""``mien sample``: the picture, and what it says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from data_maker import write_tiny_dataset
from mien.core.errors import EXIT_DONE, EXIT_INPUT, EXIT_MODEL, EXIT_USAGE
from mien.interfaces.cli import sample
from mien.interfaces.cli.main import main


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a data set, and a cache of its own."""
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_tiny_dataset(tmp_path / "archive", per_class=4)
    return tmp_path


def run(*words: str) -> int:
    return main(["sample", *words], registers=[sample.register])


def test_it_writes_the_picture_and_tries_the_detectors(
    workplace: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--data", "archive", "--json") == EXIT_DONE
    written = capsys.readouterr()
    assert json.loads(written.out)["picture"] == str(Path("images/sample.png"))
    assert set(json.loads(written.out)["faces_found"]) == {"yunet", "libface", "haar"}
    assert "picture: " in written.err
    with Image.open(workplace / "images" / "sample.png") as image:
        assert image.mode == "L"
    other = workplace / "other.png"
    words = ("--model", str(tiny_model), "--count", "1", "--output", str(other), "--quiet")
    assert run("--data", "archive", *words) == EXIT_DONE
    written = capsys.readouterr()
    assert written.out.splitlines()[0].split() == ["detector", "faces", "found"]
    assert written.err == ""
    assert other.read_bytes() != (workplace / "images" / "sample.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], EXIT_USAGE, "--data"),
        (["--data", "archive", "--output", "sample.jpg"], EXIT_USAGE, ".png"),
        (["--data", "archive", "--count", "0"], EXIT_USAGE, "--count"),
        (["--data", "nowhere"], EXIT_INPUT, "nowhere"),
        (["--data", "archive", "--model", "nothing"], EXIT_MODEL, "nothing"),
    ],
)
def test_what_cannot_work_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert run(*words) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
