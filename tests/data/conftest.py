"""Every test of the data room has its own cache folder."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """mien's cache folder for one test."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MIEN_HOME", str(home))
    return home
