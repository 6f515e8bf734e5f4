"""The exported model that a run has, and where what is written about a model belongs."""

from __future__ import annotations

from pathlib import Path

from mien.core.errors import ModelError
from mien.core.models import MANIFEST_NAME, bundled_models

OUTPUTS = Path("outputs")


def find_exported(model: str) -> tuple[str | Path, Path | None]:
    """Return what to open as a model, and the folder of the run that it is of, if it is of one.

    Args:
        model: a bundled model's name, a model's folder, or the folder of a run.

    Raises:
        ModelError: if it is a run that was not exported.
    """
    path = Path(model)
    if model in bundled_models():
        return model, None
    if (path / "export" / MANIFEST_NAME).is_file():
        return path / "export", path
    if (path / "config.toml").is_file() and not (path / MANIFEST_NAME).is_file():
        raise ModelError(
            f"{path} is a run without an exported model: run 'mien export {path}' first"
        )
    return path, path.parent if (path.parent / "config.toml").is_file() else None


def home_of(run: Path | None, name: str) -> Path:
    """Return the folder for what is written about a model: its run's, else one of its name."""
    return OUTPUTS / Path(name).name if run is None else run
