"""From the words on the command line to images: files, folders, patterns, standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from mien.batch.listing import Input, found_file, walk_folder
from mien.cli.output import note
from mien.cli.urls import UrlReader, is_web_address, shown_address
from mien.core.errors import InputError, UsageError
from mien.core.file_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES

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

_KINDS_SAID = 6
_HEIC_SUFFIXES = (".heic", ".heif", ".hif")


@dataclass(frozen=True)
class Inputs:
    """The images that words mean: they are looked for each time that they are gone through.

    Attributes:
        words: files, folders, patterns, ``-``.
        stdin: the image on standard input, read once, where a word is ``-``.
        read_url: what downloads an image; without it, addresses are refused.
        left_out: the files of folders that were passed over when the images were last gone
            through, by their suffix.
    """

    words: tuple[str, ...]
    stdin: Input | None = None
    read_url: UrlReader | None = None
    left_out: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Input]:
        """Yield the images in the words' order, as they are found."""
        left_out: Counter[str] = Counter()
        for word in self.words:
            if word == STDIN and self.stdin is not None:
                yield self.stdin
            elif self.read_url is not None and is_web_address(word):
                yield self.read_url(word)
            else:
                yield from files_of(word, left_out=left_out)
        # At once: another thread may be going through the same images, to count them.
        self.left_out.clear()
        self.left_out.update(left_out)

    def shown_words(self) -> list[str]:
        """Return the words as they may be kept: without secrets, and no image in a data URI."""
        return [
            _data_uri(word).source if _is_data_uri(word) else shown_address(word)
            for word in self.words
        ]

    def note_left_out(self, *, quiet: bool) -> None:
        """Say on stderr which files of folders were passed over, unless quiet is asked for."""
        if self.left_out:
            note(left_out_text(self.left_out), quiet=quiet)

    def unique(self) -> Iterable[Input]:
        """Return the images with none named twice, which several words may do."""
        return self if len(self.words) == 1 else _Unique(self)

    def unread(self) -> Inputs:
        """Return the same images for their number and names alone: no address is downloaded."""
        return self if self.read_url is None else replace(self, read_url=_unread)


def left_out_text(left_out: Counter[str]) -> str:
    """Return what is said of files that were passed over, by their suffix."""
    kinds = [
        f"{count:,} {suffix or 'without a suffix'}" for suffix, count in left_out.most_common()
    ]
    if len(kinds) > _KINDS_SAID:
        kinds[_KINDS_SAID:] = [f"{len(kinds) - _KINDS_SAID} more kinds"]
    hints = [
        hint
        for suffixes, hint in (
            (VIDEO_SUFFIXES, "--video reads the videos"),
            (_HEIC_SUFFIXES, "save HEIC as JPEG to have it read"),
        )
        if not left_out.keys().isdisjoint(suffixes)
    ]
    total = left_out.total()
    what = "1 file that is" if total == 1 else f"{total:,} files that are"
    return "; ".join([f"left out {what} no image by the name: {', '.join(kinds)}", *hints])


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
    word: str,
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
    *,
    kind: str = "image",
    left_out: Counter[str] | None = None,
) -> Iterator[Input]:
    """Yield the files that a word means: the one that it names, a folder's, a pattern's.

    Args:
        word: any but ``-`` and addresses that are read; a data URI is an image.
        suffixes: how the names of a folder's files end, in lower case.
        kind: what these are, as an error says it.
        left_out: counts the files of a folder that end otherwise, by their suffix.
    """
    if _is_data_uri(word):
        yield _data_uri(word)
    elif "://" in word and not os.path.lexists(word):
        source = shown_address(word)
        hint = "download it and give the file, or pipe it into 'mien predict -'"
        yield Input(source, problem=f"{source} is an address that is not read here: {hint}")
    elif is_folder(word):
        yield from _in_folder(word, suffixes, kind, left_out)
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


def _in_folder(
    folder: str, suffixes: Sequence[str], kind: str, left_out: Counter[str] | None
) -> Iterator[Input]:
    one = None
    for one in walk_folder(folder, suffixes, left_out):
        yield one
    if one is None:
        kinds = ", ".join(suffix.removeprefix(".") for suffix in suffixes)
        yield Input(folder, problem=f"{folder}: no {kind} in this folder (looked for {kinds})")


def _read_stdin() -> Input:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("'-' means an image on standard input: 'mien predict - < photo.jpg'")
    from mien.core.images import read_at_most

    try:
        content = read_at_most(sys.stdin.buffer, "standard input")
    except InputError as error:
        return Input(STDIN, problem=str(error))
    except OSError as error:
        return Input(STDIN, problem=f"standard input cannot be read: {error.strerror}")
    if not content:
        return Input(STDIN, problem="standard input is empty: expected an image")
    return Input(STDIN, content=content)


def _is_data_uri(word: str) -> bool:
    return word[:5].lower() == "data:" and not os.path.lexists(word)


def _data_uri(uri: str) -> Input:
    from mien.core.images import read_data_uri, source_name

    name = source_name(uri) or ""
    try:
        return Input(name, content=read_data_uri(uri))
    except InputError as error:
        return Input(name, problem=str(error))
