"""Inputs of a batch: the images in folders, and the options of each worker's recognizer."""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.core.file_types import HEAD_BYTES, IMAGE_SUFFIXES, READABLE_FORMATS, sniff_format
from mien.core.files import LOCK_NAME

if TYPE_CHECKING:
    from mien.inference.detectors import Detector
    from mien.inference.preprocess import FaceChoice
    from mien.inference.recognizer import Recognizer

SORTED_AT_ONCE = 50_000
"""Names of a folder that are sorted together; a larger folder comes in several sorted runs."""

_SPECIAL_FILES = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Input:
    """One image to analyze.

    Attributes:
        source: its name in the results: a path as given or found, or ``-``.
        content: the path or bytes to read it from, or None if it cannot be read.
        problem: why it cannot be read, in one line, or None.
    """

    source: str
    content: str | bytes | None = None
    problem: str | None = None


# ---------------------------------------------------------------- folders
def walk_folder(
    folder: str,
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
    skipped: Counter[str] | None = None,
) -> Iterator[Input]:
    """Yield the images in a folder and below it: its own files, sorted, then its subfolders.

    Hidden files and folders are skipped. A link to a file counts as a file. Links to folders are
    followed last, and each folder is entered once, so cycles end. Unreadable entries (a folder
    without permission, a pipe that would block) are yielded with a problem.

    Args:
        folder: its path.
        suffixes: lower-case suffixes of the files to yield. With the default, images without a
            suffix are recognized by their first bytes.
        skipped: counts the other files by suffix.
    """
    entered: set[tuple[int, int]] = set()
    stack = [str(Path(folder))]
    links: deque[str] = deque()
    while stack or links:
        current = stack.pop() if stack else links.popleft()
        subfolders: list[str] = []
        try:
            status = Path(current).stat()
            # The inode is the same through every link.
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            yield from _files_of(current, suffixes, subfolders, links, skipped)
        except OSError as error:
            problem = f"{current}: this folder cannot be read: {error.strerror}"
            yield Input(current, problem=problem)
        stack += sorted(subfolders, reverse=True)


def file_input(path: str) -> Input:
    """Return a file as an input, with a problem if it is a special file (a pipe may block).

    A broken link has no problem here; reading it reports the reason.
    """
    try:
        special = _SPECIAL_FILES.get(stat.S_IFMT(Path(path).stat().st_mode))
    except (OSError, ValueError):
        special = None
    if special is None:
        return Input(path, content=path)
    return Input(path, problem=f"{path} is {special}: expected a file")


def _files_of(
    folder: str,
    suffixes: Sequence[str],
    subfolders: list[str],
    links: deque[str],
    skipped: Counter[str] | None,
) -> Iterator[Input]:
    """Yield a folder's own files; append its subfolders and its links to folders."""
    if Path(folder, LOCK_NAME).exists():
        skipped = None  # the parts of a run, perhaps of this one
    with os.scandir(folder) as entries:
        while (first := next(entries, None)) is not None:
            names: list[str] = []
            linked: list[str] = []
            special: set[str] = set()
            for entry in chain((first,), islice(entries, SORTED_AT_ONCE - 1)):
                if entry.name.startswith("."):
                    continue
                if _or_false(entry.is_dir):
                    group = linked if entry.is_symlink() else subfolders
                    group.append(_join(folder, entry.name))
                    continue
                suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - three times as fast
                if suffix in suffixes or (not suffix and _is_image(entry, suffixes)):
                    names.append(entry.name)
                    if not _or_false(entry.is_file):
                        special.add(entry.name)
                elif skipped is not None:
                    skipped[suffix] += 1
            links.extend(sorted(linked))
            for name in sorted(names):
                path = _join(folder, name)
                yield file_input(path) if name in special else Input(path, content=path)


def _is_image(entry: os.DirEntry[str], suffixes: Sequence[str]) -> bool:
    """Return True if images are wanted and a file without a suffix begins like one."""
    if suffixes is not IMAGE_SUFFIXES or not _or_false(entry.is_file):
        return False
    try:
        with open(entry.path, "rb") as file:  # noqa: PTH123
            return sniff_format(file.read(HEAD_BYTES)) in READABLE_FORMATS
    except OSError:
        return False


def _or_false(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a loop of links, or a file that has just vanished
        return False


def _join(folder: str, name: str) -> str:
    return name if folder == "." else os.path.join(folder, name)  # noqa: PTH118 - as above


# ---------------------------------------------------------------- the recognizer
@dataclass(frozen=True)
class RecognizerOptions:
    """Options of a recognizer, which can be pickled to other processes and machines.

    Attributes as the arguments of `mien.load`, and ``detector_weights``, a file for YuNet.
    """

    model: str
    detector: str = "auto"
    detector_weights: Path | None = None
    offline: bool = False
    threads: int | None = None
    min_face: int = 0
    max_faces: int | None = None
    align: str = "auto"
    thorough: bool = False
    labels: str | None = None
    tta: bool = False

    def settings(self) -> dict[str, Any]:
        """Return the options besides model and detector that change results, as a JSON object."""
        names = ("min_face", "max_faces", "align", "thorough", "labels")
        # Absent by default, so that runs from before --tta can be resumed.
        extra = {"tta": True} if self.tta else {}
        return {name: getattr(self, name) for name in names} | extra

    def absolute(self) -> RecognizerOptions:
        """Return the same options with absolute paths, for processes in other working folders."""
        model = str(Path(self.model).absolute()) if Path(self.model).is_dir() else self.model
        weights = self.detector_weights
        return replace(
            self, model=model, detector_weights=None if weights is None else weights.absolute()
        )

    def load(self, *, threads: int | None = None) -> Recognizer:
        """Load the recognizer, with ``threads`` for its network; raises as `mien.load`."""
        from mien.inference.classifier import Classifier
        from mien.inference.recognizer import Recognizer

        detector, choice = self.load_detector(), self.choice()
        classifier = Classifier.open(
            self.model, threads=threads or self.threads, labels=None, reading=self.labels
        )
        return Recognizer(classifier, detector, choice, tta=self.tta)

    def load_detector(self) -> Detector:
        """Load the detector only; raises as `mien.inference.detectors.load_detector`."""
        from mien.inference.detectors import load_detector

        return load_detector(
            self.detector,
            weights=self.detector_weights,
            offline=self.offline,
            thorough=self.thorough,
        )

    def choice(self) -> FaceChoice:
        """Return which faces are analyzed; raises UsageError for an option out of range."""
        from mien.inference.preprocess import FaceChoice

        return FaceChoice(min_face=self.min_face, max_faces=self.max_faces, align=self.align)
