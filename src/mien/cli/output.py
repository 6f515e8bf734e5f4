"""What commands print and write: JSON, CSV, aligned tables, notes; on stdout or into a file."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mien.core.errors import OutputError, one_line
from mien.core.files import replace_atomically
from mien.core.formats import display_width, json_text


# ---------------------------------------------------------------- forms
def key_value_text(rows: Iterable[tuple[str, str]], width: int = 12) -> str:
    """Return named facts, one a line, the names in a column of ``width``."""
    return "".join(f"{name:<{width}} {value}\n" for name, value in rows)


def bar(share: float, width: int = 10, *, plain: bool = False) -> str:
    """Return a bar of ``width`` columns, filled by ``share`` (0 to 1); ``plain`` is ASCII."""
    filled = round(min(1.0, max(0.0, share)) * width)
    full, empty = ("#", ".") if plain else ("█", "░")
    return full * filled + empty * (width - filled)


def shorten(text: str, width: int) -> str:
    """Return ``text`` cut at its front to ``width`` columns, since the end of a path tells most."""
    if display_width(text) <= width:
        return text
    kept = ""
    for character in reversed(text):
        if display_width(character + kept) > width - 1:
            break
        kept = character + kept
    return "…" + kept


# ---------------------------------------------------------------- stdout and files
def stdout_supports(text: str) -> bool:
    """Say whether stdout's encoding has all characters of ``text``."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def use_utf8_stdout() -> None:
    """Make stdout UTF-8 whatever the locale is, as JSON has to be and CSV had better be."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The halves of a file name that is not UTF-8 come out as JSON's own escapes.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def write_stdout(text: str) -> None:
    """Write data to stdout.

    Raises:
        BrokenPipeError: if nobody reads any more; `mien.cli.main` takes that as the end.
        OutputError: if it cannot be written otherwise.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def write_answer(value: object, text: str, *, as_json: bool) -> None:
    """Write a command's result to stdout: as indented JSON, or as the text that people read."""
    write_stdout(json_text(value) + "\n" if as_json else text)


def discard_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's own last flush cannot fail."""
    try:
        number = sys.stdout.fileno()
    except OSError:  # a stream of another program's, which is no file
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, number)
    finally:
        os.close(nowhere)


@contextmanager
def output_file(path: Path) -> Iterator[TextIO]:
    """Open a file to write as UTF-8, which takes its name when it is complete.

    Devices and pipes are written straight. A link stays one: what it leads to is replaced.

    Raises:
        OutputError: if it cannot be written; what stood there before is untouched.
    """
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder, expected a file's name")
    if path.exists() and not path.is_file():
        try:
            with _opened(path) as device:
                yield device
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error
        return
    with (
        replace_atomically(path.resolve() if path.is_symlink() else path) as temporary,
        _opened(temporary) as file,
    ):
        yield file


def write_output(path: Path, text: str) -> None:
    """Write a text into a file, as `output_file` does."""
    with output_file(path) as file:
        file.write(text)


def _opened(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


# ---------------------------------------------------------------- stderr
def can_show_progress(args: argparse.Namespace, shape: str) -> bool:
    """Say whether the terminal is free for what is drawn while results of a shape come."""
    streams = args.output is None and shape != "table" and sys.stdout.isatty()
    return not args.quiet and not streams and sys.stderr.isatty()


def note(text: str, *, quiet: bool) -> None:
    """Say something in one line on stderr, unless quiet is asked for."""
    if not quiet:
        print(one_line(" ".join(text.split())), file=sys.stderr)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        note(f"mien: {record.getMessage()}", quiet=False)


@contextmanager
def log_to_stderr(*, quiet: bool, name: str = "mien") -> Iterator[None]:
    """Show the library's warnings as lines on stderr while a command runs.

    Args:
        quiet: errors alone.
        name: the logger's; another package's where a command uses it.
    """
    with log_handler(name, _Notes(logging.ERROR if quiet else logging.WARNING)):
        yield


@contextmanager
def log_handler(name: str, handler: logging.Handler) -> Iterator[None]:
    """Give a logger a handler for a while."""
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
