from __future__ import annotations

from pathlib import Path

import pytest

from mien.core import models
from mien.core.errors import ModelError
from mien.core.models import DEFAULT_MODEL, MANIFEST_NAME, bundled_models, find_model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the only bundled model."""
    monkeypatch.setattr(models, "_MODELS_FOLDER", tmp_path)
    (tmp_path / "mien-test").mkdir()
    (tmp_path / "mien-test" / MANIFEST_NAME).touch()
    (tmp_path / "notes").mkdir()
    return tmp_path / "mien-test"


def test_a_folder_is_found_by_its_path(tmp_path: Path) -> None:
    assert find_model(tmp_path) == tmp_path
    assert find_model(str(tmp_path)) == tmp_path


def test_run_folder_means_its_exported_model(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    with pytest.raises(ModelError, match="run 'mien export"):
        find_model(tmp_path)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / MANIFEST_NAME).touch()
    assert find_model(tmp_path) == tmp_path / "export"


def test_a_bundled_model_is_found_by_its_name(folder: Path) -> None:
    assert bundled_models() == ("mien-test",)
    assert find_model("mien-test") == folder


def test_bundled_model_precedes_a_folder_of_the_same_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere" / "mien-test").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_model("mien-test") == folder


def test_unknown_model_error_lists_bundled_models(folder: Path) -> None:
    with pytest.raises(ModelError, match="no model"):
        find_model("x" * 300)
    with pytest.raises(ModelError, match="no model"):
        find_model("x\0y")
    with pytest.raises(ModelError, match=folder.name) as error:
        find_model("mien-b9")
    assert "mien-b9" in str(error.value)
    assert "\n" not in str(error.value)


def test_default_model_is_bundled() -> None:
    assert DEFAULT_MODEL in bundled_models()
