"""``python -m lab.sample``: the picture, and what it says of it."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_maker import write_tiny_dataset
from lab import sample
from mien.cli.main import main
from mien.core.errors import EXIT_DONE, EXIT_INPUT, EXIT_MODEL, EXIT_USAGE
from mien.data.audit import find_near_pairs


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a data set, and an empty cache."""
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_tiny_dataset(tmp_path / "archive", per_class=4)
    # The tiny images of a class are all alike; those of this one are not.
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 48)).astype(np.uint8)
    for path, image in zip(
        sorted((tmp_path / "archive" / "train" / "happy").iterdir()), noise, strict=True
    ):
        Image.fromarray(image).save(path)
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
def test_invalid_requests_are_one_line_errors(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert run(*words) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_copies_of_one_photo_count_once(workplace: Path) -> None:
    words = ("--data", "archive", "--quiet", "--output")
    assert run(*words, "before.png") == EXIT_DONE
    folder = workplace / "archive" / "train" / "happy"
    photo = sorted(folder.iterdir())[-1]
    for number in range(5):
        (folder / f"Training_9{number}.png").write_bytes(photo.read_bytes())
    assert run(*words, "after.png") == EXIT_DONE
    assert (workplace / "after.png").read_bytes() == (workplace / "before.png").read_bytes()


def test_selected_faces_have_no_near_copies_and_represent_all() -> None:
    rng = np.random.default_rng(0)
    base, other = rng.normal(0, 60, (2, 40, 48, 48))
    again = base + rng.uniform(0, 1, (40, 1, 1)) * other
    images = np.clip(128 + np.concatenate([base, again]) / 2, 0, 255).astype(np.uint8)
    kept = sample.distinct_mask(images, threshold=0.9, quiet=True)
    near = find_near_pairs(images, threshold=0.9, quiet=True)
    pairs = set(zip(near.first.tolist(), near.second.tolist(), strict=True))
    left = np.flatnonzero(kept).tolist()
    assert pairs
    assert not pairs & set(combinations(left, 2))
    for dropped in np.flatnonzero(~kept).tolist():
        assert any((one, dropped) in pairs for one in left)
