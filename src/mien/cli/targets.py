"""The one guard before anything is written: what a command reads is never overwritten.

Nor is a file that mien did not write, unless ``--force`` says so. What mien wrote is known by its
content, so that a command can be run again: text by how it begins, pictures, videos and Parquet by
what is written into them. In the form of another tool nothing tells, so that it takes ``--force``.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from mien.cli.inputs import STDIN, find_inputs
from mien.core.errors import UsageError
from mien.core.file_types import IMAGE_SUFFIXES
from mien.core.files import SOFTWARE
from mien.core.models import MANIFEST_NAME, bundled_models

_Identity = tuple[int, int] | str
"""A file that is there: its number in its file system. Else its whole path, in one case."""

# JSON of results, in a list or not (a manifest of a model is none, and is never replaced by them),
# or an empty list; tables; a report. Nothing is lost with an empty file.
_OUR_TEXT = re.compile(
    rb'[\s\[\],]*(\{\s*"schema": "mien(?!-model)|\Z)'
    rb"|source([,\t])frame\2time_s\2face_id\2track_id\2status\2"
    rb"|source,(label,start_s,end_s|people,seconds,frames),"
    rb"|([^\n]*\n)?(IMAGE +FACE +EMOTION|PERSON +FROM +TO +EMOTION|nobody was seen)"
    rb"|Evaluation of [^\n]+\n=+\n"
    rb"|# (Evaluation of|Robustness)"
)
# What --compat writes begins as what the other tools write.
_COMPAT_TEXT = re.compile(rb'[\s\[\],]*\{\s*"(emotion": \{|box": \[)')
_OUR_MARKS = (SOFTWARE.encode(), b"mien.schema")
# A video's index, which may be long, comes before what is written into it; Parquet's comes last.
_HEAD_BYTES, _TAIL_BYTES = 1 << 25, 1 << 16


def check_targets(
    targets: Iterable[tuple[str, Path]],
    *,
    reads: Sequence[str | Path | None],
    kinds: Sequence[str] = IMAGE_SUFFIXES,
    force: bool | None = None,
) -> None:
    """Refuse to write over what is read, over files of others, or over one file twice.

    Pictures are not written into a folder of images that is read either, nor where a pattern would
    match them: the next run would take them for inputs. It is the same with videos.

    Args:
        targets: files to write, each with its option; devices and pipes are let through.
        reads: files, and folders and patterns of images, as they are given; what leads nowhere
            (addresses, cameras, None) is passed over. ``-`` is standard input.
        kinds: how the names of what is read of folders end.
        force: whether files of others may be replaced; None where the command has no ``--force``.

    Raises:
        UsageError: if one may not be written.
    """
    inputs = _Reads([str(word) for word in reads if word is not None])
    taken: dict[_Identity, str] = {}
    for option, path in targets:
        found = _stat(path)
        if found is not None and not stat.S_ISREG(found.st_mode):
            continue  # a device, or a folder, which the writer refuses
        this = _identity(path)
        if taken.setdefault(this, option) != option:
            raise UsageError(f"{taken[this]} and {option} would both write {path}")
        ours = found is None or _is_ours(path)
        is_like_inputs = path.suffix.lower() in kinds
        # Results of ours are no image, whatever a folder holds, and folders may be large.
        if inputs.has(this, in_folders=found is not None and (is_like_inputs or not ours)):
            raise UsageError(
                f"{option} would overwrite {path}, which is read: expected another name"
            )
        if is_like_inputs and inputs.would_find(path):
            raise UsageError(
                f"{option} would write {path} among the inputs, to be read the next time: "
                "expected another folder"
            )
        if not (ours or force):
            mend = ", or --force to replace it" if force is not None else ""
            raise UsageError(
                f"{path} is there already and {_why_not_ours(path)}: expected another "
                f"{option}{mend}"
            )


def check_target_folder(
    option: str,
    folder: Path,
    names: Sequence[str],
    *,
    reads: Sequence[str | Path | None],
    force: bool | None = None,
) -> None:
    """`check_targets` for files that are written together: one that is mien's vouches for all."""
    known = any(_is_ours(folder / name) for name in names if _stat(folder / name) is not None)
    targets = [(option, folder / name) for name in names]
    check_targets(targets, reads=reads, force=known or force)


def distinct_names(names: Iterable[tuple[str, str]]) -> list[str]:
    """Return a file name for each stem and ending, none twice: stems get a number where needed."""
    taken: set[str] = set()
    found = []
    for stem, ending in names:
        name, number = stem + ending, 1
        # Some file systems take upper and lower case for the same.
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}{ending}"
        taken.add(name.casefold())
        found.append(name)
    return found


def read_files(args: argparse.Namespace) -> list[str | Path | None]:
    """Return what the shared options say is read, and ``args.images`` where there are some."""
    images = getattr(args, "images", [])
    return [*images, *model_files(args.model), args.detector_weights]


def model_files(model: str | None) -> list[Path]:
    """Return the files of a model that is given by its folder: reading emotions reads these."""
    if model is None or model in bundled_models() or not os.path.isdir(model):  # noqa: PTH112
        return []
    folders = (Path(model), Path(model) / "export")  # of a model, or of a run
    return [path for folder in folders for path in (folder / MANIFEST_NAME, *folder.glob("*.onnx"))]


class _Reads:
    """What a command reads, looked up once and only as far as it is asked for."""

    def __init__(self, words: Sequence[str]) -> None:
        self._named = {_identity(Path(word)) for word in words if word != STDIN}
        if STDIN in words:
            with suppress(AttributeError, OSError, ValueError):  # another program's stream, or none
                found = os.fstat(sys.stdin.fileno())
                if stat.S_ISREG(found.st_mode):
                    self._named.add((found.st_dev, found.st_ino))
        self._folders = [word for word in words if os.path.isdir(word)]  # noqa: PTH112
        self._patterns = [
            word for word in words if re.search(r"[*?\[]", word) and not os.path.lexists(word)
        ]

    def has(self, this: _Identity, *, in_folders: bool) -> bool:
        """Say whether a target is an input: by name or, if asked for, in a folder or by pattern."""
        return this in self._named or (in_folders and this in self._found)

    def would_find(self, target: Path) -> bool:
        """Say whether a picture or video would be among the inputs at the next run."""
        whole = Path(os.path.realpath(target))
        return (
            any(whole.is_relative_to(os.path.realpath(folder)) for folder in self._folders)
            or any(_matches(target, pattern) for pattern in self._patterns)
            or _identity(whole.parent) in self._folders_of_images
        )

    @cached_property
    def _found(self) -> set[_Identity]:
        """The images that folders and patterns lead to."""
        return {_identity(path) for path in _files_of([*self._folders, *self._patterns])}

    @cached_property
    def _folders_of_images(self) -> set[_Identity]:
        """Where the images of folders are, links to other folders followed."""
        return {_identity(path) for path in {file.parent for file in _files_of(self._folders)}}


def _files_of(words: Sequence[str]) -> Iterator[Path]:
    return (Path(one.content) for one in find_inputs(words) if isinstance(one.content, str))


def _is_ours(path: Path) -> bool:
    """Say by its content whether mien wrote a file; one that cannot be read is another's."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            tail = file.read(_TAIL_BYTES)
    except OSError:
        return False
    if path.suffix.lower() == ".xlsx" and head.startswith(b"PK"):
        return _is_our_workbook(path)
    if b"\0" in head:  # a picture, a video, a table in binary
        return any(mark in head or mark in tail for mark in _OUR_MARKS)
    return _OUR_TEXT.match(head) is not None


def _is_our_workbook(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as parts:
            return SOFTWARE.encode() in parts.read("docProps/core.xml")
    except (OSError, KeyError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return False


def _why_not_ours(path: Path) -> str:
    try:
        with path.open("rb") as file:
            in_other_form = _COMPAT_TEXT.match(file.read(_TAIL_BYTES)) is not None
    except OSError:
        in_other_form = False
    return "may be another tool's, by its form" if in_other_form else "mien did not write it"


def _matches(path: Path, pattern: str) -> bool:
    """Say whether a pattern of the command line would match a file."""
    whole, parts = Path(os.path.abspath(path)), Path(os.path.abspath(pattern))  # noqa: PTH100
    if "**" not in parts.parts:
        return whole.match(str(parts))
    place = parts.parts.index("**")
    return whole.is_relative_to(Path(*parts.parts[:place])) and whole.match(parts.name)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):  # it is not there, or no name that could be
        return None


def _identity(path: Path) -> _Identity:
    found = _stat(path)
    if found is not None:
        return (found.st_dev, found.st_ino)
    # Some file systems take upper and lower case for the same.
    return os.path.realpath(path).casefold()
