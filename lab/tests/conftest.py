"""What the tests of the lab share: tiny data on disk, and Keras set up once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from data_maker import write_tiny_dataset
from training_maker import PER_CLASS, tiny_config


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a tiny data set; what reads it keeps its cache beside it."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_HOME", str(home))
        yield write_tiny_dataset(home / "faces", per_class=PER_CLASS)


@pytest.fixture(scope="session")
def keras_ready() -> None:
    """Keras on TensorFlow, on one thread."""
    from mien.training.backend import prepare_backend

    prepare_backend(tiny_config().training)
