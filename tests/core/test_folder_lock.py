from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mien.core.errors import OutputError, UsageError
from mien.core.folder_lock import LOCK_NAME, claimed, give_up


def test_a_folder_is_another_ones_until_that_lets_it_go(tmp_path: Path) -> None:
    with claimed(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]
        with pytest.raises(UsageError, match=rf"another process is writing {tmp_path}: let it end"):
            claimed(tmp_path)
    claimed(tmp_path).close()


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from mien.core.folder_lock import claimed\n"
        "held = claimed(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(UsageError, match="another process is writing"):
            claimed(tmp_path)
        other.kill()
    claimed(tmp_path).close()


@pytest.mark.skipif(sys.platform == "win32", reason="locks otherwise there")
def test_where_files_cannot_be_locked_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    claimed(tmp_path).close()


def test_a_folder_that_was_removed_meanwhile_is_let_go(tmp_path: Path) -> None:
    lock = claimed(tmp_path / "own")
    with suppress(PermissionError):  # on Windows, where nobody can
        shutil.rmtree(tmp_path / "own")
    give_up(tmp_path / "own", lock)
    assert lock.closed


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*nowhere"):
        claimed(tmp_path / "file" / "nowhere")


def test_a_folder_is_removed_with_its_lock_unless_there_is_more(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    give_up(folder, claimed(folder))
    assert not folder.exists()
    lock = claimed(folder)
    (folder / "more").touch()
    give_up(folder, lock)
    assert sorted(path.name for path in folder.iterdir()) == [LOCK_NAME, "more"]
    claimed(folder).close()


def test_a_marked_folder_alone_is_mien_s(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(UsageError, match="not a folder of mien's"):
        claimed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
