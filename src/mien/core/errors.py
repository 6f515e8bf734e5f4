"""All exceptions of mien with their exit codes, and how names and values appear in messages.

::

    MienError                     1   something inside went wrong
    ├── UsageError                2   the call's words, options or values are off
    │   └── MissingExtra          2   an optional part is not installed
    ├── InputError                3   an input is missing or cannot be read
    │   ├── UnreadableImage       3   one image cannot be decoded
    │   ├── BarredAddress         3   a host is not on the open internet
    │   └── DataError             3   a data set is missing, empty or malformed
    ├── NoFaceError               4   no face in any input
    ├── ModelError                5   a model is missing, damaged or does not match its hash
    ├── OutputError               1   a result cannot be written (full disk, no permission)
    └── TrainingDiverged          1   the loss became NaN or infinite

A message is one line: what happened, what was expected, how to mend it.
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
    """Base of all errors that mien raises on purpose."""

    exit_code: int = EXIT_INTERNAL

    def __init__(self, *args: object) -> None:
        """Make the message one short line, whatever names and values are in it."""
        super().__init__(*(one_line(arg) if isinstance(arg, str) else arg for arg in args))


class UsageError(MienError, ValueError):
    """An argument, option or configuration value is invalid."""

    exit_code = EXIT_USAGE


class MissingExtra(UsageError):
    """An optional part of mien is not installed."""

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
    """Raise MissingExtra unless modules are installed, before work that needs them begins."""
    if any(find_spec(module) is None for module in modules):
        raise MissingExtra(extra, needed_for)


class InputError(MienError):
    """An input is missing or cannot be read."""

    exit_code = EXIT_INPUT


class UnreadableImage(InputError):
    """A file or a buffer is not an image, or is a damaged one."""


class BarredAddress(InputError):
    """A host that is not on the open internet and was not allowed."""


class DataError(InputError):
    """A data set is missing, empty or malformed."""


class NoFaceError(MienError):
    """No face was found where one was asked for."""

    exit_code = EXIT_NO_FACE


class ModelError(MienError):
    """A model is missing, damaged or does not match its hash."""

    exit_code = EXIT_MODEL


class OutputError(MienError):
    """A result cannot be written: no space, no permission, or a file in the way."""


class TrainingDiverged(MienError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


# ---------------------------------------------------------------- names and values in messages
LONGEST_NAME = 100
"""Most characters of a name or value in a message."""

LONGEST_MESSAGE = 800
"""Most characters of a message; its middle is cut."""

# Longer than any path that people write, so that a path is seldom cut.
_RUN = re.compile(r"\S{200,}")
# As repr() quotes a text, unlike the apostrophe in "the model's".
_QUOTED = re.compile(r"(?<!\w)(['\"])([^'\"]{120,})\1(?!\w)")
_ELLIPSIS = "…"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return which of some words one was meant to be: a misspelling of it, or its beginning.

    Dashes before an option and capitals do not count.
    """
    bare = {each.lstrip("-").casefold(): each for each in known}
    start = word.lstrip("-").casefold()
    longer = [each for each in bare if len(start) >= 3 and each.startswith(start)]
    near = difflib.get_close_matches(start, bare, n=1, cutoff=0.75)
    found = longer if len(longer) == 1 else near
    return bare[found[0]] if found else None


def expectation(word: str, known: Iterable[str]) -> str:
    """Return what an error says of an unknown word: the nearest known one, else all of them."""
    words = list(known)
    near = nearest(word, words)
    return f"expected one of {', '.join(words)}" if near is None else f"did you mean '{near}'?"


def printable(text: str) -> str:
    """Return ``text`` with control characters escaped, so that no file name steers a terminal."""
    return "".join(
        character
        if unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp")
        # Joiners are part of emoji and some scripts, and harmless.
        or character in "\u200c\u200d"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def shown(value: object) -> str:
    """Return a name or value for a message: printable, its middle cut to `LONGEST_NAME`."""
    text = str(value)
    # Only the ends are escaped, since the middle of a long text is cut anyway.
    ends = text if len(text) <= 2 * LONGEST_NAME else text[:LONGEST_NAME] + text[-LONGEST_NAME:]
    return _shortened(printable(ends), LONGEST_NAME)


def one_line(message: str) -> str:
    """Return a message printable and short; idempotent."""
    text = _QUOTED.sub(lambda quoted: f"'{shown(quoted[2])}'", printable(message))
    return _shortened(_RUN.sub(lambda run: shown(run[0]), text), LONGEST_MESSAGE)


def reason_of(error: BaseException) -> str:
    """Return why something failed, in a few words: the system's, else the error's own."""
    words = getattr(error, "strerror", None) or " ".join(str(error).split())
    return words or type(error).__name__


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    front = most // 3
    return text[:front] + _ELLIPSIS + text[front + 1 - most :]
