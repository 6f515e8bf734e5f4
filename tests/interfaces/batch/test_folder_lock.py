from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mien.core.errors import OutputError, UsageError
from mien.interfaces.batch.folder_lock import LOCK_NAME, locked


def test_a_folder_is_another_ones_until_that_lets_it_go(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]
        with pytest.raises(UsageError, match=rf"another process is writing {tmp_path}: let it end"):
            locked(tmp_path)
    locked(tmp_path).close()


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from mien.interfaces.batch.folder_lock import locked\n"
        "held = locked(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(UsageError, match="another process is writing"):
            locked(tmp_path)
        other.kill()
    locked(tmp_path).close()


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*nowhere"):
        locked(tmp_path / "nowhere")
