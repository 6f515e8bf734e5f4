"""Fixtures of all tests: shared photos and data if available, and a tiny real model."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

from mien.core.emotions import EMOTIONS
from mien.core.process import disable_telemetry
from shared_fixtures import shared, tiny_model
from tiny_model import write_tiny_model

__all__ = ["shared", "tiny_model"]  # found here by name

# On a busy machine, the time that an example takes says nothing about the code.
settings.register_profile("mien", deadline=None)
settings.load_profile("mien")
# Workers and the processes that tests start compile a module once, not each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
disable_telemetry()  # before any test imports ONNX Runtime by itself


@pytest.fixture(scope="session", autouse=True)
def usual_signals() -> None:
    """Handle the signals that tests send to commands, because these inherit ignored signals.

    Background jobs ignore SIGINT, and those of nohup SIGHUP.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


MakeModel = Callable[..., Path]


@pytest.fixture
def make_tiny_model(tmp_path: Path) -> MakeModel:
    """A function that writes a tiny model; its options go to the manifest."""

    def make(
        folder_name: str = "tiny",
        *,
        labels: Sequence[str] = EMOTIONS,
        temperature: float = 1.0,
        thresholds: Mapping[str, float] | None = None,
    ) -> Path:
        return write_tiny_model(tmp_path / folder_name, labels, temperature, thresholds or {})

    return make
