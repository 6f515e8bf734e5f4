from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien.core import files
from mien.core.errors import OutputError, UsageError
from mien.core.files import LOCK_NAME, claim_folder, release_folder, sha256_of, write_atomically


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=3_000))
def test_written_content_is_there(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "new" / "file.bin"
    write_atomically(path, content)
    assert path.read_bytes() == content
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def test_failure_keeps_the_old_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.bin"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "way").touch()
    with pytest.raises(OutputError, match="cannot write"):
        write_atomically(tmp_path / "way" / "file.bin", b"new")


def test_process_state_is_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(_: int) -> int:
        raise AssertionError("another thread's new file would be open to everybody meanwhile")

    monkeypatch.setattr(os, "umask", shared)
    write_atomically(tmp_path / "file.bin", b"new")
    assert (tmp_path / "file.bin").read_bytes() == b"new"


_KILLED = """
import os, signal, sys
from pathlib import Path
from mien.core.files import replace_atomically
with replace_atomically(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print(temporary.name, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_leftovers_are_removed_but_not_files_in_use(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file.bin"
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdin=PIPE, stdout=PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        half = tmp_path / process.stdout.readline().strip()
        write_atomically(path, b"meanwhile")
        assert half.read_bytes() == b"half"
        process.stdin.write("\n")
    assert half.exists()
    write_atomically(path, b"after")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / ".file.bin.part.bin").symlink_to("precious")
    (tmp_path / ".other.bin.part.bin").write_bytes(b"of another file")
    write_atomically(tmp_path / "file.bin", b"new")
    assert (tmp_path / "file.bin").read_bytes() == b"new"
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (tmp_path / ".file.bin.part.bin").is_symlink()
    assert (tmp_path / ".other.bin.part.bin").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are POSIX's")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file.bin", b"new")
    (tmp_path / "plain.bin").touch()
    assert (tmp_path / "file.bin").stat().st_mode == (tmp_path / "plain.bin").stat().st_mode


def test_claimed_folder_is_locked_until_closed(tmp_path: Path) -> None:
    with claim_folder(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]
        with pytest.raises(UsageError, match=rf"another process is writing {tmp_path}: wait"):
            claim_folder(tmp_path)
    claim_folder(tmp_path).close()


def test_a_folder_on_a_full_disk_is_not_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_mark", full)
    folder = tmp_path / "new"
    with pytest.raises(OutputError, match=f"cannot write {folder}: No space left on device"):
        claim_folder(folder)
    assert not folder.exists()


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no endless device here")
def test_an_endless_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_TEXT_BYTES", 1 << 20)
    with pytest.raises(OSError, match="expected 1 MiB of text at most"):
        files.read_text(Path("/dev/zero"))


def test_killed_process_releases_its_lock(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from mien.core.files import claim_folder\n"
        "held = claim_folder(pathlib.Path(sys.argv[1]))\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(UsageError, match="another process is writing"):
            claim_folder(tmp_path)
        other.kill()
    claim_folder(tmp_path).close()


@pytest.mark.skipif(sys.platform == "win32", reason="locks otherwise there")
def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    claim_folder(tmp_path).close()


def test_folder_removed_meanwhile_is_released(tmp_path: Path) -> None:
    lock = claim_folder(tmp_path / "own")
    with suppress(PermissionError):  # on Windows, where nobody can
        shutil.rmtree(tmp_path / "own")
    release_folder(tmp_path / "own", lock)
    assert lock.closed


def test_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*nowhere"):
        claim_folder(tmp_path / "file" / "nowhere")


def test_released_folder_is_removed_if_empty(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    release_folder(folder, claim_folder(folder))
    assert not folder.exists()
    lock = claim_folder(folder)
    (folder / "more").touch()
    release_folder(folder, lock)
    assert sorted(path.name for path in folder.iterdir()) == [LOCK_NAME, "more"]
    claim_folder(folder).close()


def test_unmarked_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(UsageError, match="was not created by mien"):
        claim_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
