"""Signals end a run, with one line, exit code 130 and no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends signals as on Unix")

# The command, that says when a recognizer has come to the first image, which never ends: in a file,
# since what workers write to stderr goes nowhere.
HANGING = """
import ctypes, pathlib, sys, time
from mien.inference.recognizer import Recognizer
def hang(self, images, **options):
    pathlib.Path(__file__).with_name("reading").touch()
    HOW
Recognizer.analyze_many = hang
if __name__ == "__main__":
    from mien.cli.main import main
    sys.exit(main(sys.argv[1:]))
"""
SLEEPS = "time.sleep(1000)"
KEEPS_THE_LOCK = "ctypes.PyDLL(None).sleep(1000)"
COUNTED = "0 images done: add --resume to continue with the others\n"


@pytest.fixture
def start(
    tmp_path: Path, tiny_model: Path, make_pictures: Callable[..., list[str]]
) -> Callable[..., subprocess.Popen[str]]:
    """Start the command in a new process group, as a terminal does."""
    make_pictures(tmp_path / "d", 80)

    def run(how: str, workers: int, *words: str) -> subprocess.Popen[str]:
        # A file, which workers can import again; what is patched in it is patched in them.
        (tmp_path / "command.py").write_text(HANGING.replace("HOW", how))
        options = ["--model", str(tiny_model), "--detector", "none", "--workers", str(workers)]
        command = [sys.executable, str(tmp_path / "command.py"), "predict", str(tmp_path / "d")]
        return subprocess.Popen(
            [*command, *options, *words, "--output", str(tmp_path / "r.csv")],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return run


def is_alive(group: int) -> bool:
    """Return True if a process group has a process other than zombies."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True)
    states = [line.split() for line in listed.stdout.splitlines()]
    return any(state[0] == str(group) and state[1][0] != "Z" for state in states)


def no_process_is_left(group: int) -> None:
    until(lambda: not is_alive(group))


def wait_until_it_reads(process: subprocess.Popen[str], folder: Path) -> None:
    until((folder / "reading").exists)
    assert process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "workers", "name"),
    [
        (SLEEPS, 1, "SIGINT"),
        (SLEEPS, 1, "SIGTERM"),
        (SLEEPS, 2, "SIGINT"),
        (KEEPS_THE_LOCK, 2, "SIGINT"),
        (SLEEPS, 2, "SIGHUP"),
    ],
)
def test_signals_end_all_processes(
    start: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    how: str,
    workers: int,
    name: str,
) -> None:
    process = start(how, workers)
    wait_until_it_reads(process, tmp_path)
    for _ in range(2):  # as an impatient user does
        os.killpg(process.pid, getattr(signal, name))
        time.sleep(0.1)
    _, rest = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, rest
    assert rest == COUNTED + "mien: interrupted\n"
    no_process_is_left(process.pid)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot promise it")
def test_workers_holding_the_gil_end_with_their_parent(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start(KEEPS_THE_LOCK, 2)
    wait_until_it_reads(process, tmp_path)
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    no_process_is_left(process.pid)


@pytest.mark.slow
def test_signal_while_workers_start_is_silent(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    for moment in range(6):
        process = start(SLEEPS, 4)
        wait_until_workers_start(process)
        time.sleep(moment * 0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, rest = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130, rest
        assert rest == COUNTED + "mien: interrupted\n"
        no_process_is_left(process.pid)


def wait_until_workers_start(process: subprocess.Popen[str]) -> None:
    until(lambda: len(children(process.pid)) >= 2)


def children(parent: int) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "ppid="], capture_output=True, text=True)
    return [line for line in listed.stdout.split() if line == str(parent)]
