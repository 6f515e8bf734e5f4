"""Writing a model's folder whole or not at all."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mien.core.errors import OutputError, UsageError
from mien.core.manifest import MANIFEST_SCHEMA
from mien.core.models import MANIFEST_NAME, MODEL_NAME


def check_target(target: Path) -> None:
    """Raise UsageError unless a model can be put there: it is new, empty, or holds one already."""
    if target.is_dir():
        if any(target.iterdir()) and not _is_model(target / MANIFEST_NAME):
            raise UsageError(
                f"{target} holds other things: expected a new folder, or one with a model in it"
            )
    elif target.exists():
        raise UsageError(f"{target} is a file: expected a folder for the model")


def _is_model(manifest: Path) -> bool:
    """Say whether a manifest is a model's, damaged or not: others have such files."""
    try:
        return f'"{MANIFEST_SCHEMA.partition("/")[0]}/' in manifest.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Give a new folder beside ``target`` to fill; whatever is left of it at the end is removed."""
    folder = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_in(folder: Path, target: Path) -> None:
    """Put a finished model in its place.

    Where a model stands already, the manifest follows its weights: in between, or if the second
    step fails, a reader is told that both do not match, and is never given wrong numbers.
    """
    if not target.exists():
        folder.replace(target)
        return
    for name in (MODEL_NAME, MANIFEST_NAME):
        (folder / name).replace(target / name)
