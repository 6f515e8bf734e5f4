"""Two processes that train together reach what one reaches at the same batch."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.core.errors import InputError, UsageError
from mien.training.team import Team, check_same_images, check_team
from training_maker import read_checkpoint, read_history, tiny_config

TESTS = Path(__file__).parents[1]

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


def member(folder: Path, data: Path, rank: int, size: int) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    script = str(Path(__file__).with_name("parallel_run.py"))
    path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, script, str(folder), str(data), str(rank), str(size)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "KERAS_TORCH_DEVICE": "cpu"},
    )


def member_of(rank: int, size: int) -> Team:
    team = Team()
    team.rank, team.size = rank, size
    return team


@needs_torch
@pytest.mark.slow
def test_two_workers_lose_what_one_loses_step_by_step(tiny_data: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    processes = [
        member(one, tiny_data, 0, 1),
        *(member(two, tiny_data, rank, 2) for rank in (0, 1)),
    ]
    for process in processes:
        _, said = process.communicate(timeout=500)
        assert process.returncode == 0, said
    losses = [json.loads(path.read_text()) for path in (one / "losses0.json", two / "losses0.json")]
    assert len(losses[0]) == 12
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert json.loads((two / "losses1.json").read_text()) == losses[1]
    # And the same network, BatchNorm's statistics, optimizer and averages included.
    first, second = read_checkpoint(one / "run"), read_checkpoint(two / "run")
    assert list(first) == list(second)
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=2e-3, atol=2e-4, err_msg=name)
    for alone, together in zip(read_history(one / "run"), read_history(two / "run"), strict=True):
        for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert float(together[key]) == pytest.approx(float(alone[key]), rel=1e-3)
    files = {path.name for path in (one / "run").iterdir()}
    assert {path.name for path in (two / "run").iterdir()} == files
    environment = json.loads((two / "run" / "environment.json").read_text())
    assert environment["workers"] == 2


@pytest.mark.parametrize(("count", "size"), [(8, 1), (8, 2), (7, 2), (7, 3), (1, 3), (0, 2)])
def test_the_parts_of_a_team_are_all_images_once(count: int, size: int) -> None:
    places = np.arange(count)
    parts = [places[member_of(rank, size).part(count)] for rank in range(size)]
    np.testing.assert_array_equal(np.concatenate(parts), places)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_team_of_one_is_nothing_special() -> None:
    team = Team()
    assert team.leads
    assert team.share("a") == "a"
    assert team.gather("a") == ["a"]
    np.testing.assert_array_equal(team.joined(np.arange(3)), np.arange(3))
    check_team(team, tiny_config(training_backend="jax"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training_backend": "jax"}, 'on Keras\' backend "torch" alone, not "jax"'),
        ({"training_backend": "torch", "training_batch_size": 2}, "split over 3 workers"),
    ],
)
def test_recipes_that_no_team_can_train(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_team(member_of(0, 3), tiny_config(**changes))


def test_different_images_on_the_machines_are_refused() -> None:
    check_same_images(["1", "1"], "archive")
    with pytest.raises(InputError, match="different images in archive"):
        check_same_images(["1", "2"], "archive")
