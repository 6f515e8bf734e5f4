"""Paths on the command line: the images and videos they stand for, and what may be written.

An input is a file, a folder, a pattern, an address, a data URI, a camera's number or ``-``.

No command overwrites a file that it reads, nor, without ``--force``, one that mien did not write.
mien's own files are recognized by their content, so that a command can be run again: text by its
first line; pictures, videos and Parquet by their metadata. Output of ``--compat`` looks like the
other tool's own and needs ``--force``.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import stat
import sys
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from mien.batch.inputs import Input, file_input, walk_folder
from mien.cli.output import note
from mien.core.errors import InputError, UsageError
from mien.core.file_types import IMAGE_SUFFIXES, PLAYLIST_SUFFIXES, VIDEO_SUFFIXES
from mien.core.files import SOFTWARE
from mien.core.models import MANIFEST_NAME, bundled_models
from mien.core.web import is_camera, is_stream, is_web_address, redact_address

STDIN = "-"
"""Stands for one image on standard input."""

UrlReader = Callable[[str], Input]
"""Downloads the image at an http(s) address."""

_MAX_LISTED_SUFFIXES = 6
_HEIC_SUFFIXES = (".heic", ".heif", ".hif")


# ---------------------------------------------------------------- images
@dataclass(frozen=True)
class Inputs:
    """The images that arguments stand for; each iteration searches for them again.

    Attributes:
        arguments: files, folders, patterns, addresses, ``-``.
        stdin: the image on standard input, if ``-`` is among the arguments.
        read_url: downloads images; without it, addresses are reported as problems.
        distinct: yield an image once, even if several arguments name it.
        skipped: counts of the files in folders that the last iteration skipped, by suffix.
    """

    arguments: tuple[str, ...]
    stdin: Input | None = None
    read_url: UrlReader | None = None
    distinct: bool = False
    skipped: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Input]:
        """Yield the images in the order of the arguments."""
        skipped: Counter[str] = Counter()
        seen: set[str] = set()
        for argument in self.arguments:
            for image in self._expand(argument, skipped):
                if self.distinct and len(self.arguments) > 1:
                    if image.source in seen:
                        continue
                    seen.add(image.source)
                yield image
        # Replaced at the end, since another thread may be iterating at the same time.
        self.skipped.clear()
        self.skipped.update(skipped)

    def unique(self) -> Inputs:
        """Return the same images without duplicates."""
        return replace(self, distinct=True)

    def for_counting(self) -> Inputs:
        """Return the same images with nothing downloaded, to count them and compare names."""
        return replace(self, read_url=None if self.read_url is None else _not_downloaded)

    def public_arguments(self) -> list[str]:
        """Return the arguments without logins and tokens, and with data URIs abbreviated."""
        return [
            _read_data_uri(argument).source if _is_data_uri(argument) else redact_address(argument)
            for argument in self.arguments
        ]

    def note_skipped(self, *, quiet: bool, reads_videos: bool = True) -> None:
        """Report on stderr which files in folders were skipped, and how the command reads them."""
        if self.skipped:
            note(_skipped_text(self.skipped, reads_videos), quiet=quiet)

    def _expand(self, argument: str, skipped: Counter[str]) -> Iterator[Input]:
        if argument == STDIN and self.stdin is not None:
            yield self.stdin
        elif self.read_url is not None and is_web_address(argument):
            yield self.read_url(argument)
        else:
            yield from _expand_path(argument, skipped=skipped)


def find_inputs(arguments: Sequence[str], *, read_url: UrlReader | None = None) -> Inputs:
    """Return the images that arguments stand for, in their order.

    - a file: itself
    - a folder: its images, sorted, then those in its subfolders; hidden files are skipped
    - a pattern with ``*``, ``?``, ``[…]`` or ``**``: its matches, sorted
    - ``-``: the image on standard input
    - an http(s) address: the image that ``read_url`` downloads

    An argument that leads nowhere becomes an `Input` with a problem.

    Raises:
        UsageError: if ``-`` is given twice, or standard input is a terminal.
    """
    if arguments.count(STDIN) > 1:
        raise UsageError("'-' is given twice: standard input holds one image")
    return Inputs(tuple(arguments), _read_stdin() if STDIN in arguments else None, read_url)


def _expand_path(
    argument: str,
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
    *,
    kind: str = "image",
    skipped: Counter[str] | None = None,
) -> Iterator[Input]:
    """Yield the file that an argument names, or those of its folder or pattern.

    Args:
        argument: anything but ``-`` and addresses to download.
        suffixes: lower-case suffixes to look for in a folder.
        kind: "image" or "video", for messages.
        skipped: counts a folder's other files by suffix.
    """
    if not argument:
        yield Input("", problem="an input's name is empty: give a file, a folder or a pattern")
    elif _is_data_uri(argument):
        yield _read_data_uri(argument)
    elif "://" in argument and not os.path.lexists(argument):
        source = redact_address(argument)
        hint = "download it and give the file, or pipe it into 'mien predict -'"
        yield Input(source, problem=f"{source}: an address that this command cannot read: {hint}")
    elif is_folder(argument):
        path = None
        for path in walk_folder(argument, suffixes, skipped):
            yield path
        if path is None:
            expected = ", ".join(suffix.removeprefix(".") for suffix in suffixes)
            problem = f"{argument}: no {kind} in this folder (looked for {expected})"
            yield Input(argument, problem=problem)
    elif is_pattern(argument):
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - keeps paths as given
        # As in a shell, `photos/*` means the files in photos; `photos/**` also those further down.
        files = [match for match in matches if not is_folder(match)]
        if not files:
            yield Input(argument, problem=f"{argument}: no file matches this pattern")
        yield from map(file_input, files)
    else:
        yield Input(argument, content=argument)


def is_single(arguments: Sequence[str]) -> bool:
    """Return True for a single argument that is no folder and no pattern: one image or video."""
    return len(arguments) == 1 and not (is_pattern(arguments[0]) or is_folder(arguments[0]))


def is_input(argument: str) -> bool:
    """Return True if an argument exists as a path or looks like an image or a video."""
    return (
        argument == STDIN
        or _is_data_uri(argument)
        or "://" in argument
        or is_camera(argument)
        or argument.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        or os.path.lexists(argument)
        or (is_pattern(argument) and bool(glob.glob(argument, recursive=True)))  # noqa: PTH207
    )


def is_folder(argument: str) -> bool:
    """Return True if a path is an existing folder."""
    return os.path.isdir(argument)  # noqa: PTH112 - Path.is_dir raises where a name is too long


def is_pattern(argument: str) -> bool:
    """Return True for a path with wildcards, unless a file of that name exists."""
    return glob.has_magic(argument) and "://" not in argument and not os.path.lexists(argument)


def _skipped_text(skipped: Counter[str], reads_videos: bool) -> str:
    kinds = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in skipped.most_common()]
    if len(kinds) > _MAX_LISTED_SUFFIXES:
        kinds[_MAX_LISTED_SUFFIXES:] = [f"{len(kinds) - _MAX_LISTED_SUFFIXES} more kinds"]
    total = skipped.total()
    files = "1 file that is not an image" if total == 1 else f"{total:,} files that are not images"
    hints = [f"skipped {files} by name: {', '.join(kinds)}"]
    if reads_videos and not skipped.keys().isdisjoint(VIDEO_SUFFIXES):
        hints.append("--video reads the videos")
    if not skipped.keys().isdisjoint(_HEIC_SUFFIXES):
        hints.append("save HEIC as JPEG to have it read")
    return "; ".join(hints)


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


def _is_data_uri(argument: str) -> bool:
    return argument[:5].lower() == "data:" and not os.path.lexists(argument)


def _read_data_uri(uri: str) -> Input:
    from mien.core.images import read_data_uri, source_name

    name = source_name(uri) or ""
    try:
        return Input(name, content=read_data_uri(uri))
    except InputError as error:
        return Input(name, problem=str(error))


# ---------------------------------------------------------------- addresses
def url_reader(*, allow_private: bool, offline: bool, max_megabytes: float) -> UrlReader:
    """Return a function that downloads images, each address once; threads may share it."""
    max_bytes = round(max_megabytes * 1e6)
    downloaded: dict[str, Input] = {}
    lock = threading.Lock()

    def read(url: str) -> Input:
        with lock:
            if url not in downloaded:
                downloaded[url] = _download(url, allow_private, offline, max_bytes)
            return downloaded[url]

    return read


def _download(url: str, allow_private: bool, offline: bool, max_bytes: int) -> Input:
    from mien.core.web import fetch_image  # imports http and ssl

    source = redact_address(url)
    try:
        content = fetch_image(
            url, allow_private=allow_private, offline=offline, max_bytes=max_bytes
        )
    except InputError as error:
        text = str(error)
        return Input(source, problem=text if source in text else f"{source}: {text}")
    return Input(source, content=content)


def _not_downloaded(url: str) -> Input:
    return Input(redact_address(url), problem="not downloaded")


# ---------------------------------------------------------------- videos
def find_videos(arguments: Sequence[str], *, all_videos: bool, quiet: bool) -> list[Input]:
    """Return the videos that arguments stand for, in their order; none if these are images.

    Args:
        arguments: files, folders, patterns, addresses, camera numbers.
        all_videos: read every file as a video, whatever its name, and the videos in a folder.
        quiet: do not report the images in folders that are skipped.

    Raises:
        UsageError: if some arguments are videos and some are not.
    """
    videos: list[Input] = []
    other: str | None = None
    for argument in arguments:
        found, first_other = _expand_videos(argument, all_videos=all_videos)
        videos += found
        other = first_other if other is None else other
        if all_videos and is_folder(argument) and (images := sum(1 for _ in walk_folder(argument))):
            note(f"{argument}: skipped images because of --video: {images:,}", quiet=quiet)
    if videos and other is not None:
        raise UsageError(
            f"{videos[0].source} is a video and {other or 'an empty name'} is not: give videos and "
            "images in separate commands, or --video to read every input as a video"
        )
    return videos


def is_video(argument: str) -> bool:
    """Return True if an argument is a video file, a stream's address or a camera, by its name."""
    if "://" in argument:
        return is_stream(argument) and _is_video_address(argument)
    if is_camera(argument):
        return not os.path.lexists(argument)
    return argument.lower().endswith(VIDEO_SUFFIXES) and not is_folder(argument)


def _is_video_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    suffix = PurePosixPath(parts.path).suffix.lower()
    return not is_web_address(address) or suffix in (*VIDEO_SUFFIXES, *PLAYLIST_SUFFIXES)


def _expand_videos(argument: str, *, all_videos: bool) -> tuple[list[Input], str | None]:
    """Return the videos that an argument stands for, and the first of its other files, if any.

    A folder with images in it stands for these, unless ``all_videos``.
    """
    if is_folder(argument):
        if not all_videos and next(walk_folder(argument), None) is not None:
            return [], argument
        found = list(_expand_path(argument, VIDEO_SUFFIXES, kind="video"))
        is_empty = found[0].problem is not None and not all_videos
        return ([], argument) if is_empty else (found, None)
    if is_pattern(argument) or not argument:
        found = list(_expand_path(argument))
        videos = [file for file in found if all_videos or (file.content and is_video(file.source))]
        return videos, next((file.source for file in found if file not in videos), None)
    if all_videos or is_video(argument):
        return [Input(argument, argument)], None
    return [], argument


# ---------------------------------------------------------------- files to write
_FileId = tuple[int, int] | str
"""Device and inode of an existing file, or the case-folded absolute path of a new one."""

# What text files written by mien begin with: JSON results (but not a model's manifest), tables,
# reports. An empty list or an empty file is no loss.
_TEXT_BY_MIEN = re.compile(
    rb'[\s\[\],]*(\{\s*"schema": "mien(?!-model)|\Z)'
    rb"|source([,\t])frame\2time_s\2face_id\2track_id\2status\2"
    rb"|source,(label,start_s,end_s|people,seconds,frames),"
    rb"|([^\n]*\n)?(IMAGE +FACE +EMOTION|PERSON +FROM +TO +EMOTION|nobody was seen)"
    rb"|Evaluation of [^\n]+\n=+\n"
    rb"|# (Evaluation of|Robustness)"
)
_COMPAT_TEXT = re.compile(rb'[\s\[\],]*\{\s*"(emotion": \{|box": \[)')
_BINARY_MARKS = (SOFTWARE.encode(), b"mien.schema")
# The metadata of a video follow its index, which may be long; those of Parquet come last.
_HEAD_BYTES, _TAIL_BYTES = 1 << 25, 1 << 16


def check_targets(
    targets: Iterable[tuple[str, Path]],
    *,
    reads: Sequence[str | Path | None],
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
    force: bool | None = None,
) -> None:
    """Check that files may be written: none is read, is another program's, or is named twice.

    Pictures are not written into a folder that is read, nor to a path that an input pattern
    matches: the next run would read them. The same goes for videos.

    Args:
        targets: options and the files they write. Devices and pipes always pass.
        reads: files, folders and patterns as given; None, addresses and cameras are skipped.
        suffixes: suffixes that are looked for in folders.
        force: replace files of other programs; None if the command has no ``--force``.

    Raises:
        UsageError: if a file may not be written.
    """
    inputs = _InputFiles([str(path) for path in reads if path is not None])
    options: dict[_FileId, str] = {}
    for option, path in targets:
        status = _stat(path)
        if status is not None and not stat.S_ISREG(status.st_mode):
            continue  # a device or pipe; opening a folder fails later
        file_id = _file_id(path)
        if options.setdefault(file_id, option) != option:
            raise UsageError(f"{options[file_id]} and {option} would both write {path}")
        replaceable = status is None or _is_by_mien(path)
        is_like_inputs = path.suffix.lower() in suffixes
        # Folders may be large: they are not listed for a new file, nor for mien's own results.
        search = status is not None and (is_like_inputs or not replaceable)
        if inputs.contains(file_id, search_folders=search):
            raise UsageError(f"{option} would overwrite {path}, which is read: give another name")
        if is_like_inputs and inputs.would_include(path):
            raise UsageError(
                f"{option} would write {path} among the inputs, and the next run would read it: "
                "give another folder"
            )
        if not (replaceable or force):
            hint = ", or --force to replace it" if force is not None else ""
            raise UsageError(
                f"{path} already exists and {_origin_text(path)}: give another {option}{hint}"
            )


def check_target_folder(
    option: str,
    folder: Path,
    names: Sequence[str],
    *,
    reads: Sequence[str | Path | None],
    force: bool | None = None,
) -> None:
    """Check files that are written together, as `check_targets`: if one is mien's, all are."""
    existing = [folder / name for name in names if _stat(folder / name) is not None]
    targets = [(option, folder / name) for name in names]
    check_targets(targets, reads=reads, force=any(map(_is_by_mien, existing)) or force)


def unique_names(names: Iterable[tuple[str, str]]) -> list[str]:
    """Return a file name for each (stem, ending); duplicates get a number, as in ``a-2.png``.

    Names that differ in case alone count as duplicates, as on some file systems.
    """
    taken: set[str] = set()
    unique = []
    for stem, ending in names:
        name, number = stem + ending, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}{ending}"
        taken.add(name.casefold())
        unique.append(name)
    return unique


def stem_of(source: str) -> str:
    """Return the stem for files named after an image: "stdin" or "data" if it has no file name."""
    if source[:5].lower() == "data:":
        return "data"
    return "stdin" if source == STDIN else Path(source).stem


def input_paths(args: argparse.Namespace) -> list[str | Path | None]:
    """Return everything that a command with recognizer options reads."""
    images = getattr(args, "images", [])
    return [*images, *model_files(args.model), args.detector_weights]


def model_files(model: str | None) -> list[Path]:
    """Return the files of a model or a run given by its folder; none for a bundled model."""
    if model is None or model in bundled_models() or not is_folder(model):
        return []
    folders = (Path(model), Path(model) / "export")
    return [path for folder in folders for path in (folder / MANIFEST_NAME, *folder.glob("*.onnx"))]


class _InputFiles:
    """The files that a command reads; folders and patterns are searched only if needed."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._named = {_file_id(Path(argument)) for argument in arguments if argument != STDIN}
        if STDIN in arguments:
            with suppress(AttributeError, OSError, ValueError):  # no stdin, or not a file
                status = os.fstat(sys.stdin.fileno())
                if stat.S_ISREG(status.st_mode):
                    self._named.add((status.st_dev, status.st_ino))
        self._folders = [argument for argument in arguments if is_folder(argument)]
        self._patterns = [argument for argument in arguments if is_pattern(argument)]

    def contains(self, file_id: _FileId, *, search_folders: bool) -> bool:
        """Return True if a file is named or, with ``search_folders``, found by a search."""
        return file_id in self._named or (search_folders and file_id in self._found)

    def would_include(self, target: Path) -> bool:
        """Return True if the next run would read ``target``, a picture or a video."""
        resolved = Path(os.path.realpath(target))
        return (
            any(resolved.is_relative_to(os.path.realpath(folder)) for folder in self._folders)
            or any(_matches(target, pattern) for pattern in self._patterns)
            or _file_id(resolved.parent) in self._image_folders
        )

    @cached_property
    def _found(self) -> set[_FileId]:
        return {_file_id(path) for path in _image_paths([*self._folders, *self._patterns])}

    @cached_property
    def _image_folders(self) -> set[_FileId]:
        """Folders that hold images of the input folders, which may be reached through links."""
        return {_file_id(path) for path in {file.parent for file in _image_paths(self._folders)}}


def _image_paths(arguments: Sequence[str]) -> Iterator[Path]:
    images = find_inputs(arguments)
    return (Path(image.content) for image in images if isinstance(image.content, str))


def _is_by_mien(path: Path) -> bool:
    """Return True if mien wrote a file, judged by its content; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            tail = file.read(_TAIL_BYTES)
    except OSError:
        return False
    if path.suffix.lower() == ".xlsx" and head.startswith(b"PK"):
        return _is_workbook_by_mien(path)
    if b"\0" in head:  # binary: a picture, a video, Parquet
        return any(mark in head or mark in tail for mark in _BINARY_MARKS)
    return _TEXT_BY_MIEN.match(head) is not None


def _is_workbook_by_mien(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as parts:
            return SOFTWARE.encode() in parts.read("docProps/core.xml")
    except (OSError, KeyError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return False


def _origin_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            is_compat = _COMPAT_TEXT.match(file.read(_TAIL_BYTES)) is not None
    except OSError:
        is_compat = False
    return "may be another tool's, judged by its form" if is_compat else "mien did not write it"


def _matches(path: Path, pattern: str) -> bool:
    """Return True if a glob pattern matches a path, which need not exist."""
    absolute, parts = Path(os.path.abspath(path)), Path(os.path.abspath(pattern))  # noqa: PTH100
    if "**" not in parts.parts:
        return absolute.match(str(parts))
    index = parts.parts.index("**")
    return absolute.is_relative_to(Path(*parts.parts[:index])) and absolute.match(parts.name)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):  # missing, or a name that no file can have
        return None


def _file_id(path: Path) -> _FileId:
    status = _stat(path)
    return os.path.realpath(path).casefold() if status is None else (status.st_dev, status.st_ino)
