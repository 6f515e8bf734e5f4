"""``mien completion``: what a shell runs to complete commands and options."""

from __future__ import annotations

import argparse

from mien.cli.options import add_command
from mien.cli.output import write_stdout
from mien.core.errors import EXIT_DONE, require_extra


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``completion``."""
    parser = add_command(
        commands,
        "completion",
        help="complete commands and options in bash, zsh or fish",
        description="Print what a shell runs to complete mien's commands and options (needs the "
        "extra [completion]).",
        examples=(
            "mien completion bash >> ~/.bashrc",
            "mien completion zsh >> ~/.zshrc",
            "mien completion fish > ~/.config/fish/completions/mien.fish",
        ),
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    require_extra("completion", "argcomplete", needed_for="mien completion")
    from argcomplete.shell_integration import shellcode

    write_stdout(shellcode(["mien"], shell=args.shell))
    return EXIT_DONE
