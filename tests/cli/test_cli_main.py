"""The command line itself: help, errors, exit codes, imports."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from mien import __version__
from mien.__main__ import main as run_module_main
from mien.cli.main import COMMANDS, _insert_predict, _walk_parsers, build_parser, main
from mien.core import errors

HEAVY = (
    *("numpy", "cv2", "onnxruntime", "PIL", "keras", "tensorflow", "matplotlib", "sklearn"),
    *("onnx", "fastapi", "starlette", "uvicorn", "prometheus_client", "rich"),
)


def registering(run: Callable[[argparse.Namespace], int]) -> list[Callable[..., None]]:
    """The one command ``work`` with an inner ``work hard``, for a test to run."""

    def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        work = commands.add_parser("work")
        work.add_argument("--format", choices=["json", "csv"])
        work.add_argument("things", nargs="*")
        work.set_defaults(run=run)
        inner = commands.add_parser("job").add_subparsers(metavar="ACTION", required=True)
        inner.add_parser("hard").set_defaults(run=run)

    return [register]


def outcome(error: BaseException, arguments: Sequence[str] = ("work",)) -> int:
    def run(_: argparse.Namespace) -> int:
        raise error

    return main(arguments, registers=registering(run))


def mien(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    settings = {"capture_output": True, "text": True, "timeout": 60, **options}
    return subprocess.run([sys.executable, "-m", "mien", *arguments], **settings)  # type: ignore[call-overload, no-any-return]


def test_version_option_prints_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mien {__version__}\n"


def test_mien_without_arguments_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: mien")
    for name in COMMANDS:
        assert f"    {name}" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_the_common_flags(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "--quiet" in out
    assert "--debug" in out


PARSERS = [parser for parser in _walk_parsers(build_parser()) if parser.prog != "mien"]


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.prog)
def test_examples_in_help_can_be_parsed(parser: argparse.ArgumentParser) -> None:
    examples = re.findall(r"^  (mien .+)$", (parser.epilog or "").split("examples:")[1], re.M)
    assert 2 <= len(examples) <= 4
    for line in examples:
        assert len(line) < 79
        if not parser.prog.endswith(" data"):
            assert line.startswith(parser.prog)
        build_parser().parse_args(shlex.split(line.split(" >")[0])[1:])


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.prog)
def test_usage_is_short_and_defaults_are_shown_uniformly(parser: argparse.ArgumentParser) -> None:
    assert len(parser.format_usage().splitlines()) <= 3
    for action in parser._actions:
        text = action.help or ""
        assert "(%(default)" not in text
        if action.default not in (None, False, [], argparse.SUPPRESS):
            assert "default: %(default)" in text, action.option_strings


@pytest.mark.parametrize(
    ("arguments", "completed"),
    [
        ("photo.jpg", "predict photo.jpg"),
        ("photos", "predict photos"),
        ("photos/*.png", "predict photos/*.png"),
        ("- --format csv", "predict - --format csv"),
        ("https://example.org/a", "predict https://example.org/a"),
        ("0", "predict 0"),
        ("gone.jpg", "predict gone.jpg"),
        ("--quiet notes", "predict --quiet notes"),
        ("--format csv photo.jpg", "predict --format csv photo.jpg"),
        ("predict photo.jpg", "predict photo.jpg"),
        ("data", "data"),  # also a folder here, which a command's name is before
        ("predct photo.jpg", "predct photo.jpg"),
        ("--formt csv predict photo.jpg", "--formt csv predict photo.jpg"),
        ("nothing*", "nothing*"),
        ("--version", "--version"),
        ("", ""),
    ],
)
def test_predict_is_inserted_before_a_bare_image(
    arguments: str, completed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "data"):
        Path(folder).mkdir()
    for name in ("photo.jpg", "photos/a.png", "notes"):
        Path(name).write_bytes(b"")
    assert _insert_predict(arguments.split()) == completed.split()


def test_the_short_form_reads_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["gone.jpg"]) == errors.EXIT_INPUT
    assert "gone.jpg" in capsys.readouterr().err
    assert main(["predct", "gone.jpg"]) == errors.EXIT_USAGE
    assert "did you mean 'predict'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "quiet", "debug"),
    [
        (["work"], False, False),
        (["--quiet", "work"], True, False),
        (["work", "--quiet"], True, False),
        (["--debug", "work", "--quiet"], True, True),
        (["job", "hard", "--debug"], False, True),
        (["--quiet", "job", "--debug", "hard"], True, True),
    ],
)
def test_common_flags_stand_before_or_after_the_command(
    arguments: list[str], quiet: bool, debug: bool
) -> None:
    seen: list[tuple[bool, bool]] = []

    def run(args: argparse.Namespace) -> int:
        seen.append((args.quiet, args.debug))
        return 0

    assert main(arguments, registers=registering(run)) == 0
    assert seen == [(quiet, debug)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.MienError("m"), 1),
        (errors.UsageError("m"), 2),
        (errors.MissingExtra("train", "training"), 2),
        (errors.InputError("m"), 3),
        (errors.UnreadableImage("m"), 3),
        (errors.DataError("m"), 3),
        (errors.NoFaceError("m"), 4),
        (errors.ModelError("m"), 5),
        (errors.OutputError("m"), 1),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("m"), 1),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(error) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mien: ")
    assert captured.err.count("\n") == 1


def test_the_exit_code_of_a_command_is_returned() -> None:
    assert main(["work"], registers=registering(lambda _: 6)) == 6


def test_an_internal_error_suggests_debug(capsys: pytest.CaptureFixture[str]) -> None:
    outcome(ValueError("two\nlines"))
    line = "internal error: ValueError: two lines (run again with --debug for the trace)"
    assert capsys.readouterr().err == f"mien: {line}\n"


@pytest.mark.parametrize("error", [ValueError("oops"), errors.ModelError("oops")])
def test_debug_shows_the_trace(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    outcome(error, ["work", "--debug"])
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "oops" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wrk"], "mien: unknown command 'wrk': did you mean 'work'? (see 'mien --help')"),
        (["zzz"], "mien: unknown command 'zzz': expected one of work, job (see 'mien --help')"),
        (
            ["work", "--formt", "csv"],
            "mien: unknown option '--formt': did you mean '--format'? (see 'mien work --help')",
        ),
        (["job", "hard", "--qiet"], "did you mean '--quiet'? (see 'mien job hard --help')"),
        (["work", "--form", "csv"], "unknown option '--form': did you mean '--format'?"),
        (["work", "--format", "xml"], "unknown --format 'xml': expected one of json, csv"),
        (["work", "a", "--format", "csv", "b"], "unexpected 'b': put the inputs together"),
        (["work", "--recursive"], "mien: unknown option '--recursive' (see 'mien work --help')"),
        (["work", "--fo", "csv"], "mien: unknown option '--fo' (see 'mien work --help')"),
        (["work", "--format", "csvv"], "mien: unknown --format 'csvv': did you mean 'csv'?"),
        (["--verson"], "mien: unknown option '--verson': did you mean '--version'?"),
        (["job", "hrd"], "mien: unknown command 'hrd': did you mean 'hard'? (see 'mien job"),
        (["job"], "required: ACTION (see 'mien job --help')"),
        (["--verbose"], "mien: unknown option '--verbose' (see 'mien --help')"),
    ],
)
def test_a_usage_error_is_one_line_with_a_hint(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, registers=registering(lambda _: 0)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_help_imports_no_heavy_packages() -> None:
    code = (
        "import sys\n"
        "from mien.cli.main import main\n"
        "assert main(['--help']) == 0\n"
        "assert main(['predict', '--help']) == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_python_m_mien_is_the_command() -> None:
    assert mien("--version").stdout == f"mien {__version__}\n"
    assert mien("nonsense").returncode == 2


def test_a_closed_pipe_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = mien("--help", capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_stdout_is_one_line() -> None:
    # Buffered as by default, so that the rest is written at exit.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = mien(
            "--help", capture_output=False, stdout=full, stderr=subprocess.PIPE, env=buffered
        )
    assert done.returncode == 1
    text = f"mien: cannot write to standard output: {os.strerror(errno.ENOSPC)}\n"
    assert done.stderr == text


def test_names_are_escaped_on_an_ascii_terminal() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = mien("größe", env=environment)
    assert done.returncode == 2
    assert "gr\\xf6\\xdfe" in done.stderr


def logging_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    def run(_: argparse.Namespace) -> int:
        logging.getLogger("mien.data.loading").warning("%d files\nskipped \x1b[31m", 3)
        return 0

    commands.add_parser("try").set_defaults(run=run)


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["try"], registers=[logging_command]) == 0
        assert capsys.readouterr().err == "mien: 3 files skipped \\x1b[31m\n"


def test_quiet_hides_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["try", "--quiet"], registers=[logging_command]) == 0
    assert capsys.readouterr().err == ""
    assert not logging.getLogger("mien").handlers


def test_errors_on_a_terminal_are_colored_unless_no_color_is_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    line = f"{'no such file ' * 20}[b]x[/b]"
    outcome(errors.InputError(line))
    assert capsys.readouterr().err.startswith("\x1b[1;31mmien:\x1b[0m no such file")
    monkeypatch.setenv("NO_COLOR", "1")
    outcome(errors.InputError(line))
    assert "31m" not in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "rich.console", None)
    outcome(errors.InputError(line))
    assert capsys.readouterr().err == f"mien: {line}\n"


def test_ctrl_c_while_the_command_is_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "mien.cli.main", Interrupted("mien.cli.main"))
    assert run_module_main() == 130
    assert capsys.readouterr() == ("", "mien: interrupted\n")
