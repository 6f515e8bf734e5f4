from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mien.core.process import (
    TELEMETRY_SWITCHES,
    ForkLock,
    disable_telemetry,
    discard_native_stderr,
    enabled_telemetry,
    stderr,
)
from mien.core.progress import Progress, track
from waiting import PATIENCE_S


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    stderr().write("said")
    assert capsys.readouterr().err == "said"


@pytest.mark.parametrize("closes", [False, True])
def test_closed_stderr_discards_messages(monkeypatch: pytest.MonkeyPatch, closes: bool) -> None:
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
def test_closed_streams_become_the_null_device(closed: str, tmp_path: Path) -> None:
    script = (
        "import os, subprocess, sys\n"
        "from mien.core.process import open_closed_streams\n"
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
def test_only_native_stderr_is_discarded() -> None:
    script = (
        "import os, sys, threading\n"
        "from mien.core.process import discard_native_stderr\n"
        "os.write(2, b'1')\n"
        "with discard_native_stderr():\n"
        "    os.write(2, b'libtiff: damaged')\n"
        "    print('2', end='', file=sys.stderr)\n"
        "    os.system('echo a child >&2')\n"
        "os.write(2, b'3')\n"
        "print('4', end='', file=sys.stderr)\n"
        "with discard_native_stderr():\n"
        "    os.abort()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.startswith("1234Fatal Python error: Aborted")
    assert done.returncode != 0


def test_redirected_stderr_is_left_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sys.stderr
    with discard_native_stderr():
        assert sys.stderr is before
        print("said", file=sys.stderr)
    assert capsys.readouterr().err == "said\n"


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def test_fork_lock_excludes_threads() -> None:
    lock, inside, most = ForkLock(), [0], [0]

    def work() -> None:
        for _ in range(200):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


@forks
def test_fork_lock_is_free_in_a_child() -> None:
    program = (
        "import os, threading\n"
        "from mien.core.process import ForkLock\n"
        "lock, held, done = ForkLock(), threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with lock:\n"
        "        held.set()\n"
        "        done.wait()\n"
        "thread = threading.Thread(target=hold)\n"
        "thread.start()\n"
        "held.wait()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    with lock:\n"
        "        os._exit(7)\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "done.set()\n"
        "thread.join()\n"
        "print(code)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]  # Python warns of forks with threads
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout == "7\n"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TELEMETRY_SWITCHES:
        monkeypatch.setenv(name, "")  # so that monkeypatch takes back what is set meanwhile
        monkeypatch.delenv(name)


def test_telemetry_is_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "")
    disable_telemetry()
    assert {name: os.environ[name] for name in TELEMETRY_SWITCHES} == dict(TELEMETRY_SWITCHES)
    assert enabled_telemetry() == []


def test_telemetry_set_by_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    disable_telemetry()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    assert enabled_telemetry() == ["RAY_USAGE_STATS_ENABLED=1"]


@pytest.mark.parametrize(
    "module",
    [
        "mien.core.onnx_runtime",
        "mien.inference.classifier",
        "mien.inference.onnx_model",
        "mien.training.quantize",
        "mien.training.distillation",
    ],
)
def test_telemetry_is_off_before_onnx_runtime_is_imported(module: str) -> None:
    watching = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onnxruntime':\n"
        "            print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"import {module}\n"
        "from mien.core.onnx_runtime import onnxruntime\n"
    )
    answer = subprocess.run([sys.executable, "-c", watching], capture_output=True, text=True)
    assert answer.stdout == "1\n", answer.stderr
