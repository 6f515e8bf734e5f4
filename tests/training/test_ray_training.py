"""``mien train --engine ray``: two workers, one of which is killed, then the run gone on with."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mien.core.errors import UsageError
from mien.training.checkpoint import read_state
from mien.training.config import config_to_toml
from training_maker import mien_process, read_history, tiny_config

# All that Ray Train asks for when it is imported.
RAY_TRAIN = ("ray", "pandas", "pyarrow", "pydantic", "tensorboardX")


def is_missing(*packages: str) -> bool:
    return any(importlib.util.find_spec(package) is None for package in packages)


needs_ray = pytest.mark.skipif(is_missing(*RAY_TRAIN), reason="needs the extra ray")
needs_torch = pytest.mark.skipif(is_missing("torch"), reason="torch is not installed")
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")

SECONDS = 1800
"""For a run of seconds: on a machine with much else to do, Ray takes minutes to start alone."""


@needs_ray
@needs_torch
@needs_proc
@pytest.mark.slow
def test_a_run_whose_worker_was_killed_goes_on_to_the_loss_of_one_process(
    tiny_data: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.toml"
    config = tiny_config(
        tiny_data,
        training_backend="torch",
        training_threads=1,
        training_learning_rate=0.002,
        training_epochs=30,
        training_checkpoint_seconds=0.0,
        model_head_dropout=[0.0],
    )
    recipe.write_text(config_to_toml(config), encoding="utf-8")
    run = tmp_path / "run"
    on_ray = ["--engine", "ray", "--workers", "2"]
    training = mien_process("train", "--config", str(recipe), "--run", str(run), *on_ray)
    kill_a_worker_after(run / "checkpoint.npz", training)
    out, err = training.communicate(timeout=SECONDS)
    assert (training.returncode, out) == (1, ""), err
    # Ray's own words are no part of it.
    assert err.count("mien: ") == err.count("\n") - err.count("epoch ") == 1
    assert f"; to go on: mien train --engine ray --resume {run}\n" in err
    assert not (run / "summary.json").exists()
    stood = read_state(run / "checkpoint.npz").epoch
    assert stood < config.total_epochs

    resumed = mien_process("train", "--resume", str(run), *on_ray)
    out, err = resumed.communicate(timeout=SECONDS)
    assert resumed.returncode == 0, err
    assert "val accuracy" in out
    # What the leader tells of its epochs is shown here, from where the run stood.
    assert f"epoch {config.total_epochs:>3}/{config.total_epochs}" in err
    assert f"epoch {stood:>3}/" not in err

    alone = mien_process(
        *("train", "--config", str(recipe), "--run", str(tmp_path / "alone")),
        KERAS_TORCH_DEVICE="cpu",
    )
    _, err = alone.communicate(timeout=SECONDS)
    assert alone.returncode == 0, err
    expected, rows = read_history(tmp_path / "alone"), read_history(run)
    assert [float(row["loss"]) for row in rows[:5]] == pytest.approx(
        [float(row["loss"]) for row in expected[:5]], rel=1e-3
    )
    assert len(rows) == len(expected)
    files = {path.name for path in (tmp_path / "alone").iterdir()}
    assert {path.name for path in run.iterdir()} == files


def kill_a_worker_after(checkpoint: Path, training: subprocess.Popen[str]) -> None:
    """Kill one of a training's workers once there is a checkpoint."""
    while not checkpoint.exists():
        assert training.poll() is None, training.communicate()
        time.sleep(0.05)
    workers = [pid for pid in descendants(training.pid) if "RayTrainWorker" in title(pid)]
    assert len(workers) == 2
    os.kill(workers[-1], signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return a process's children, theirs, and so on."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                # After the name in brackets: the state, then the parent.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found[1:]


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


@needs_ray
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_each_worker_gets_as_many_cores_as_fit() -> None:
    from mien.training.ray_training import cores_each

    assert cores_each([8], 1) == 8
    assert cores_each([8, 8], 2) == 8
    assert cores_each([8, 8], 3) == 4
    assert cores_each([8, 2], 3) == 2
    assert cores_each([1.0, 0.0, 1.0], 2) == 1
    with pytest.raises(UsageError, match="has 3 cores: expected --workers 3 at most"):
        cores_each([2, 1], 4)


def test_without_torch_one_line_says_what_to_install(tiny_data: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: (\n"
        "    None if name == 'torch' else find(name, *rest))\n"
        "from mien.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    (tmp_path / "recipe.toml").write_text(config_to_toml(tiny_config(tiny_data)), encoding="utf-8")
    words = ["train", "--config", str(tmp_path / "recipe.toml"), "--engine", "ray"]
    words += ["--run", str(tmp_path / "run")]
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.startswith("mien: ")
    assert ("[ray]" if is_missing(*RAY_TRAIN) else "pip install torch") in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
