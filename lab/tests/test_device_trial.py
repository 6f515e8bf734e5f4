"""Trying a network on the device, and finding one."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab.gpu.setup import find_backend
from lab.gpu.trial import try_network
from mien.core.errors import MissingExtra
from training_maker import tiny_config, tiny_training_data


def test_a_network_is_tried_at_both_sizes_and_as_a_teacher(
    keras_ready: None, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    options: dict[str, Any] = {
        "training_backend": "torch",
        "training_head_epochs": 0,
        "training_large_size": 64,
        "training_large_epochs": 1,
    }
    data = tiny_training_data()
    pace = try_network(tiny_config(**options), data, turn=tmp_path / "turn", seconds=0.3)
    assert (pace.steps, pace.batch_size) == (3, 8)
    assert 0 < pace.seconds < pace.large_seconds
    assert pace.predictions > 0
    assert pace.views > 0
    assert pace.validation > 0
    # A student is asked by nobody, and its teachers need not be there yet.
    pupil = tiny_config(**options, distill_teachers=["nobody"])
    assert try_network(pupil, data, turn=tmp_path / "turn", seconds=0.1).predictions == 0


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({"torch": "gpu", "jax": "gpu", "tensorflow": ""}, ("cuda", True)),
        ({"torch": "gpu"}, ("cuda", True)),
        ({"torch": "cpu", "jax": "gpu"}, ("jax", True)),
        ({"torch": "cpu", "jax": "cpu", "tensorflow": ""}, ("tensorflow", False)),
        ({"torch": "cpu"}, ("torch", False)),
        ({"jax": "cpu"}, ("jax", False)),
    ],
)
def test_the_fastest_that_sees_a_gpu_is_taken(
    monkeypatch: pytest.MonkeyPatch, seen: dict[str, str], expected: tuple[str, bool]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in seen or None)

    def run(words: list[str], **_: Any) -> Any:
        (name,) = [name for name in ("torch", "jax") if f"import {name}" in words[-1]]
        return subprocess.CompletedProcess(words, 0, stdout=f"{seen[name]}\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert find_backend({}) == expected


def test_without_any_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra):
        find_backend({})
