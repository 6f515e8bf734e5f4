"""From the words on the command line to images: files, folders, patterns, standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from mien.core.errors import UsageError
from mien.core.image_files import IMAGE_SUFFIXES
from mien.interfaces.batch.listing import Input, found_file, walk_folder
from mien.interfaces.cli.urls import UrlReader, is_web_address, shown_address

__all__ = [
    "STDIN",
    "Input",
    "Inputs",
    "files_of",
    "find_inputs",
    "is_folder",
    "is_pattern",
    "is_single",
]

STDIN = "-"
"""The word that means one image from standard input."""


@dataclass(frozen=True)
class Inputs:
    """The images that words mean: they are looked for each time that they are gone through.

    Attributes:
        words: files, folders, patterns, ``-``.
        stdin: the image on standard input, read once, where a word is ``-``.
        read_url: what downloads an image; without it, addresses are refused.
    """

    words: tuple[str, ...]
    stdin: Input | None = None
    read_url: UrlReader | None = None

    def __iter__(self) -> Iterator[Input]:
        """Yield the images in the words' order, as they are found."""
        for word in self.words:
            if word == STDIN and self.stdin is not None:
                yield self.stdin
            elif self.read_url is not None and is_web_address(word):
                yield self.read_url(word)
            else:
                yield from files_of(word)

    def unique(self) -> Iterable[Input]:
        """Return the images with none named twice, which several words may do."""
        return self if len(self.words) == 1 else _Unique(self)

    def unread(self) -> Inputs:
        """Return the same images for their number and names alone: no address is downloaded."""
        return self if self.read_url is None else replace(self, read_url=_unread)


def _unread(address: str) -> Input:
    return Input(shown_address(address), problem="not read")


class _Unique:
    def __init__(self, inputs: Iterable[Input]) -> None:
        self._inputs = inputs

    def __iter__(self) -> Iterator[Input]:
        seen: set[str] = set()
        for one in self._inputs:
            if one.source not in seen:
                seen.add(one.source)
                yield one


def find_inputs(words: Sequence[str], *, read_url: UrlReader | None = None) -> Inputs:
    """Return the images that the words mean, in their order.

    A file means itself, a folder all images in it and below it (hidden ones aside, each folder's
    own sorted and before its subfolders'), a pattern with ``*``, ``?``, ``[…]`` or ``**`` what it
    matches (sorted), ``-`` the image on standard input, an http(s) address what ``read_url`` makes
    of it. A word that leads to nothing becomes an `Input` with a problem.

    Raises:
        UsageError: if ``-`` is given twice, or where standard input is a terminal.
    """
    if words.count(STDIN) > 1:
        raise UsageError("'-' is given twice: standard input holds one image")
    return Inputs(tuple(words), _read_stdin() if STDIN in words else None, read_url)


def is_single(words: Sequence[str]) -> bool:
    """Say whether the words name exactly one image, whatever there is: no folder, no pattern."""
    return len(words) == 1 and not (is_pattern(words[0]) or is_folder(words[0]))


def files_of(
    word: str, suffixes: Sequence[str] = IMAGE_SUFFIXES, *, kind: str = "image"
) -> Iterator[Input]:
    """Yield the files that a word means: the one that it names, a folder's, a pattern's.

    Args:
        word: any but ``-`` and addresses that are read.
        suffixes: how the names of a folder's files end, in lower case.
        kind: what these are, as an error says it.
    """
    if "://" in word and not os.path.lexists(word):
        source = shown_address(word)
        hint = "download it and give the file, or pipe it into 'mien predict -'"
        yield Input(source, problem=f"{source} is an address that is not read here: {hint}")
    elif is_folder(word):
        yield from _in_folder(word, suffixes, kind)
    elif is_pattern(word):
        yield from _matching(word)
    else:
        yield Input(word, content=word)


def is_folder(word: str) -> bool:
    """Say whether a word is the name of a folder."""
    return os.path.isdir(word)  # noqa: PTH112 - Path.is_dir raises where a name is too long


def is_pattern(word: str) -> bool:
    """Say whether a word means what it matches."""
    return glob.has_magic(word) and "://" not in word and not os.path.lexists(word)


def _matching(pattern: str) -> Iterator[Input]:
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - keeps paths as given
    files = [match for match in matches if not is_folder(match)]
    # As in a shell, `photos/*` means the files in photos; `photos/**` also those further down.
    if not files:
        yield Input(pattern, problem=f"{pattern}: no file matches this pattern")
    for match in files:
        yield found_file(match)


def _in_folder(folder: str, suffixes: Sequence[str], kind: str) -> Iterator[Input]:
    one = None
    for one in walk_folder(folder, suffixes):
        yield one
    if one is None:
        kinds = ", ".join(suffix.removeprefix(".") for suffix in suffixes)
        yield Input(folder, problem=f"{folder}: no {kind} in this folder (looked for {kinds})")


def _read_stdin() -> Input:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("'-' means an image on standard input: 'mien predict - < photo.jpg'")
    content = sys.stdin.buffer.read()
    if not content:
        return Input(STDIN, problem="standard input is empty: expected an image")
    return Input(STDIN, content=content)
