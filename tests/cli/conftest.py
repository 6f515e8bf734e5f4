"""Fixtures of the tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from mien.cli.main import main
from predict_maker import Mien, Outcome, Predict


@pytest.fixture
def mien(capsys: pytest.CaptureFixture[str]) -> Mien:
    """Run `mien` with arguments."""

    def run(*words: object) -> Outcome:
        code = main([str(word) for word in words])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def predict(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Predict:
    """Run `mien predict` in an empty folder; images are face crops by default."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, model: Path = tiny_model, detector: str = "none") -> Outcome:
        settings = ["--model", str(model), "--detector", detector]
        code = main(["predict", *map(str, words), *settings])
        return Outcome(code, *capsys.readouterr())

    return run
