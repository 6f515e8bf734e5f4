"""The images in a folder and below it, one by one, without ever holding them all."""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mien.core.file_types import HEAD_BYTES, IMAGE_SUFFIXES, READABLE, image_kind
from mien.core.files import LOCK_NAME

SORTED_AT_ONCE = 50_000
"""Names of one folder that are sorted together; a folder of more comes in as many sorted runs."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_HERE = "."


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


def walk_folder(
    folder: str,
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
    left_out: Counter[str] | None = None,
) -> Iterator[Input]:
    """Yield the images in a folder and below it: a folder's own, sorted, before its subfolders'.

    ``suffixes`` says how their names end, in lower case; other kinds of files are found likewise.
    Of the files without any, those that begin as an image does are images, too. ``left_out`` counts
    the files that are not yielded, by their suffix.
    Hidden files and folders are passed over. A link to a file is a file. Links to folders are
    followed after everything else, and no folder is entered twice, so that a loop of links ends.
    What cannot be read (a folder that is barred, a pipe that would block) has a problem.
    """
    entered: set[tuple[int, int]] = set()
    stack = [str(Path(folder))]
    links: deque[str] = deque()
    while stack or links:
        current = stack.pop() if stack else links.popleft()
        subfolders: list[str] = []
        try:
            found = Path(current).stat()
            # A folder's number in its file system is the same through every link.
            if (found.st_dev, found.st_ino) in entered:
                continue
            entered.add((found.st_dev, found.st_ino))
            yield from _files_of(current, suffixes, subfolders, links, left_out)
        except OSError as error:
            problem = f"{current}: this folder cannot be read: {error.strerror}"
            yield Input(current, problem=problem)
        stack += sorted(subfolders, reverse=True)


def found_file(path: str) -> Input:
    """Return a file that was found, not named, as an input; a pipe, which may block, is a problem.

    A link that leads nowhere is left to the reading, which says why.
    """
    try:
        kind = _KINDS.get(stat.S_IFMT(Path(path).stat().st_mode))
    except (OSError, ValueError):
        kind = None
    if kind is None:
        return Input(path, content=path)
    return Input(path, problem=f"{path} is {kind}: expected a file")


def _files_of(
    folder: str,
    suffixes: Sequence[str],
    subfolders: list[str],
    links: deque[str],
    left_out: Counter[str] | None,
) -> Iterator[Input]:
    """Yield a folder's own files of a kind; add the folders in it, and the links to folders."""
    if Path(folder, LOCK_NAME).exists():
        left_out = None  # what a run has not joined into its output yet, this very one perhaps
    with os.scandir(folder) as entries:
        seen = SORTED_AT_ONCE
        while seen == SORTED_AT_ONCE:
            seen = 0
            names: list[str] = []
            linked: list[str] = []
            unusual: set[str] = set()
            for entry in islice(entries, SORTED_AT_ONCE):
                seen += 1
                if entry.name.startswith("."):
                    continue
                if _asked(entry.is_dir):
                    (linked if entry.is_symlink() else subfolders).append(
                        _joined(folder, entry.name)
                    )
                    continue
                suffix = _suffix(entry.name)
                if suffix in suffixes or (not suffix and _is_nameless(entry, suffixes)):
                    names.append(entry.name)
                    if not _asked(entry.is_file):
                        unusual.add(entry.name)
                elif left_out is not None:
                    left_out[suffix] += 1
            links.extend(sorted(linked))
            for name in sorted(names):
                path = _joined(folder, name)
                yield found_file(path) if name in unusual else Input(path, content=path)


def _is_nameless(entry: os.DirEntry[str], suffixes: Sequence[str]) -> bool:
    """Say whether a file without a suffix is an image, where these are looked for."""
    if suffixes is not IMAGE_SUFFIXES or not _asked(entry.is_file):
        return False
    try:
        with open(entry.path, "rb") as file:  # noqa: PTH123 - as below
            return image_kind(file.read(HEAD_BYTES)) in READABLE
    except OSError:
        return False


def _asked(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a loop of links, or a file that has just vanished
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a third of the time of Path's


def _joined(folder: str, name: str) -> str:
    return name if folder == _HERE else os.path.join(folder, name)  # noqa: PTH118 - as above
