"""From the words on the command line to images: files, folders, patterns, standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mien.core.errors import UsageError

STDIN = "-"
"""The word that means one image from standard input."""

IMAGE_SUFFIXES: tuple[str, ...] = (
    ".avif",
    ".bmp",
    ".gif",
    ".ico",
    ".j2k",
    ".jp2",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".mpo",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
"""What counts as an image in a folder; a file that is named is tried whatever its suffix."""


@dataclass(frozen=True)
class Input:
    """One thing to look at.

    Attributes:
        source: its name in the results: a path as it was given or found, or ``-``.
        content: the path or the bytes to read it from; None where there is nothing to read.
        problem: why there is nothing, in one line; None otherwise.
    """

    source: str
    content: str | bytes | None = None
    problem: str | None = None


def find_inputs(words: Sequence[str]) -> list[Input]:
    """Return the images that the words mean, in their order.

    A file means itself, a folder all images in it and below it (hidden ones aside, sorted), a
    pattern with ``*``, ``?``, ``[…]`` or ``**`` what it matches (sorted), ``-`` the image on
    standard input. A word that leads to nothing becomes an `Input` with a problem.

    Raises:
        UsageError: if ``-`` is given twice, or where standard input is a terminal.
    """
    if words.count(STDIN) > 1:
        raise UsageError("'-' is given twice: standard input holds one image")
    return [found for word in words for found in _expand(word)]


def is_single(words: Sequence[str]) -> bool:
    """Say whether the words name exactly one image, whatever there is: no folder, no pattern."""
    return len(words) == 1 and not (_is_pattern(words[0]) or _is_dir(words[0]))


def _expand(word: str) -> Iterator[Input]:
    if word == STDIN:
        yield _read_stdin()
    elif _is_dir(word):
        yield from _in_folder(word)
    elif _is_pattern(word):
        yield from _matching(word)
    elif "://" in word:
        problem = "is an address: download it and give the file, or pipe it into 'mien predict -'"
        yield Input(word, problem=f"{word} {problem}")
    else:
        yield Input(word, content=word)


def _is_dir(word: str) -> bool:
    return os.path.isdir(word)  # noqa: PTH112 - Path.is_dir raises where a name is too long


def _is_pattern(word: str) -> bool:
    return glob.has_magic(word) and not os.path.lexists(word)


def _matching(pattern: str) -> Iterator[Input]:
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - keeps paths as given
    files = [match for match in matches if not _is_dir(match)]
    # As in a shell, `photos/*` means the files in photos; `photos/**` also those further down.
    if not files:
        yield Input(pattern, problem=f"{pattern}: no file matches this pattern")
    for match in files:
        yield Input(match, content=match)


def _in_folder(folder: str) -> Iterator[Input]:
    barred: list[OSError] = []
    found = []
    for parent, folders, names in os.walk(folder, onerror=barred.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent) / name
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    for path in sorted(found):
        yield Input(str(path), content=str(path))
    for error in barred:
        name = str(error.filename)
        yield Input(name, problem=f"{name}: this folder cannot be read: {error.strerror}")
    if not found and not barred:
        kinds = ", ".join(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
        yield Input(folder, problem=f"{folder}: no image in this folder (looked for {kinds})")


def _read_stdin() -> Input:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("'-' means an image on standard input: 'mien predict - < photo.jpg'")
    content = sys.stdin.buffer.read()
    if not content:
        return Input(STDIN, problem="standard input is empty: expected an image")
    return Input(STDIN, content=content)
