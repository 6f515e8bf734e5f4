"""Fixtures that the tests of the package and those of the lab share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_maker import write_tiny_dataset
from mien.core.emotions import EMOTIONS
from tiny_model import write_tiny_model

_SHARED = Path(
    os.environ.get("MIEN_SHARED", Path(__file__).resolve().parent.parent.parent / "shared")
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of photos, data and weights that the project does not contain."""
    if not _SHARED.is_dir():
        pytest.skip("needs the shared photos and data: set MIEN_SHARED to their folder")
    return _SHARED


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny real model (``model.onnx`` and ``manifest.json``); leave it as it is."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny", EMOTIONS, 1.0, {})


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a tiny data set; what reads it keeps its cache beside it."""
    from training_maker import PER_CLASS

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_HOME", str(home))
        yield write_tiny_dataset(home / "faces", per_class=PER_CLASS)


@pytest.fixture(scope="session")
def keras_ready() -> None:
    """Keras on TensorFlow, on one thread unless another test came first."""
    from mien.training.backend import prepare_backend
    from training_maker import tiny_config

    prepare_backend(tiny_config().training)
