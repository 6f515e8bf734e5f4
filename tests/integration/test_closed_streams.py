"""Commands that are started without stdout or stderr end as with the null device there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="descriptors are closed by a POSIX shell"
)


def mien(closed: str, *words: str | Path) -> int:
    shell = f'exec "$0" -m mien "$@" {closed}'
    command = ["sh", "-c", shell, sys.executable, *map(str, words)]
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (60, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_results_are_complete(
    closed: str, pictures: Path, tmp_path: Path, tiny_model: Path
) -> None:
    options: list[str | Path] = ["--model", tiny_model, "--detector", "none"]
    for name in ("plain.csv", "closed.csv"):
        shut = closed if name == "closed.csv" else ">/dev/null 2>/dev/null"
        words = ("predict", *sorted(pictures.iterdir()), *options, "--output", tmp_path / name)
        assert mien(shut, *words) == 0
    assert (tmp_path / "closed.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()
    folder = (pictures, *options, "--workers", "2", "--output", tmp_path / "folder.jsonl")
    assert mien(closed, "predict", *folder) == 0
    assert (tmp_path / "folder.jsonl").read_text(encoding="utf-8").count("\n") == 3
    picture = pictures / "0.png"
    assert mien(closed, "explain", picture, *options, "--output", tmp_path / "why.png") == 0
    assert (tmp_path / "why.png").exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_output_is_lost_and_errors_keep_their_codes(closed: str, tiny_model: Path) -> None:
    assert mien(closed, "--help") == 0
    assert mien(closed, "doctor", "--model", tiny_model) == 0
    assert mien(closed, "predict", "missing.png", "--model", tiny_model) == 3
    assert mien(closed, "predict", "--no-such-option") == 2
