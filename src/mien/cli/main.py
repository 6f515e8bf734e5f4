"""The command ``mien``: runs a subcommand and turns its outcome into an exit code."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from mien import __version__
from mien.cli.options import ENVIRONMENT_VARIABLES, add_command
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
    require_extra,
)
from mien.core.files import redirect_library_caches
from mien.core.process import discard_native_stderr, open_closed_streams

if TYPE_CHECKING:
    Register: TypeAlias = Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None]

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
"""Commands in the order of ``mien --help``; all but ``completion`` are modules of `mien.cli`."""

_COMMON_FLAGS: Mapping[str, str] = {
    "--quiet": "print only errors on stderr: no progress, no notes",
    "--debug": "show the traceback of an error",
}
"""Flags of every command, with their help; they may stand before the command or after it."""

_DECODING_COMMANDS = frozenset(
    ("predict", "data", "finetune", "evaluate", "explain", "studio", "serve")
)
"""Commands that decode files with native libraries, which print to stderr on their own."""

_EPILOG = """\
A bare `mien photo.jpg` is `mien predict photo.jpg`; `mien COMMAND --help` has examples.

environment variables, which options override:
{variables}

exit codes: 0 done, 1 internal error, 2 usage, 3 input missing or unreadable, 4 no face in any
input, 5 model missing or damaged, 6 finished but some inputs failed, 130 interrupted"""

_INVALID_CHOICE = re.compile(r"argument (\S+): invalid choice: '(.*)' \(choose from .*\)")


class Parser(argparse.ArgumentParser):
    """Argument parser with one-line errors and without abbreviated options."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing the usage and exiting."""
        match = _INVALID_CHOICE.fullmatch(message)
        if match is not None:
            name, value = match[1], match[2]
            action = next((action for action in self._actions if name in _names(action)), None)
            choices = () if action is None else action.choices or ()
            kind = "command" if isinstance(action, argparse._SubParsersAction) else name
            message = f"unknown {kind} {value!r}: {expected_one_of(value, map(str, choices))}"
        raise UsageError(f"{message} (see '{self.prog} --help')")

    def reject(self, argument: str) -> NoReturn:
        """Raise UsageError for an unknown argument, with the option that was probably meant."""
        if not argument.startswith("-"):
            self.error(
                f"unexpected {argument!r}: put the inputs together, before or after the options"
            )
        options = [option for action in self._actions for option in action.option_strings]
        suggestion = closest_match(argument.split("=")[0], options)
        hint = f": did you mean '{suggestion}'?" if suggestion else ""
        self.error(f"unknown option {argument!r}{hint}")


def _names(action: argparse.Action) -> tuple[str, ...]:
    """Return the names that argparse may use for an option or an input in its errors."""
    return ("/".join(action.option_strings), str(action.metavar), action.dest)


def main(argv: Sequence[str] | None = None, *, registers: Sequence[Register] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: arguments after ``mien``; those of this process unless given.
        registers: functions that each add a subcommand; those of `COMMANDS` unless given.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    open_closed_streams()
    _escape_unencodable_output()
    redirect_library_caches()
    try:
        if registers is None:
            if "_ARGCOMPLETE" in os.environ:
                _complete()
            arguments = _insert_predict(arguments)
            registers = _find_registers(arguments)
        code = _run(build_parser(registers), arguments)
        write_stdout("")  # flushes now, so that a full disk is an error and no warning at exit
        return code
    except KeyboardInterrupt as interrupt:  # training adds what is saved and how to resume
        print(f"mien: {interrupt if interrupt.args else 'interrupted'}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `head` or a pager has closed the pipe. The rest must not be flushed at exit.
        discard_stdout()
        return EXIT_DONE
    except MienError as error:
        return _report(error, str(error), error.exit_code, debug=debug)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            name = str(error.filename)
            text = f"{name[:60]}...: this name of {len(name)} characters is too long for a file"
            return _report(error, text, EXIT_INPUT, debug=debug)
        hint = "" if debug else " (run again with --debug for the trace)"
        text = f"internal error: {type(error).__name__}: {error}{hint}"
        return _report(error, text, EXIT_INTERNAL, debug=debug)


def build_parser(registers: Sequence[Register] | None = None) -> Parser:
    """Build the parser of the command line; ``registers`` as in `main`."""
    variables = [(f"  {name}", text) for name, text in ENVIRONMENT_VARIABLES.items()]
    parser = Parser(
        prog="mien",
        description="Recognize the emotions of faces, and train the network that does.",
        epilog=_EPILOG.format(variables=key_value_text(variables, 18).rstrip()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mien {__version__}")
    parser_class: type[argparse.ArgumentParser] = Parser
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", parser_class=parser_class
    )
    for register in _find_registers(()) if registers is None else registers:
        register(commands)
    for subparser in _walk_parsers(parser):
        subparser.set_defaults(parser=subparser)
        # Without a default, an inner parser does not reset a flag given before the command.
        default = False if subparser is parser else argparse.SUPPRESS
        for flag, text in _COMMON_FLAGS.items():
            subparser.add_argument(flag, action="store_true", default=default, help=text)
    return parser


def _run(parser: Parser, arguments: Sequence[str]) -> int:
    try:
        args, unknown = parser.parse_known_args(arguments)
    except SystemExit:  # argparse has printed the help or the version
        return EXIT_DONE
    if unknown:
        args.parser.reject(unknown[0])
    if args.command is None:
        parser.print_help()
        return EXIT_DONE
    hide_native = args.command in _DECODING_COMMANDS and not args.debug
    with (
        discard_native_stderr() if hide_native else nullcontext(),
        log_to_stderr(quiet=args.quiet),
    ):
        return int(args.run(args))


# ---------------------------------------------------------------- commands
def _find_registers(arguments: Sequence[str]) -> list[Register]:
    """Return the function that adds the requested command, or those of all commands.

    Only the modules of these commands are imported.
    """
    # The flags before a command take no values.
    requested = next((word for word in arguments if not word.startswith("-")), None)
    names = (requested,) if requested in COMMANDS else COMMANDS
    return [
        _register_completion
        if name == "completion"
        else importlib.import_module(f"mien.cli.{name}").register
        for name in names
    ]


def _insert_predict(arguments: list[str]) -> list[str]:
    """Return the arguments, with "predict" inserted if they name an image and no command."""
    from mien.cli.paths import is_input

    first = next((word for word in arguments if word not in _COMMON_FLAGS), "")
    positionals = [word for word in arguments if word == "-" or not word.startswith("-")]
    if first in COMMANDS or not any(map(is_input, positionals)):
        return arguments
    # An argument after an option may be its value, which only the parser of predict can tell.
    is_bare = is_input(first) or (first.startswith("-") and not set(COMMANDS) & set(arguments))
    return ["predict", *arguments] if is_bare else arguments


def _walk_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and all parsers of its subcommands."""
    yield parser
    for action in parser._actions:  # argparse has no public way to list subparsers
        if isinstance(action, argparse._SubParsersAction):
            for subparser in dict.fromkeys(action.choices.values()):  # without aliases
                yield from _walk_parsers(subparser)


def _register_completion(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    parser = add_command(
        commands,
        "completion",
        help="complete commands and options in bash, zsh or fish",
        description="Print the shell code that completes mien's commands and options (needs the "
        "extra [completion]).",
        examples=(
            "mien completion bash >> ~/.bashrc",
            "mien completion zsh >> ~/.zshrc",
            "mien completion fish > ~/.config/fish/completions/mien.fish",
        ),
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")
    parser.set_defaults(run=_run_completion)


def _run_completion(args: argparse.Namespace) -> int:
    require_extra("completion", "argcomplete", needed_for="mien completion")
    from argcomplete.shell_integration import shellcode

    write_stdout(shellcode(["mien"], shell=args.shell))
    return EXIT_DONE


def _complete() -> None:
    """Print the completions that the shell asks for, and exit."""
    try:
        import argcomplete
    except ImportError:  # uninstalled since: the shell completes file names
        return
    argcomplete.autocomplete(build_parser())


# ---------------------------------------------------------------- errors
def _report(error: BaseException, text: str, code: int, *, debug: bool) -> int:
    """Print an error as one line on stderr, after its traceback if ``debug``; return ``code``."""
    if debug:
        traceback.print_exception(error)
    line = one_line(" ".join(text.split()))
    if not sys.stderr.isatty() or not _print_in_color(line):
        print(f"mien: {line}", file=sys.stderr)
    return code


def _print_in_color(line: str) -> bool:
    """Print an error with rich; return False if rich is missing."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return False
    text = Text.assemble(("mien:", "bold red"), " ", line)
    Console(file=sys.stderr).print(text, soft_wrap=True)
    return True


def _escape_unencodable_output() -> None:
    """Escape characters that the terminal's encoding lacks, as in file names."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
