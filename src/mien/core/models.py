"""Finding models: bundled models by name, others by folder; and names of what works with them."""

from __future__ import annotations

import os
from pathlib import Path

from mien.core.checks import invalid
from mien.core.errors import ModelError, closest_match

DEFAULT_MODEL = "mien-b0"
"""Name of the default model."""

MANIFEST_NAME = "manifest.json"
MODEL_NAME = "model.onnx"

READINGS: tuple[str, ...] = ("people", "fer2013", "own")
"""Labels that scores can follow: the share of FER+'s ten annotators who would name an emotion, the
labels of FER-2013, or the labels of a user's own data."""

DETECTORS: tuple[str, ...] = ("auto", "yunet", "libface", "haar", "none")
"""The names of face detectors; see `mien.load_detector`."""

EXPLANATION_METHODS: tuple[str, ...] = ("occlusion", "gradcam")
"""Methods of `mien.Recognizer.explain`; the first is the default."""

_MODELS_FOLDER = Path(__file__).resolve().parent.parent / "models"


def bundled_models() -> tuple[str, ...]:
    """Return the names of the models in the package."""
    return tuple(sorted(path.parent.name for path in _MODELS_FOLDER.glob(f"*/{MANIFEST_NAME}")))


def find_model(name_or_path: str | Path) -> Path:
    """Return the folder of a bundled model, a model, or a training run's exported model.

    Raises:
        ModelError: if there is no such model (the message lists the bundled ones), or the run was
            not exported.
        UsageError: if this is not a name or a path.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise invalid("model", "a name or a folder", name_or_path)
    names = bundled_models()
    if str(name_or_path) in names:
        return _MODELS_FOLDER / str(name_or_path)
    folder = Path(name_or_path)
    if name_or_path != "" and os.path.isdir(folder):  # noqa: PTH112 - no error for a long name
        if (folder / MANIFEST_NAME).is_file():
            return folder
        if (folder / "export" / MANIFEST_NAME).is_file():
            return folder / "export"
        if (folder / "config.toml").is_file():
            raise ModelError(
                f"{folder} is a run without an exported model: run 'mien export {folder}' first"
            )
        return folder
    name = str(name_or_path)
    parts = [bundled for bundled in names if name in bundled.split("-")]
    match = closest_match(name, names) or (parts[0] if parts else None)
    hint = f"did you mean '{match}'? Else " if match else ""
    raise ModelError(
        f"no model {name!r:.200}: {hint}expected a folder with {MANIFEST_NAME} "
        f"or the name of a bundled model ({', '.join(names) or 'none'})"
    )
