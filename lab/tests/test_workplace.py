from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lab.gpu import workplace
from lab.gpu.children import LOCK_VARIABLE
from lab.gpu.workplace import environment_in, take_lock
from mien.core.errors import InputError


def test_a_lock_that_is_held_is_refused_by_the_name_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workplace, "_LOCK_SECONDS", 0.0)
    with (tmp_path / "lock").open("w") as held, (tmp_path / "lock").open("w") as other:
        take_lock(held.fileno(), tmp_path)
        with pytest.raises(InputError, match=rf"runs in {tmp_path} already: wait for it"):
            take_lock(other.fileno(), tmp_path)


def test_a_lock_that_comes_free_is_waited_for(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as held, (tmp_path / "lock").open("w") as other:
        take_lock(held.fileno(), tmp_path)
        letting_go = threading.Timer(0.2, fcntl.flock, (held, fcntl.LOCK_UN))
        letting_go.start()
        take_lock(other.fileno(), tmp_path)
        letting_go.join()
        with pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_processes_find_the_code_the_packages_and_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/packed.py").touch()
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    environment = environment_in(tmp_path, 7)
    assert environment[LOCK_VARIABLE] == "7"
    assert environment["PYTHONPATH"].split(os.pathsep)[2:] == [str(tmp_path / "site"), "elsewhere"]
    assert environment["MIEN_HOME"] == str(tmp_path / "home")
    assert environment["PATH"] == os.environ["PATH"]
    code = "import mien.core, packed; print(mien.core.__file__); print(packed.__file__)"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    core, packed = map(Path, ran.stdout.splitlines())
    assert core.parents[2] == Path(workplace.__file__).resolve().parents[2] / "src"
    assert packed == tmp_path / "site/packed.py"


def test_without_a_search_path_none_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An empty part would mean the current folder.
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert "" not in environment_in(tmp_path, 3)["PYTHONPATH"].split(os.pathsep)
