"""The parts of benchmarks/peers that need no peer: scores, tables, readers' protocol."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mien.core.emotions import EMOTIONS
from mien.data.dataset import Split

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
HAPPY, NEUTRAL, SAD = (EMOTIONS.index(name) for name in ("happy", "neutral", "sad"))
READER = """
import reader
reader.run(
    lambda path: [] if path == "nobody.jpg" else [(4, "sad"), (9, "happy"), (1, "fear")],
    lambda face: "neutral" if face.max() else "sad",
)
"""


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers_compare", FOLDER / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_no_face_counts_as_wrong_and_balanced_accuracy_weighs_emotions_alike(
    compare: ModuleType,
) -> None:
    labels = np.array([HAPPY, HAPPY, HAPPY, HAPPY, NEUTRAL, NEUTRAL])
    read = ["happy", "happy", "happy", None, "sad", "neutral"]
    scores = compare.Scores.of(read, labels)
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.recalls == {"happy": 0.75, "neutral": 0.5}
    assert scores.balanced == pytest.approx(0.625)
    assert scores.no_face == 1


def test_the_tables_score_each_column_by_its_own_labels(compare: ModuleType) -> None:
    split = Split(
        "test",
        np.zeros((3, 48, 48), np.uint8),
        np.array([HAPPY, SAD, SAD]),
        ("test/happy/a.png", "test/sad/b.png", "test/sad/c.png"),
    )
    pictures = compare.Pictures(
        split, [0, 2], np.array([HAPPY, NEUTRAL]), [Path("sad/d.jpg")], np.array([SAD])
    )
    read = {"one": (["happy", "sad", "neutral"], [None]), "other": (["sad"] * 3, None)}
    costs = {"one": compare.Costs(1.234, 56.7, 0.891, 1234.5, 99.6)}
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in compare.section(pictures, read, costs).splitlines()
        if line.startswith(("| one", "| other"))
    ]
    assert rows == [
        ["one", "66.7 %", "100.0 %", "0.0 %", "0.0 %", "-", "1"],
        ["other", "66.7 %", "0.0 %", "-", "-", "-", "-"],
        ["one", "1.23 s", "57", "0.89", "1,234 MB", "100 MB"],
    ]


@pytest.mark.parametrize(
    ("mode", "expected"), [("photos", [None, "happy"]), ("crops", ["sad", "neutral"])]
)
def test_a_reader_returns_the_largest_face_of_each_picture(
    tmp_path: Path, mode: str, expected: list[str | None]
) -> None:
    file = tmp_path / mode
    if mode == "photos":
        file.write_text("nobody.jpg\nthree.jpg\n")
    else:
        np.repeat(np.array([0, 1], np.uint8), 48 * 48).tofile(file)
    (tmp_path / "some_reader.py").write_text(READER)
    (tmp_path / "reader.py").write_bytes((FOLDER / "reader.py").read_bytes())
    command = [sys.executable, "some_reader.py", mode, str(file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["emotions"] == expected
    assert len(result["seconds"]) == 2
    assert result["first"] > max(result["seconds"])


def test_readings_of_a_peer_are_kept_until_pictures_change(
    compare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def run(tool: object, cache: Path, mode: str, file: Path) -> object:
        calls.append(mode)
        return compare.Run(["sad", None], [0.1, 0.1], 1.0, 2.0)

    monkeypatch.setattr(compare, "run", run)
    file = tmp_path / "crops.bin"
    file.write_bytes(b"some")
    peer = compare.Tool("fer", "fer", ("haar",))
    for _ in range(2):
        assert compare.readings(peer, tmp_path, "crops", file, [file]) == ["sad", None]
    assert len(calls) == 1
    file.write_bytes(b"others")
    compare.readings(peer, tmp_path, "crops", file, [file])
    assert len(calls) == 2
    compare.readings(compare.Tool("mien", "mien"), tmp_path, "crops", file, [file])
    compare.readings(compare.Tool("mien", "mien"), tmp_path, "crops", file, [file])
    assert len(calls) == 4
