"""Training and resuming on Keras' other backends, where they are installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys
from pathlib import Path
from training_maker import read_checkpoint, read_history, same_arrays, tiny_config
from mien.training import trainer
from mien.training.trainer import Trainer, TrainingStopped

data, folder, backend = sys.argv[1:]
config = tiny_config(
    data, training_backend=backend, training_large_size=40, training_large_epochs=1
)
whole = trainer.train(config, Path(folder) / "whole", quiet=True)
step = Trainer._train_step


def stopping_step(run, state, batch):
    loss = step(run, state, batch)
    if (state.epoch, state.step) == (1, 2):
        os.kill(os.getpid(), signal.SIGINT)
    return loss


Trainer._train_step = stopping_step
try:
    trainer.train(config, Path(folder) / "stopped", quiet=True)
except TrainingStopped:
    Trainer._train_step = step
resumed = trainer.resume(Path(folder) / "stopped", quiet=True)
assert read_history(resumed) == read_history(whole)
assert same_arrays(read_checkpoint(resumed), read_checkpoint(whole))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_run_stopped_and_resumed_is_the_same(
    tiny_data: Path, tmp_path: Path, backend: str
) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    words = [sys.executable, "-c", SCRIPT, str(tiny_data), str(tmp_path), backend]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path}
    answer = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=600)
    assert answer.returncode == 0, answer.stderr
