"""Training on several devices equals training on one: two virtual CPU devices, on JAX."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training_maker import read_checkpoint, read_history

SCRIPT = """
import sys
from pathlib import Path
from mien.training import trainer
from training_maker import tiny_config

data, folder, batch = sys.argv[1:]
config = tiny_config(
    data, training_backend="jax", training_batch_size=int(batch), training_wise_ft_alpha=0.5
)
trainer.train(config, Path(folder), quiet=True)
"""


def start(data: Path, folder: Path, *, devices: int, batch: int = 8) -> Any:
    """Start a training in a separate process with a number of virtual devices."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    words = [sys.executable, "-c", SCRIPT, str(data), str(folder), str(batch)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)


def ended(process: Any) -> str:
    """Return the stderr of a process, which must succeed."""
    _, output = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return str(output)


def assert_same_losses(first: Path, second: Path) -> None:
    for mine, theirs in zip(read_history(first), read_history(second), strict=True):
        for name in ("loss", "val_loss"):
            assert float(mine[name]) == pytest.approx(float(theirs[name]), rel=1e-4)
    arrays = [read_checkpoint(run) for run in (first, second)]
    for name, array in arrays[0].items():
        assert np.allclose(array, arrays[1][name], atol=1e-3), name


@pytest.mark.slow
def test_two_devices_have_the_losses_of_one(tiny_data: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    ended(start(tiny_data, tmp_path / "one", devices=1))
    ended(start(tiny_data, tmp_path / "two", devices=2))
    assert_same_losses(tmp_path / "one", tmp_path / "two")

    odd = start(tiny_data, tmp_path / "odd", devices=2, batch=7)
    assert (
        "training.batch_size = 7 is split over 2 devices: expected a multiple of that"
        in (odd.communicate(timeout=600)[1])
    )
