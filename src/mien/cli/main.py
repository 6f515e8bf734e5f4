"""The command ``mien``: runs one subcommand and turns every outcome into an exit code."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from mien import __version__
from mien.cli.options import ENVIRONMENT_VARIABLES
from mien.cli.output import discard_stdout, key_value_text, log_to_stderr, write_stdout
from mien.core.errors import (
    EXIT_DONE,
    EXIT_INPUT,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    MienError,
    UsageError,
    closest_match,
    expected_one_of,
    one_line,
)
from mien.core.files import redirect_library_caches
from mien.core.process import discard_native_stderr, open_closed_streams

COMMANDS: tuple[str, ...] = (
    "predict",
    "data",
    "train",
    "finetune",
    "evaluate",
    "export",
    "models",
    "bench",
    "explain",
    "studio",
    "serve",
    "doctor",
    "completion",
)
"""Modules beside this one, in the order in which ``mien --help`` shows them."""

_FLAGS = ("--quiet", "--debug")
"""Of every command: they stand before it or after it."""

_DECODING = frozenset(("predict", "data", "finetune", "evaluate", "explain", "studio", "serve"))
"""Commands that decode files, of which native libraries have something to say."""

if TYPE_CHECKING:
    Register: TypeAlias = Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None]

_EPILOG = """\
A bare `mien photo.jpg` is `mien predict photo.jpg`; `mien COMMAND --help` has examples.

environment variables, which options win over:
{variables}

exit codes: 0 done, 1 internal error, 2 usage, 3 input missing or unreadable, 4 no face in any
input, 5 model missing or damaged, 6 finished but some inputs failed, 130 interrupted"""


_INVALID_CHOICE = re.compile(r"argument (\S+): invalid choice: '(.*)' \(choose from .*\)")


def _names_of(action: argparse.Action) -> tuple[str, ...]:
    """Return what argparse's errors may call an option or an input."""
    return ("/".join(action.option_strings), str(action.metavar), action.dest)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line with a hint, and which takes no abbreviated options."""

    def __init__(self, **settings: Any) -> None:
        """Take the settings of `argparse.ArgumentParser`, all by name."""
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)

    def error(self, message: str) -> NoReturn:
        """Raise the error instead of printing the usage."""
        wrong = _INVALID_CHOICE.fullmatch(message)
        if wrong is not None:
            name, word = wrong[1], wrong[2]
            choices = next(
                (each.choices for each in self._actions if name in _names_of(each)), None
            )
            message = f"unknown {name} {word!r}: {expected_one_of(word, map(str, choices or ()))}"
        raise UsageError(f"{message} (see '{self.prog} --help')")


def main(argv: Sequence[str] | None = None, *, registers: Sequence[Register] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after ``mien``; those of this process unless given.
        registers: functions that add a subcommand each; those of `COMMANDS` unless given.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    open_closed_streams()
    _forgive_unprintable_characters()
    redirect_library_caches()
    try:
        if "_ARGCOMPLETE" in os.environ and registers is None:
            _complete()
        if registers is None:
            words = _with_predict(words)
            registers = _registers(words)
        code = _run(build_parser(registers), words)
        # Writes what is buffered: a full disk is an error now and not a warning at exit.
        write_stdout("")
        return code
    except KeyboardInterrupt as stop:  # training says what is saved and how to go on
        print(f"mien: {stop if stop.args else 'interrupted'}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, a pager) has seen enough. What is left must not be flushed at exit.
        discard_stdout()
        return EXIT_DONE
    except MienError as error:
        return _report(error, error.exit_code, debug=debug)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            # Whatever the name is of: no file that could be read or written has it.
            return _report(error, EXIT_INPUT, debug=debug, text=_too_long(error))
        text = f"internal error: {type(error).__name__}: {error}"
        hint = "" if debug else " (run again with --debug for the trace)"
        return _report(error, EXIT_INTERNAL, debug=debug, text=text + hint)


def build_parser(registers: Sequence[Register] | None = None) -> Parser:
    """Return the parser of the whole command line; `main` says what ``registers`` are."""
    listed = [(f"  {name}", text) for name, text in ENVIRONMENT_VARIABLES.items()]
    parser = Parser(
        prog="mien",
        description="Read the emotions of faces, and train the network that does.",
        epilog=_EPILOG.format(variables=key_value_text(listed, 18).rstrip()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mien {__version__}")
    family: type[argparse.ArgumentParser] = Parser
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", parser_class=family
    )
    for register in _registers(()) if registers is None else registers:
        register(commands)
    for each in _with_subparsers(parser):
        # Only the outermost has a default, so that an inner parser never undoes an outer flag.
        default = False if each is parser else argparse.SUPPRESS
        for flag, text in (
            ("--quiet", "no progress and no notes on stderr, errors alone"),
            ("--debug", "show the trace of an error"),
        ):
            each.add_argument(flag, action="store_true", default=default, help=text)
    return parser


def _complete() -> None:
    """Answer the shell that asks how a word may go on, and end: see `mien.cli.completion`."""
    try:
        import argcomplete
    except ImportError:  # removed since: the shell completes names of files
        return
    argcomplete.autocomplete(build_parser())


def _registers(words: Sequence[str]) -> list[Register]:
    """Return what adds the command that is asked for, or all of them: a module is imported each."""
    asked = _first_command(words)
    names = (asked,) if asked in COMMANDS else COMMANDS
    return [importlib.import_module(f"mien.cli.{name}").register for name in names]


def _first_command(words: Sequence[str]) -> str | None:
    """Return the command among the words; the flags before it take no values."""
    return next((word for word in words if not word.startswith("-")), None)


def _run(parser: Parser, words: Sequence[str]) -> int:
    _refuse_unknown_command(parser, words)
    try:
        args, unknown = parser.parse_known_args(words)
    except SystemExit:  # argparse has printed what --help or --version ask for
        return EXIT_DONE
    if args.command is None:
        if unknown:
            _refuse_leftovers(parser, unknown)
        parser.print_help()
        return EXIT_DONE
    if unknown:
        _refuse_leftovers(_chosen_parser(parser, words), unknown)
    plain = args.command in _DECODING and not args.debug
    with discard_native_stderr() if plain else nullcontext(), log_to_stderr(quiet=args.quiet):
        return int(args.run(args))


def _with_predict(words: list[str]) -> list[str]:
    """Return the words with "predict" before them where there is an image instead of a command."""
    from mien.cli.paths import is_input

    first = next((word for word in words if word not in _FLAGS), "")
    given = [word for word in words if word == "-" or not word.startswith("-")]
    if first in COMMANDS or not any(map(is_input, given)):
        return words
    # Options may come first: which of the words after them are values, predict knows.
    starts = is_input(first) or (first.startswith("-") and not set(COMMANDS) & set(words))
    return ["predict", *words] if starts else words


def _refuse_unknown_command(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Say which command was probably meant."""
    for name in (word for word in words if not word.startswith("-")):
        commands = _subparsers(parser)
        if not commands:
            return
        if name not in commands:
            parser.error(f"unknown command {name!r}: {expected_one_of(name, commands)}")
        parser = commands[name]


def _refuse_leftovers(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    """Name the first word that no parser took, and the option it was probably meant to be."""
    word = unknown[0]
    if not word.startswith("-"):
        parser.error(f"unexpected {word!r}: put the inputs together, before or after the options")
    options = [option for action in parser._actions for option in action.option_strings]
    near = closest_match(word.split("=")[0], options)
    parser.error(f"unknown option {word!r}" + (f": did you mean '{near}'?" if near else ""))


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    # argparse has no public way to ask a finished parser for its subparsers.
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _with_subparsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    # A command may have several names; each parser is visited once.
    for child in dict.fromkeys(_subparsers(parser).values()):
        yield from _with_subparsers(child)


def _chosen_parser(parser: Parser, words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the innermost parser that the words lead to, for its name and options in a hint."""
    chosen: argparse.ArgumentParser = parser
    for word in words:
        chosen = _subparsers(chosen).get(word, chosen)
    return chosen


def _report(error: BaseException, code: int, *, debug: bool, text: str | None = None) -> int:
    """Print an error as one line on stderr, after its trace where that is asked for."""
    if debug:
        traceback.print_exception(error)
    line = one_line(" ".join(str(error if text is None else text).split()))
    if not sys.stderr.isatty() or not _print_in_colour(line):
        print(f"mien: {line}", file=sys.stderr)
    return code


def _print_in_colour(line: str) -> bool:
    """Print an error on the terminal, as rich does; False where rich itself is missing."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return False
    text = Text.assemble(("mien:", "bold red"), " ", line)
    Console(file=sys.stderr).print(text, soft_wrap=True)
    return True


def _too_long(error: OSError) -> str:
    name = str(error.filename)
    return f"{name[:60]}...: this name of {len(name)} characters is too long for a file"


def _forgive_unprintable_characters() -> None:
    """Let a file name that the terminal's encoding lacks come out escaped rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
