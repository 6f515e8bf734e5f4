"""Runs the commands that documents show."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from mien.cli.main import main

_TRAINS = ("train", "finetune")
_NEEDS_SHELL = re.compile(r"[<>|&;$`]")


def run(line: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command line in a folder; return its exit code and all that it printed.

    Commands of mien run in this process, where TensorFlow is imported already, unless they train:
    the number of TensorFlow's threads is chosen once a process. The rest runs in a shell.
    """
    words = shlex.split(line)
    if words[0] != "mien" or words[1] in _TRAINS or _NEEDS_SHELL.search(line):
        return in_a_process(["bash", "-euo", "pipefail", "-c", line], folder)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("default")  # as in a program: only tests take warnings for errors
        patch.chdir(folder)
        for name, value in _environment(folder).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", words)
        code = main(words[1:])
    return code, "".join(capfd.readouterr())


def in_a_process(words: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run a program of this environment in a folder; as `run`."""
    scripts = str(Path(sys.executable).parent)
    path = scripts + os.pathsep + os.environ["PATH"]
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PATH": path, **_environment(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def _environment(folder: Path) -> dict[str, str]:
    return {"MPLBACKEND": "agg", "MIEN_HOME": str(folder / "cache")}
