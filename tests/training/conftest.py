"""What the tests of training share: tiny data on disk, Keras set up once, and one whole run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_maker import write_tiny_dataset
from mien.training.recipe import ModelSettings
from mien.training.run import RunFolder
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
    """Keras on TensorFlow, on one thread unless another test came first."""
    from mien.training.backend import prepare_backend

    prepare_backend(tiny_config().training)


@pytest.fixture(scope="session")
def keras() -> Any:
    """Keras; tests that turn networks into ONNX ask for it, and are skipped without it."""
    pytest.importorskip("onnx")
    return pytest.importorskip("keras")


@pytest.fixture(scope="session")
def ort() -> Any:
    """ONNX Runtime."""
    return pytest.importorskip("onnxruntime")


@pytest.fixture(scope="session")
def b0(keras_ready: None) -> Any:
    """An EfficientNetB0 that has been given Lite0's weights; leave it as it is."""
    from mien.training.model import build_model

    return build_model(ModelSettings(weights="lite0"), size=32)


@pytest.fixture(autouse=True)
def float32_again() -> Iterator[None]:
    """Undo what a test of mixed precision sets for the whole process."""
    yield
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def whole_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of two phases and two sizes that nothing disturbed; leave it as it is."""
    from mien.training.trainer import train

    config = tiny_config(tiny_data, training_large_size=40, training_large_epochs=1)
    return train(config, tmp_path_factory.mktemp("runs") / "whole", quiet=True)
