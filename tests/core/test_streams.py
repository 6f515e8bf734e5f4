from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from mien.core.progress import Progress, track
from mien.core.streams import stderr, stderr_without_native_lines


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    stderr().write("said")
    assert capsys.readouterr().err == "said"


@pytest.mark.parametrize("closes", [False, True])
def test_without_stderr_messages_are_lost(monkeypatch: pytest.MonkeyPatch, closes: bool) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed if closes else None)
    assert stderr().write("lost") == 4
    assert not stderr().isatty()
    stderr().flush()
    with Progress("drawn nowhere", 2) as progress:
        progress.advance()
    assert list(track([1, 2], "nowhere")) == [1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are closed by a POSIX shell")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_the_null_device(closed: str, tmp_path: Path) -> None:
    script = (
        "import os, subprocess, sys\n"
        "from mien.core.streams import open_closed_streams\n"
        "open_closed_streams()\n"
        "numbers = [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)]\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    assert file.fileno() > 2, 'a file took the number of a stream'\n"
        "    os.write(1, b'native'); os.write(2, b'native'); print('x'); sys.stderr.write('x')\n"
        "    looking = 'import os; os.fstat(1); os.fstat(2)'\n"
        "    child = subprocess.run([sys.executable, '-c', looking])\n"
        "    print(*numbers, child.returncode, repr(sys.stdin.read(0)), file=file)\n"
    )
    target = tmp_path / "written.txt"
    shell = f'exec "$0" -c "$1" "$2" {closed}'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable, script, str(target)], stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0
    assert target.read_text(encoding="utf-8") == "0 1 2 0 ''\n"


@pytest.mark.skipif(sys.platform == "win32", reason="native lines are written as POSIX does")
def test_native_lines_are_lost_and_pythons_and_crashes_are_not() -> None:
    script = (
        "import os, sys, threading\n"
        "from mien.core.streams import stderr_without_native_lines\n"
        "os.write(2, b'1')\n"
        "with stderr_without_native_lines():\n"
        "    os.write(2, b'libtiff: damaged')\n"
        "    print('2', end='', file=sys.stderr)\n"
        "    os.system('echo a child >&2')\n"
        "os.write(2, b'3')\n"
        "print('4', end='', file=sys.stderr)\n"
        "with stderr_without_native_lines():\n"
        "    os.abort()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.startswith("1234Fatal Python error: Aborted")
    assert done.returncode != 0


def test_a_stream_that_is_not_the_programs_own_is_left_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sys.stderr
    with stderr_without_native_lines():
        assert sys.stderr is before
        print("said", file=sys.stderr)
    assert capsys.readouterr().err == "said\n"
