"""What the library logs reaches stderr as the command line's own lines."""

from __future__ import annotations

import argparse
import logging

import pytest

from mien.cli.main import main


def _register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    def run(_: argparse.Namespace) -> int:
        logging.getLogger("mien.data.loading").warning("%d files\nskipped \x1b[31m", 3)
        return 0

    commands.add_parser("try").set_defaults(run=run)


def test_a_warning_is_one_line_as_errors_are(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["try"], registers=[_register]) == 0
        assert capsys.readouterr().err == "mien: 3 files skipped \\x1b[31m\n"


def test_quiet_keeps_warnings_away(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["try", "--quiet"], registers=[_register]) == 0
    assert capsys.readouterr().err == ""
    assert not logging.getLogger("mien").handlers
