"""A process whose home is another user's, or that has none: what needs no cache works."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

NOBODYS = 65533
"""A number that no user has, as containers are started with."""


def as_nobody(environment: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        user=NOBODYS,
        group=NOBODYS,
        extra_groups=[],
    )


def _can_start() -> bool:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False  # only root can become somebody else
    try:
        return as_nobody(os.environ, "-c", "import mien, numpy").returncode == 0
    except OSError:  # Python itself is not for everybody here
        return False


pytestmark = pytest.mark.skipif(not _can_start(), reason="cannot start Python as another user")


@pytest.fixture(params=["another's home", "no home", "another's cache"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    settings = {
        "another's home": {"HOME": str(locked)},
        "no home": {},
        "another's cache": {"HOME": "/", "XDG_CACHE_HOME": str(locked)},
    }
    dropped = ("HOME", "MIEN_HOME", "XDG_CACHE_HOME", "KERAS_HOME", "MPLCONFIGDIR")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, **settings[request.param], "OMP_NUM_THREADS": "1"}


def test_commands_without_the_cache_work_and_doctor_reports_it(
    environment: dict[str, str],
) -> None:
    answer = as_nobody(environment, "-m", "mien", "doctor")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "MIEN_HOME=FOLDER" in answer.stdout
    assert "mien works" in answer.stdout
    wanting = as_nobody(environment, "-m", "mien", "predict", "/x.png", "--detector", "yunet")
    assert "set MIEN_HOME" in wanting.stderr
    assert len(wanting.stderr.splitlines()) == 1
