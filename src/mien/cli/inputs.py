"""Words of the command line → images and videos: files, folders, patterns, addresses, stdin."""

from __future__ import annotations

import glob
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from mien.batch.inputs import Input, found_file, walk_folder
from mien.cli.output import note
from mien.core.errors import InputError, UsageError
from mien.core.file_types import IMAGE_SUFFIXES, PLAYLIST_SUFFIXES, VIDEO_SUFFIXES
from mien.core.web_address import is_web_address, shown_address

STDIN = "-"
"""The word that means one image from standard input."""

UrlReader = Callable[[str], Input]
"""Makes an `Input` of an http(s) address: its bytes, or the problem."""

_KINDS_SAID = 6
_HEIC_SUFFIXES = (".heic", ".heif", ".hif")
_STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt")
# As `mien.video.live.is_camera` has it, which brings OpenCV with it.
_CAMERA = re.compile(r"[+-]?\d{1,18}")


# ---------------------------------------------------------------- images
@dataclass(frozen=True)
class Inputs:
    """The images that words mean: they are looked for each time that they are iterated over.

    Attributes:
        words: files, folders, patterns, addresses, ``-``.
        stdin: the image on standard input, read once, where a word is ``-``.
        read_url: what downloads an image; without it, addresses are refused.
        distinct: skip what an earlier word has named already.
        left_out: files of folders passed over in the last iteration, by their suffix.
    """

    words: tuple[str, ...]
    stdin: Input | None = None
    read_url: UrlReader | None = None
    distinct: bool = False
    left_out: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Input]:
        """Yield the images in the words' order, as they are found."""
        left_out: Counter[str] = Counter()
        seen: set[str] = set()
        for word in self.words:
            for one in self._images_of(word, left_out):
                if self.distinct and len(self.words) > 1:
                    if one.source in seen:
                        continue
                    seen.add(one.source)
                yield one
        # At once: another thread may be iterating over the same images, to count them.
        self.left_out.clear()
        self.left_out.update(left_out)

    def unique(self) -> Inputs:
        """Return the images with none named twice, which several words may do."""
        return replace(self, distinct=True)

    def unread(self) -> Inputs:
        """Return the same images for their number and names alone: no address is downloaded."""
        return replace(self, read_url=None if self.read_url is None else _unread)

    def shown_words(self) -> list[str]:
        """Return the words as they may be kept: without secrets, and no image in a data URI."""
        return [
            _data_uri(word).source if _is_data_uri(word) else shown_address(word)
            for word in self.words
        ]

    def note_left_out(self, *, quiet: bool) -> None:
        """Say on stderr which files of folders were passed over."""
        if self.left_out:
            note(_left_out_text(self.left_out), quiet=quiet)

    def _images_of(self, word: str, left_out: Counter[str]) -> Iterator[Input]:
        if word == STDIN and self.stdin is not None:
            yield self.stdin
        elif self.read_url is not None and is_web_address(word):
            yield self.read_url(word)
        else:
            yield from files_of(word, left_out=left_out)


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
        found = None
        for found in walk_folder(word, suffixes, left_out):
            yield found
        if found is None:
            kinds = ", ".join(suffix.removeprefix(".") for suffix in suffixes)
            yield Input(word, problem=f"{word}: no {kind} in this folder (looked for {kinds})")
    elif is_pattern(word):
        matches = sorted(glob.glob(word, recursive=True))  # noqa: PTH207 - keeps paths as given
        # As in a shell, `photos/*` means the files in photos; `photos/**` also those further down.
        files = [match for match in matches if not is_folder(match)]
        if not files:
            yield Input(word, problem=f"{word}: no file matches this pattern")
        yield from map(found_file, files)
    else:
        yield Input(word, content=word)


def is_single(words: Sequence[str]) -> bool:
    """Say whether the words name exactly one image, whatever there is: no folder, no pattern."""
    return len(words) == 1 and not (is_pattern(words[0]) or is_folder(words[0]))


def is_input(word: str) -> bool:
    """Say whether a word can be meant as an image or video: it is there, or has the form of one."""
    return (
        word == STDIN
        or _is_data_uri(word)
        or "://" in word
        or _CAMERA.fullmatch(word) is not None
        or word.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        or os.path.lexists(word)
        or (is_pattern(word) and bool(glob.glob(word, recursive=True)))  # noqa: PTH207
    )


def is_folder(word: str) -> bool:
    """Say whether a word is the name of a folder."""
    return os.path.isdir(word)  # noqa: PTH112 - Path.is_dir raises where a name is too long


def is_pattern(word: str) -> bool:
    """Say whether a word means what it matches."""
    return glob.has_magic(word) and "://" not in word and not os.path.lexists(word)


def _left_out_text(left_out: Counter[str]) -> str:
    kinds = [
        f"{count:,} {suffix or 'without a suffix'}" for suffix, count in left_out.most_common()
    ]
    if len(kinds) > _KINDS_SAID:
        kinds[_KINDS_SAID:] = [f"{len(kinds) - _KINDS_SAID} more kinds"]
    total = left_out.total()
    what = "1 file that is" if total == 1 else f"{total:,} files that are"
    parts = [f"left out {what} no image by the name: {', '.join(kinds)}"]
    if not left_out.keys().isdisjoint(VIDEO_SUFFIXES):
        parts.append("--video reads the videos")
    if not left_out.keys().isdisjoint(_HEIC_SUFFIXES):
        parts.append("save HEIC as JPEG to have it read")
    return "; ".join(parts)


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


# ---------------------------------------------------------------- addresses
def url_reader(*, allow_private: bool, offline: bool, max_megabytes: float) -> UrlReader:
    """Return what downloads the images of http(s) addresses, each once."""
    max_bytes = round(max_megabytes * 1e6)
    found: dict[str, Input] = {}
    # Inputs are iterated over by two threads at times, one of which only counts.
    one_at_a_time = threading.Lock()

    def read(url: str) -> Input:
        with one_at_a_time:
            if url not in found:
                found[url] = _downloaded(url, allow_private, offline, max_bytes)
            return found[url]

    return read


def _downloaded(url: str, allow_private: bool, offline: bool, max_bytes: int) -> Input:
    # Imported here: it brings http and ssl with it.
    from mien.core.downloads import fetch_image

    source = shown_address(url)
    try:
        content = fetch_image(
            url, allow_private=allow_private, offline=offline, max_bytes=max_bytes
        )
    except InputError as error:
        text = str(error)
        return Input(source, problem=text if source in text else f"{source}: {text}")
    return Input(source, content=content)


def _unread(address: str) -> Input:
    return Input(shown_address(address), problem="not read")


# ---------------------------------------------------------------- videos
def find_videos(words: Sequence[str], *, all_of_them: bool, quiet: bool) -> list[Input]:
    """Return the videos that the words mean, in their order; none if they mean images.

    Args:
        words: files, folders, patterns, addresses, cameras' numbers.
        all_of_them: take them as videos whatever their names; of a folder, the videos in it.
        quiet: say nothing of the images of a folder that are passed over.

    Raises:
        UsageError: if some are videos and some are not.
    """
    videos: list[Input] = []
    other: str | None = None
    for word in words:
        found, left_out = _videos_of(word, all_of_them=all_of_them)
        videos += found
        other = other or left_out
        if all_of_them and is_folder(word) and (images := sum(1 for _ in walk_folder(word))):
            note(f"{word}: images left out, since --video is given: {images:,}", quiet=quiet)
    if videos and other is not None:
        raise UsageError(
            f"{videos[0].source} is a video and {other} is not: give videos and images apart, "
            "or --video if it is one"
        )
    return videos


def is_video(word: str) -> bool:
    """Say by its name whether a word is a video file, a stream's address or a camera's number."""
    if "://" in word:
        return _is_video_address(word)
    if _CAMERA.fullmatch(word):
        return not os.path.lexists(word)
    return word.lower().endswith(VIDEO_SUFFIXES) and not is_folder(word)


def _is_video_address(word: str) -> bool:
    try:
        parts = urlsplit(word)
    except ValueError:
        return False
    if parts.scheme in _STREAM_SCHEMES:
        return True
    suffix = PurePosixPath(parts.path).suffix.lower()
    return parts.scheme in ("http", "https") and suffix in (*VIDEO_SUFFIXES, *PLAYLIST_SUFFIXES)


def _videos_of(word: str, *, all_of_them: bool) -> tuple[list[Input], str | None]:
    """Return the videos that a word means, and the first of what else it means.

    A folder with images in it means these, unless ``all_of_them``.
    """
    if is_folder(word):
        if not all_of_them and next(walk_folder(word), None) is not None:
            return [], word
        found = list(files_of(word, VIDEO_SUFFIXES, kind="video"))
        is_empty = found[0].problem is not None and not all_of_them
        return ([], word) if is_empty else (found, None)
    if not is_pattern(word):
        return ([Input(word, word)], None) if all_of_them or is_video(word) else ([], word)
    found = list(files_of(word))
    videos = [one for one in found if all_of_them or (one.content and is_video(one.source))]
    return videos, next((one.source for one in found if one not in videos), None)
