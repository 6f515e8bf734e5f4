"""Exceptions with their exit codes, and the formatting of names and values in messages.

::

    MienError                     1   internal error
    ├── UsageError                2   an argument, option or configuration value is invalid
    │   └── MissingExtra          2   an optional dependency is not installed
    ├── InputError                3   an input is missing or cannot be read
    │   ├── UnreadableImage       3   one image cannot be decoded
    │   ├── PrivateAddressError   3   a host is not on the public internet
    │   └── DataError             3   a data set is missing, empty or malformed
    ├── NoFaceError               4   no face in any input
    ├── ModelError                5   a model is missing, damaged or does not match its hash
    ├── OutputError               1   a result cannot be written (full disk, no permission)
    └── TrainingDiverged          1   the loss became NaN or infinite

A message is one line: what happened, what was expected, how to fix it.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

EXIT_DONE = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_INPUT = 3
EXIT_NO_FACE = 4
EXIT_MODEL = 5
EXIT_PARTIAL = 6
EXIT_INTERRUPTED = 130


class MienError(Exception):
    """Base class of all errors that mien raises on purpose."""

    exit_code: int = EXIT_INTERNAL

    def __init__(self, *args: object) -> None:
        """Make the message printable, one line long and short."""
        super().__init__(*(one_line(arg) if isinstance(arg, str) else arg for arg in args))


class UsageError(MienError, ValueError):
    """An argument, option or configuration value is invalid."""

    exit_code = EXIT_USAGE


class MissingExtra(UsageError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, needed_for: str) -> None:
        self.extra = extra
        on_a_gpu = ", or 'mien[train-gpu]' for an NVIDIA GPU" if extra == "train" else ""
        super().__init__(
            f"{needed_for} needs the extra [{extra}], which is not installed: "
            f"pip install 'mien[{extra}]'{on_a_gpu}"
        )


@contextmanager
def needs_extra(extra: str, needed_for: str) -> Iterator[None]:
    """Wrap imports of an extra's packages; raises MissingExtra if one is not installed."""
    try:
        yield
    except ImportError as error:
        raise MissingExtra(extra, needed_for) from error


def require_extra(extra: str, *modules: str, needed_for: str) -> None:
    """Raise MissingExtra unless all modules are installed; does not import them."""
    if any(find_spec(module) is None for module in modules):
        raise MissingExtra(extra, needed_for)


class InputError(MienError):
    """An input is missing or cannot be read."""

    exit_code = EXIT_INPUT


class UnreadableImage(InputError):
    """A file or buffer is not an image, or a damaged one."""


class PrivateAddressError(InputError):
    """A host is not on the public internet, and was not explicitly allowed."""


class DataError(InputError):
    """A data set is missing, empty or malformed."""


class NoFaceError(MienError):
    """No face was found where one was required."""

    exit_code = EXIT_NO_FACE


class ModelError(MienError):
    """A model is missing, damaged or does not match its hash."""

    exit_code = EXIT_MODEL


class OutputError(MienError):
    """A result cannot be written: no space, no permission, or a file in the way."""


class TrainingDiverged(MienError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


# ---------------------------------------------------------------- names and values in messages
MAX_NAME = 100
"""Limit on the characters of a name or value in a message."""

MAX_MESSAGE = 800
"""Limit on the characters of a message."""

# Longer than common paths, which should not be cut.
_LONG_RUN = re.compile(r"\S{200,}")
# A text quoted by repr(), as opposed to the apostrophe in "the model's".
_LONG_QUOTE = re.compile(r"(?<!\w)(['\"])([^'\"]{120,})\1(?!\w)")
_ELLIPSIS = "…"


def closest_match(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a misspelt or abbreviated one probably means, or None.

    Leading dashes of options and case are ignored.
    """
    bare = {known_name.lstrip("-").casefold(): known_name for known_name in known}
    start = name.lstrip("-").casefold()
    longer = [candidate for candidate in bare if len(start) >= 3 and candidate.startswith(start)]
    close = difflib.get_close_matches(start, bare, n=1, cutoff=0.75)
    matches = longer if len(longer) == 1 else close
    return bare[matches[0]] if matches else None


def expected_one_of(name: str, known: Iterable[str]) -> str:
    """Return the hint for an unknown name: the closest known name, else all of them."""
    names = list(known)
    match = closest_match(name, names)
    return f"expected one of {', '.join(names)}" if match is None else f"did you mean '{match}'?"


def printable(text: str) -> str:
    """Escape control characters, so that no file name can send commands to a terminal."""
    return "".join(
        character
        if unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp")
        # Joiners are harmless, and part of emoji and some scripts.
        or character in "\u200c\u200d"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def abbreviate(value: object) -> str:
    """Format a name or value for a message: printable, its middle cut to `MAX_NAME` characters."""
    text = str(value)
    # The middle of a long text is cut anyway, so only its ends are escaped.
    ends = text if len(text) <= 2 * MAX_NAME else text[:MAX_NAME] + text[-MAX_NAME:]
    return _cut_middle(printable(ends), MAX_NAME)


def one_line(message: str) -> str:
    """Make a message printable, one line long and at most `MAX_MESSAGE` characters; idempotent."""
    text = _LONG_QUOTE.sub(lambda match: f"'{abbreviate(match[2])}'", printable(message))
    return _cut_middle(_LONG_RUN.sub(lambda match: abbreviate(match[0]), text), MAX_MESSAGE)


def error_reason(error: BaseException) -> str:
    """Return the operating system's description of an error, else the error's own message."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return reason or type(error).__name__


def _cut_middle(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    front = limit // 3
    return text[:front] + _ELLIPSIS + text[front + 1 - limit :]
