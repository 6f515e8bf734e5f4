"""Fixtures of the training tests: tiny data on disk, Keras set up once, and one complete run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mien.training.recipe import ModelSettings
from mien.training.run_folder import RunFolder
from shared_fixtures import keras_ready, tiny_data
from training_maker import tiny_config

__all__ = ["keras_ready", "tiny_data"]  # found here by name


@pytest.fixture(scope="session")
def keras() -> Any:
    """Keras, for tests that convert networks to ONNX; they are skipped without it."""
    pytest.importorskip("onnx")
    return pytest.importorskip("keras")


@pytest.fixture(scope="session")
def ort() -> Any:
    """ONNX Runtime."""
    return pytest.importorskip("onnxruntime")


@pytest.fixture(scope="session")
def b0(keras_ready: None) -> Any:
    """An EfficientNetB0 with Lite0's weights; read-only."""
    from mien.training.model import build_model

    return build_model(ModelSettings(weights="lite0"), size=32)


@pytest.fixture(autouse=True)
def float32_again() -> Iterator[None]:
    """Reset the dtype policy that a test of mixed precision sets for the whole process."""
    yield
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def whole_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An uninterrupted run of two phases and two sizes; read-only."""
    from mien.training.trainer import train

    config = tiny_config(tiny_data, training_large_size=40, training_large_epochs=1)
    return train(config, tmp_path_factory.mktemp("runs") / "whole", quiet=True)
