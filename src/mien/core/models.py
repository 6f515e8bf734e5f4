"""Finding models: bundled ones by name, others by folder."""

from __future__ import annotations

import os
from pathlib import Path

from mien.core.errors import ModelError, closest_match

DEFAULT_MODEL = "mien-b0"
"""The default model."""

MANIFEST_NAME = "manifest.json"
MODEL_NAME = "model.onnx"

READINGS: tuple[str, ...] = ("people", "fer2013", "own")
"""Whose labels scores follow: the share of FER+'s ten annotators who would name an emotion, the
labels of FER-2013, or those of one's own data."""

_MODELS_FOLDER = Path(__file__).resolve().parent.parent / "models"


def bundled_models() -> tuple[str, ...]:
    """Return the names of the models that come with the package."""
    return tuple(sorted(path.parent.name for path in _MODELS_FOLDER.glob(f"*/{MANIFEST_NAME}")))


def find_model(name_or_path: str | Path) -> Path:
    """Return a model's folder, by the name of a bundled model, a path, or that of a run.

    Of a run, its exported model is meant.

    Raises:
        ModelError: if there is no such model (the message lists the bundled ones), or it is a run
            that was not exported.
    """
    names = bundled_models()
    if str(name_or_path) in names:
        return _MODELS_FOLDER / str(name_or_path)
    folder = Path(name_or_path)
    if os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises where a name is too long
        if (folder / MANIFEST_NAME).is_file():
            return folder
        if (folder / "export" / MANIFEST_NAME).is_file():
            return folder / "export"
        if (folder / "config.toml").is_file():
            raise ModelError(
                f"{folder} is a run without an exported model: run 'mien export {folder}' first"
            )
        return folder
    known = ", ".join(names) or "none"
    word = str(name_or_path)
    parts = [name for name in names if word in name.split("-")]
    near = closest_match(word, names) or (parts[0] if parts else None)
    meant = f"did you mean '{near}'? Else " if near else ""
    raise ModelError(
        f"no model {word!r:.200}: {meant}expected a folder with {MANIFEST_NAME} "
        f"or the name of a bundled model ({known})"
    )
