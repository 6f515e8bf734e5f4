"""`mien completion`, and the completions themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mien.core.errors import EXIT_DONE, EXIT_USAGE
from predict_maker import Mien


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(mien: Mien, shell: str) -> None:
    pytest.importorskip("argcomplete")
    done = mien("completion", shell)
    assert (done.code, done.err) == (EXIT_DONE, "")
    assert "_ARGCOMPLETE" in done.out
    assert "mien" in done.out


def test_an_unknown_shell_and_a_missing_extra_are_rejected(
    mien: Mien, monkeypatch: pytest.MonkeyPatch
) -> None:
    mien("completion", "csh").assert_error(EXIT_USAGE, "unknown shell 'csh'")
    monkeypatch.setattr("mien.core.errors.find_spec", lambda _: None)
    mien("completion", "bash").assert_error(EXIT_USAGE, "pip install 'mien[completion]'")


@pytest.mark.skipif(sys.platform == "win32", reason="argcomplete answers on descriptor 8")
@pytest.mark.parametrize(
    ("line", "answered"),
    [
        ("mien pre", {"predict"}),
        ("mien data im", {"import"}),
        ("mien predict --tim", {"--timeline", "--timeout"}),
        ("mien predict a.jpg --format j", {"json", "jsonl"}),
    ],
)
def test_commands_options_and_values_are_completed(
    line: str, answered: set[str], tmp_path: Path
) -> None:
    pytest.importorskip("argcomplete")
    request = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answer"),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    command = [sys.executable, "-m", "mien"]
    subprocess.run(command, env={**os.environ, **request}, timeout=60, check=True)
    assert set((tmp_path / "answer").read_text(encoding="utf-8").split()) == answered
