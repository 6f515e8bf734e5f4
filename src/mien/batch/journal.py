"""Results on disk in parts, so that a kill at any moment neither loses nor duplicates results.

During a run, the folder ``results.csv.parts`` is next to the output ``results.csv``:

- ``mien.lock`` marks the folder as created by mien; without it nothing is resumed or removed.
- ``run.json`` holds the run's settings (model, detector, inputs); without it parts are ignored.
- ``part-000001.jsonl`` holds the rows of a part, and ``part-000001.index`` its images, counts and
  checksum. Both are written under temporary names and renamed, the rows last: a part counts if both
  exist and match.

At the end the parts are joined into one file, which is renamed to the output, and the folder is
removed. The hidden file ``.results.csv.mien`` stays: the index of the whole output, with the run's
settings. Resuming a finished output makes it the first part of a run that analyzes what is new.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mien.batch.inputs import Input
from mien.batch.tables import ResultFormat
from mien.core.errors import InputError, OutputError, UsageError, error_reason
from mien.core.files import claim_folder, release_folder, replace_atomically, sha256_of
from mien.core.results import STATUSES, Result

PART_IMAGES = 4096
"""Limit on the images of a part, which is in memory until it is written."""

PART_SECONDS = 1.0
"""A part is written after a second, or after `PART_SHARE` of the elapsed time if that is longer."""

PART_SHARE = 0.005
"""Share of the work that a kill may lose; it limits the number of parts of long runs."""

_RUN = "run.json"
_INPUTS = "inputs"
_OWN_NAMES = re.compile(r"\.?(part-\d+|run|whole|record)\.")

_MAGIC = b"mien batch 1\n"
_DIGEST_BYTES = 16


def count_of(number: int, noun: str) -> str:
    """Format a number of things: "1 image", "1,234 images"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@dataclass
class RunSummary:
    """Counts of images and faces, for the last message and the exit code.

    Attributes:
        statuses: number of images by status.
        faces: number of faces.
        first_problem: the first error message, or None.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    faces: int = 0
    first_problem: str | None = None

    @property
    def images(self) -> int:
        """Number of images."""
        return self.statuses.total()

    @property
    def failed(self) -> int:
        """Number of images that could not be read or analyzed."""
        return self.statuses["unreadable"] + self.statuses["error"]

    def count(self, result: Result) -> None:
        """Count one result."""
        self.statuses[result.status] += 1
        self.faces += len(result.faces)
        self.first_problem = self.first_problem or result.error

    def add(self, other: RunSummary) -> None:
        """Add the counts of later results."""
        self.statuses.update(other.statuses)
        self.faces += other.faces
        self.first_problem = self.first_problem or other.first_problem

    def text(self) -> str:
        """Format the counts for the user; those by status only if not all are ``ok``."""
        text = f"{count_of(self.faces, 'face')} in {count_of(self.images, 'image')}"
        if self.statuses["ok"] == self.images:
            return text
        counts = (
            f"{self.statuses[status]:,} {status.replace('_', ' ')}"
            for status in STATUSES
            if self.statuses[status]
        )
        return f"{text}: {', '.join(counts)}"


# ---------------------------------------------------------------- indexes
@dataclass(frozen=True)
class Index:
    """Index of a file of results.

    On disk: a magic line, lines of base64 with the digests, and a line of JSON with the rest and a
    checksum of everything, which reveals damage and truncation.

    Attributes:
        summary: counts of the results.
        digests: the digests of the images' names, concatenated; see `digest`.
        size: the file's size in bytes.
        sha256: the file's hash.
        settings: the run's settings; empty for a part.
    """

    summary: RunSummary
    digests: bytes
    size: int
    sha256: str
    settings: Mapping[str, Any]

    def matches(self, file: Path) -> bool:
        """Return True if a file has this size and hash."""
        try:
            return file.stat().st_size == self.size and sha256_of(file) == self.sha256
        except OSError:
            return False


def write_index(
    path: Path,
    file: Path,
    summary: RunSummary,
    digests: Iterable[bytes],
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the index of an existing file of results; raises OSError as `open` does.

    The digests may come in pieces of any number; other arguments as in `Index`.
    """
    rest = {
        "size": file.stat().st_size,
        "sha256": sha256_of(file),
        "run": dict(settings or {}),
        "statuses": dict(summary.statuses),
        "faces": summary.faces,
        "first_problem": summary.first_problem,
    }
    check = hashlib.sha256()
    with path.open("wb") as index:
        index.write(_MAGIC)
        for piece in digests:
            check.update(piece)
            index.write(base64.b64encode(piece) + b"\n")
        # ASCII, so that names that are not UTF-8 survive.
        text = json.dumps(rest)
        check.update(text.encode("ascii"))
        index.write(json.dumps({"rest": text, "check": check.hexdigest()}).encode("ascii"))


def read_index(path: Path) -> Index:
    """Read an index.

    Raises:
        OSError: as `open` does.
        ValueError: if it is not an index, or damaged.
    """
    digests = bytearray()
    try:
        with path.open("rb") as index:
            if index.readline() != _MAGIC:
                raise ValueError("not an index of results")
            while not (line := index.readline()).startswith(b"{"):
                if not line:
                    raise ValueError("it is truncated")
                digests += base64.b64decode(line, validate=False)
        last = json.loads(line)
        check = hashlib.sha256(digests + last["rest"].encode("ascii"))
        if check.hexdigest() != last["check"]:
            raise ValueError("it was changed")
        rest = json.loads(last["rest"])
        summary = RunSummary(Counter(rest["statuses"]), rest["faces"], rest["first_problem"])
        return Index(summary, bytes(digests), rest["size"], rest["sha256"], rest["run"])
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it was changed: {error}") from error


def digest(source: str | None) -> bytes:
    """Return a 16-byte hash of an image's name, to save memory."""
    name = (source or "").encode("utf-8", "surrogatepass")
    hashed = hashlib.blake2b(name, digest_size=_DIGEST_BYTES).digest()
    # The last byte is never NUL, since NumPy strips NULs from the end of a string.
    return hashed[:-1] + bytes([hashed[-1] | 1])


class DigestSet:
    """Set of image names, as a sorted array of their digests, given concatenated."""

    def __init__(self, digests: bytes) -> None:
        import numpy as np

        self._sorted = np.sort(np.frombuffer(digests, f"S{_DIGEST_BYTES}"))

    def __len__(self) -> int:
        return len(self._sorted)

    def __contains__(self, source: str | None) -> bool:
        wanted = digest(source)
        position = int(self._sorted.searchsorted(wanted))
        return position < len(self._sorted) and bool(self._sorted[position] == wanted)


# ---------------------------------------------------------------- the journal
def parts_folder(output: Path) -> Path:
    """Return the folder of an output's parts."""
    return output.with_name(output.name + ".parts")


def record_file(output: Path) -> Path:
    """Return the path of a finished output's index."""
    return output.with_name(f".{output.name}.mien")


class Journal:
    """The parts of one output; a context manager that writes the remaining results on exit.

    Args:
        output: the file of all results at the end; a link is followed.
        output_format: writes and joins the parts.
        settings: the run's settings, a JSON object. A resumed run must have the same, except that
            ``inputs`` may grow.
        resume: continue a run that was killed or has finished, if there is one.

    Attributes:
        summary: counts of all results, including those from before.
        finished: True if the output exists and nothing was added to it.
        interrupted: True if there were parts of an unfinished run.
        damaged: number of damaged parts; their images are analyzed again.
        skipped: number of images that `remaining` skipped because they are done.

    Raises:
        UsageError: if there are parts and ``resume`` is false, the parts or the output belong to
            another run, another process is writing them, or files are in the way that mien did not
            create.
        OutputError: if the output or the parts cannot be written.
    """

    def __init__(
        self,
        output: Path,
        output_format: ResultFormat,
        settings: Mapping[str, Any],
        *,
        resume: bool,
    ) -> None:
        self.output = output.resolve() if output.is_symlink() else output
        self.summary = RunSummary()
        self.finished = self.interrupted = False
        self.damaged = self.skipped = 0
        self._format = output_format
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._folder = parts_folder(self.output)
        self._record = record_file(self.output)
        self._pending: list[Result] = []
        self._started = self._written = time.monotonic()
        self._parts: list[int] = []
        if self.output.is_dir():
            raise OutputError(f"cannot write {output}: it is a folder, expected a file's name")
        self._lock = claim_folder(self._folder)
        try:
            if os.path.lexists(self._record) and not _is_index(self._record):
                raise UsageError(
                    f"{self._record} exists and was not created by mien: move it away, or give "
                    "another --output"
                )
            self._done = DigestSet(self._resume() if resume else self._begin())
        except BaseException:
            release_folder(self._folder, self._lock)
            raise

    @property
    def done(self) -> int:
        """Number of images that had results at the start."""
        return len(self._done)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            # If the cause is a full disk, it was reported already.
            with suppress(OutputError):
                self.flush()
        finally:
            if not self._parts:  # nothing to resume
                self._remove_own()
            release_folder(self._folder, self._lock)

    def __contains__(self, source: str) -> bool:
        """Return True if an image had results at the start."""
        return source in self._done

    def remaining(self, inputs: Iterable[Input]) -> Iterator[Input]:
        """Yield the inputs that have no results yet."""
        for image in inputs:
            if image.source in self._done:
                self.skipped += 1
            else:
                yield image

    def reopen(self) -> None:
        """Make a finished output the first part of a new run; the output stays until the end.

        Raises:
            OutputError: if that cannot be written.
        """
        record = read_index(self._record)
        with replace_atomically(self._part(1)) as temporary:
            self._format.write_part(self._format.read(self.output), temporary)
            self._write_index(1, temporary, record.summary, record.digests)
        self._parts = [1]
        self._write_settings()
        self.finished = False
        self.skipped = 0

    def add(self, result: Result) -> None:
        """Add a result; it is on disk within about a second, or 0.5% of the elapsed time."""
        self.summary.count(result)
        self._pending.append(result)
        now = time.monotonic()
        interval = max(PART_SECONDS, PART_SHARE * (now - self._started))
        if len(self._pending) >= PART_IMAGES or now - self._written >= interval:
            self.flush()

    def flush(self) -> None:
        """Write the pending results as a part.

        Raises:
            OutputError: if that fails; earlier parts are kept.
        """
        if not self._pending:
            return
        number = max(self._parts, default=0) + 1
        summary = RunSummary()
        for result in self._pending:
            summary.count(result)
        digests = b"".join(digest(result.source) for result in self._pending)
        with replace_atomically(self._part(number)) as temporary:
            rows = (row for result in self._pending for row in self._format.rows(result))
            self._format.write_part(rows, temporary)
            self._write_index(number, temporary, summary, digests)
        self._parts.append(number)
        self._pending = []
        self._written = time.monotonic()

    def finish(self) -> None:
        """Join all parts into the output and remove them.

        Raises:
            OutputError: if that fails, or a part was changed; the others are kept.
        """
        self.flush()
        whole, record = self._folder / f"whole{self.output.suffix}", self._folder / "record.index"
        try:
            whole.unlink(missing_ok=True)
            self._format.join(self._checked_parts(), whole)
            digests = (read_index(self._index(number)).digests for number in self._parts)
            write_index(record, whole, self.summary, digests, self._settings)
            for path in (whole, record):
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            # Until run.json is removed, a resumed run joins the parts again, so both are complete.
            record.replace(self._record)
            whole.replace(self.output)
            (self._folder / _RUN).unlink()
        except OSError as error:
            raise OutputError(f"cannot write {self.output}: {error_reason(error)}") from error
        self._parts = []

    def _begin(self) -> bytes:
        """Prepare the folder for a new run; returns no digests."""
        if (self._folder / _RUN).exists():
            raise UsageError(
                f"{self._folder} holds the results of an interrupted run: add --resume to "
                "continue it, or delete that folder to start again"
            )
        self._remove_own()
        self._write_settings()
        return b""

    def _resume(self) -> bytes:
        """Take over a run's parts or its output, if there are any; returns the digests."""
        if not (self._folder / _RUN).exists():
            if not self.output.exists():
                return self._begin()
            self._remove_own()
            record = self._finished_run()
            self.finished = True
            self.summary.add(record.summary)
            return record.digests
        self._check_settings(self._read_settings(), f"or delete {self._folder} to start again")
        self.interrupted = True
        parts = dict(self._intact_parts())
        self._parts = list(parts)
        paths = (path for number in parts for path in (self._part(number), self._index(number)))
        self._remove_own(keep={_RUN, *(path.name for path in paths)})
        self._write_settings()
        for index in parts.values():
            self.summary.add(index.summary)
        return b"".join(index.digests for index in parts.values())

    def _finished_run(self) -> Index:
        """Return the index of the output; raises UsageError unless it is one of this run."""
        hint = "leave --resume out to start again, or give another --output"
        try:
            record = read_index(self._record)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.output} exists, but {self._record.name}, which says what it was made "
                f"from, is missing or damaged: {hint}"
            ) from error
        if not record.matches(self.output):
            raise UsageError(f"{self.output} was changed since it was written: {hint}")
        self._check_settings(record.settings, hint)
        return record

    def _check_settings(self, earlier: Mapping[str, Any], hint: str) -> None:
        """Raise UsageError unless the settings are the same, except for additional inputs."""
        for key in {**earlier, **self._settings}:
            before, now = earlier.get(key), self._settings.get(key)
            if key == _INPUTS:
                missing = sorted(set(before or ()) - set(now or ()))
                if missing:
                    raise UsageError(
                        f"the inputs of {self.output} were {_shortened(before)}, and {missing[0]} "
                        f"is missing here: resume with the same inputs and any new ones, {hint}"
                    )
            elif before != now:
                raise UsageError(
                    f"the run of {self.output} had {key} {_shortened(before)}, this one {key} "
                    f"{_shortened(now)}: resume with the same, {hint}"
                )

    def _read_settings(self) -> dict[str, Any]:
        file = self._folder / _RUN
        try:
            settings = dict(json.loads(file.read_text(encoding="ascii")))
            if not all(isinstance(name, str) for name in settings.get(_INPUTS) or ()):
                raise ValueError("its inputs are not names")
            return settings
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(
                f"{file} cannot be read ({error}): delete {self._folder} to start again"
            ) from error

    def _write_settings(self) -> None:
        with replace_atomically(self._folder / _RUN) as temporary:
            temporary.write_text(json.dumps(self._settings), encoding="ascii")

    def _write_index(self, number: int, part: Path, summary: RunSummary, digests: bytes) -> None:
        with replace_atomically(self._index(number)) as temporary:
            write_index(temporary, part, summary, [digests])

    def _intact_parts(self) -> Iterator[tuple[int, Index]]:
        """Yield the undamaged parts, and count the others."""
        pattern = re.compile(r"part-(\d+)\.jsonl")
        # A kill leaves an index without its part, never a part without its index.
        matches = (pattern.fullmatch(path.name) for path in self._folder.iterdir())
        for number in sorted(int(match[1]) for match in matches if match):
            index = self._intact_index(number)
            if index is None:
                self.damaged += 1
            else:
                yield number, index

    def _checked_parts(self) -> Iterator[Path]:
        """Yield all parts; raises OutputError at the first that is damaged."""
        for number in self._parts:
            if self._intact_index(number) is None:
                raise OutputError(
                    f"{self._part(number)} was changed or removed since it was written: add "
                    "--resume to analyze its images again"
                )
            yield self._part(number)

    def _intact_index(self, number: int) -> Index | None:
        """Return a part's index, or None if it or the part is damaged."""
        try:
            index = read_index(self._index(number))
        except (OSError, ValueError):
            return None
        return index if index.matches(self._part(number)) else None

    def _remove_own(self, keep: Iterable[str] = ()) -> None:
        """Remove mien's files from the folder."""
        for path in self._folder.iterdir():
            if path.name not in keep and _OWN_NAMES.match(path.name):
                with suppress(OSError):
                    path.unlink()

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}.jsonl"

    def _index(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}.index"


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_index(path: Path) -> bool:
    """Return True if a file may be overwritten by an index: it is one (even damaged), or empty."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) in (_MAGIC, b"")
