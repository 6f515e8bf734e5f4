"""Results on disk, part by part, so that a kill at any moment loses and doubles none.

While the work goes on, the folder ``results.csv.parts`` stands beside the output ``results.csv``:

- ``mien.lock`` marks the folder as mien's; without it nothing is resumed or removed.
- ``run.json`` says what the run is of (model, detector, inputs); without it the parts mean nothing.
- ``part-000001.index`` has a part's images, counts, and the checksum of ``part-000001.csv``, their
  results. Both are written under other names and renamed, the results last: a part counts once
  both are there and whole.

At the end the parts are joined into one file, which is renamed to the output, and the folder goes.
The hidden file ``.results.csv.mien`` stays: the index of the whole output, with what the run was
of. To resume a finished output makes it the first part of a run that analyzes what is new.
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
from mien.batch.tables import PartFormat
from mien.core.errors import InputError, OutputError, UsageError, error_reason
from mien.core.files import claim_folder, release_folder, replace_atomically, sha256_of
from mien.core.results import STATUSES, Result

PART_IMAGES = 4096
"""Images of a part at most: it is in memory until it is written."""

PART_SECONDS = 1.0
"""A part is written after a second, or after `PART_SHARE` of the time so far if that is more."""

PART_SHARE = 0.005
"""What a kill may cost of the work so far; it keeps long runs from having very many parts."""

_RUN = "run.json"
_INPUTS = "inputs"
_OWN_NAMES = re.compile(r"\.?(part-\d+|run|whole|record)\.")

_MAGIC = b"mien batch 1\n"
_DIGEST_BYTES = 16


@dataclass
class Tally:
    """Counts of images and faces, for the closing line and the exit code.

    Attributes:
        statuses: images by status.
        faces: all of them.
        first_problem: the first error's line, or None.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    faces: int = 0
    first_problem: str | None = None

    @property
    def images(self) -> int:
        """All images."""
        return self.statuses.total()

    @property
    def failed(self) -> int:
        """Images that could not be read, or failed otherwise."""
        return self.statuses["unreadable"] + self.statuses["error"]

    def count(self, result: Result) -> None:
        """Count one result."""
        self.statuses[result.status] += 1
        self.faces += len(result.faces)
        self.first_problem = self.first_problem or result.error

    def add(self, other: Tally) -> None:
        """Add the counts of later results."""
        self.statuses.update(other.statuses)
        self.faces += other.faces
        self.first_problem = self.first_problem or other.first_problem

    def summary(self) -> str:
        """Return the counts for people; those by status unless all are ``ok``."""
        faces = "1 face" if self.faces == 1 else f"{self.faces:,} faces"
        text = f"{faces} in " + ("1 image" if self.images == 1 else f"{self.images:,} images")
        if self.statuses["ok"] == self.images:
            return text
        named = (
            f"{self.statuses[name]:,} {name.replace('_', ' ')}"
            for name in STATUSES
            if self.statuses[name]
        )
        return f"{text}: {', '.join(named)}"


# ---------------------------------------------------------------- the index of a file of results


@dataclass(frozen=True)
class Index:
    """What is known of a file of results.

    On disk: a magic line, lines of base64 with the digests, and one of JSON with everything else
    and a checksum over all, so that an index that was cut short or changed is recognized.

    Attributes:
        tally: counts of its results.
        digests: of its images' names, concatenated; see `digest`.
        size: the file's, in bytes.
        sha256: the file's.
        run: what the run is of; empty for a part.
    """

    tally: Tally
    digests: bytes
    size: int
    sha256: str
    run: Mapping[str, Any]

    def matches(self, file: Path) -> bool:
        """Return whether a file is the one that this was written for."""
        try:
            return file.stat().st_size == self.size and sha256_of(file) == self.sha256
        except OSError:
            return False


def write_index(
    path: Path,
    file: Path,
    tally: Tally,
    digests: Iterable[bytes],
    run: Mapping[str, Any] | None = None,
) -> None:
    """Write the index of a file of results that is on disk; raises OSError as `open` does.

    The digests of its images' names may come in pieces of any length; ``run`` as `Index` has it.
    """
    rest = {
        "size": file.stat().st_size,
        "sha256": sha256_of(file),
        "run": dict(run or {}),
        "statuses": dict(tally.statuses),
        "faces": tally.faces,
        "first_problem": tally.first_problem,
    }
    check = hashlib.sha256()
    with path.open("wb") as index:
        index.write(_MAGIC)
        for piece in digests:
            check.update(piece)
            index.write(base64.b64encode(piece) + b"\n")
        # ASCII alone: names that are not UTF-8 come back as they were.
        text = json.dumps(rest)
        check.update(text.encode("ascii"))
        index.write(json.dumps({"rest": text, "check": check.hexdigest()}).encode("ascii"))


def read_index(path: Path) -> Index:
    """Read an index.

    Raises:
        OSError: as `open` does.
        ValueError: if it is none, or damaged.
    """
    digests = bytearray()
    try:
        with path.open("rb") as index:
            if index.readline() != _MAGIC:
                raise ValueError("it is not an index of results")
            while not (line := index.readline()).startswith(b"{"):
                if not line:
                    raise ValueError("it is cut short")
                digests += base64.b64decode(line, validate=False)
        last = json.loads(line)
        check = hashlib.sha256(digests + last["rest"].encode("ascii"))
        if check.hexdigest() != last["check"]:
            raise ValueError("it has been changed")
        rest = json.loads(last["rest"])
        tally = Tally(Counter(rest["statuses"]), rest["faces"], rest["first_problem"])
        return Index(tally, bytes(digests), rest["size"], rest["sha256"], rest["run"])
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it has been changed: {error}") from error


def digest(source: str | None) -> bytes:
    """Return the 16-byte hash that stands for an image's name: a set of strings takes far more."""
    name = (source or "").encode("utf-8", "surrogatepass")
    found = hashlib.blake2b(name, digest_size=_DIGEST_BYTES).digest()
    # NumPy strips NULs from the end of a string: one that had them would not be found again.
    return found[:-1] + bytes([found[-1] | 1])


class DigestSet:
    """The names of many images, as a sorted array of their digests, which come concatenated."""

    def __init__(self, digests: bytes) -> None:
        import numpy as np

        self._sorted = np.sort(np.frombuffer(digests, f"S{_DIGEST_BYTES}"))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._sorted)

    def __contains__(self, source: str | None) -> bool:
        """Return whether a name is one of them."""
        wanted = digest(source)
        at = int(self._sorted.searchsorted(wanted))
        return at < len(self._sorted) and bool(self._sorted[at] == wanted)


# ---------------------------------------------------------------- the journal


def parts_folder(output: Path) -> Path:
    """Return the folder of an output's parts."""
    return output.with_name(output.name + ".parts")


def record_file(output: Path) -> Path:
    """Return the index of a finished output."""
    return output.with_name(f".{output.name}.mien")


class Journal:
    """The parts of one output; use as a context manager, which writes what is left on the way out.

    Attributes:
        tally: counts of all results, those that were there at the start included.
        finished: the output is there already, and nothing has been added to it.
        interrupted: there were parts of a run that did not finish.
        damaged: parts that were not as they were written; their images are analyzed again.
        skipped: images that `remaining` has passed over, since they are done.
    """

    def __init__(
        self, output: Path, form: PartFormat, run: Mapping[str, Any], *, resume: bool
    ) -> None:
        """Open or make the folder of parts.

        Args:
            output: the file that all results go to in the end; a link is followed.
            form: writes and joins the parts.
            run: what the run is of, for JSON; a resumed run must have the same, but for more
                ``inputs``.
            resume: go on where an earlier run was killed or has ended, if there was one.

        Raises:
            UsageError: if there are parts and ``resume`` is not asked for, or they or the output
                are of another run, or another process is writing them, or files are in the way
                that are not mien's.
            OutputError: if the output or the parts cannot be written.
        """
        self.output = output.resolve() if output.is_symlink() else output
        self.tally = Tally()
        self.finished = self.interrupted = False
        self.damaged = self.skipped = 0
        self._form = form
        self._run: dict[str, Any] = json.loads(json.dumps(run))
        self._folder = parts_folder(self.output)
        self._record = record_file(self.output)
        self._waiting: list[Result] = []
        self._started = self._written = time.monotonic()
        self._numbers: list[int] = []
        if self.output.is_dir():
            raise OutputError(f"cannot write {output}: it is a folder, expected a file's name")
        self._lock = claim_folder(self._folder)
        try:
            if os.path.lexists(self._record) and not _is_index(self._record):
                raise UsageError(
                    f"{self._record} is there and not a file of mien's: move it away, or give "
                    "another --output"
                )
            self._done = DigestSet(self._resumed() if resume else self._begun())
        except BaseException:
            release_folder(self._folder, self._lock)
            raise

    @property
    def done(self) -> int:
        """Images whose results were there at the start."""
        return len(self._done)

    def __enter__(self) -> Journal:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left unless it is all finished."""
        try:
            # Where a full disk is the reason for leaving, it is said already.
            with suppress(OutputError):
                self.flush()
        finally:
            if not self._numbers:  # there is nothing to resume
                self._remove_own()
            release_folder(self._folder, self._lock)

    def __contains__(self, source: str) -> bool:
        """Return whether an image's results were there at the start."""
        return source in self._done

    def remaining(self, inputs: Iterable[Input]) -> Iterator[Input]:
        """Yield the inputs that have no results yet."""
        for one in inputs:
            if one.source in self._done:
                self.skipped += 1
            else:
                yield one

    def reopen(self) -> None:
        """Make a finished output the first part of a run that adds to it; it stays until the end.

        Raises:
            OutputError: if that cannot be written.
        """
        found = read_index(self._record)
        with replace_atomically(self._part(1)) as temporary:
            self._form.to_part(self.output, temporary)
            self._write_index(1, temporary, found.tally, found.digests)
        self._numbers = [1]
        self._write_run()
        self.finished = False
        self.skipped = 0

    def add(self, result: Result) -> None:
        """Take a result; it is on disk within about a second, or half a percent of the time."""
        self.tally.count(result)
        self._waiting.append(result)
        now = time.monotonic()
        pause = max(PART_SECONDS, PART_SHARE * (now - self._started))
        if len(self._waiting) >= PART_IMAGES or now - self._written >= pause:
            self.flush()

    def flush(self) -> None:
        """Write the results that wait as a part.

        Raises:
            OutputError: if that fails; the parts before it stay.
        """
        if not self._waiting:
            return
        number = max(self._numbers, default=0) + 1
        counted = Tally()
        for result in self._waiting:
            counted.count(result)
        names = b"".join(digest(result.source) for result in self._waiting)
        with replace_atomically(self._part(number)) as temporary:
            self._form.write(self._waiting, temporary)
            self._write_index(number, temporary, counted, names)
        self._numbers.append(number)
        self._waiting = []
        self._written = time.monotonic()

    def finish(self) -> None:
        """Join all parts into the output and remove them.

        Raises:
            OutputError: if that fails, or a part is not what was written; the others stay.
        """
        self.flush()
        whole, record = self._folder / f"whole{self.output.suffix}", self._folder / "record.index"
        try:
            whole.unlink(missing_ok=True)
            self._form.join(self._checked_parts(), whole)
            digests = (read_index(self._index(number)).digests for number in self._numbers)
            write_index(record, whole, self.tally, digests, self._run)
            for path in (whole, record):
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            # Until run.json is gone, a run that goes on joins the parts again: neither is missed.
            record.replace(self._record)
            whole.replace(self.output)
            (self._folder / _RUN).unlink()
        except OSError as error:
            raise OutputError(f"cannot write {self.output}: {error_reason(error)}") from error
        self._numbers = []

    def _begun(self) -> bytes:
        """Make the folder ready for a new run; returns no digests."""
        if (self._folder / _RUN).exists():
            raise UsageError(
                f"{self._folder} holds the results of an interrupted run: add --resume to go "
                "on with it, or delete that folder to start anew"
            )
        self._remove_own()
        self._write_run()
        return b""

    def _resumed(self) -> bytes:
        """Take up a run's parts or its output, if there are any; returns the images' digests."""
        if not (self._folder / _RUN).exists():
            if not self.output.exists():
                return self._begun()
            self._remove_own()
            found = self._finished_run()
            self.finished = True
            self.tally.add(found.tally)
            return found.digests
        self._check_same(self._read_run(), f"or delete {self._folder} to start anew")
        self.interrupted = True
        parts = dict(self._whole_parts())
        self._numbers = list(parts)
        paths = (each for number in parts for each in (self._part(number), self._index(number)))
        self._remove_own(keep={_RUN, *(path.name for path in paths)})
        self._write_run()
        for index in parts.values():
            self.tally.add(index.tally)
        return b"".join(index.digests for index in parts.values())

    def _finished_run(self) -> Index:
        """Return the index of an output; raises UsageError if it is not one of this run."""
        anew = "leave --resume out to write it anew, or give another --output"
        try:
            found = read_index(self._record)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.output} is there, but {self._record.name}, which says what it was made "
                f"from, is missing or damaged: {anew}"
            ) from error
        if not found.matches(self.output):
            raise UsageError(f"{self.output} has been changed since it was written: {anew}")
        self._check_same(found.run, anew)
        return found

    def _check_same(self, earlier: Mapping[str, Any], hint: str) -> None:
        """Raise UsageError unless all is as it was, but for more inputs."""
        for key in {**earlier, **self._run}:
            before, now = earlier.get(key), self._run.get(key)
            if key == _INPUTS:
                missing = sorted(set(before or ()) - set(now or ()))
                if missing:
                    raise UsageError(
                        f"{self.output} is of {_shortened(before)}, and {missing[0]} is missing "
                        f"here: resume it with the same inputs, to which more may be added, {hint}"
                    )
            elif before != now:
                raise UsageError(
                    f"the run of {self.output} had {key} {_shortened(before)}, this one {key} "
                    f"{_shortened(now)}: resume it with the same, {hint}"
                )

    def _read_run(self) -> dict[str, Any]:
        file = self._folder / _RUN
        try:
            run = dict(json.loads(file.read_text(encoding="ascii")))
            if not all(isinstance(each, str) for each in run.get(_INPUTS) or ()):
                raise ValueError("its inputs are no names")
            return run
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(
                f"{file} cannot be read ({error}): delete {self._folder} to start anew"
            ) from error

    def _write_run(self) -> None:
        with replace_atomically(self._folder / _RUN) as temporary:
            temporary.write_text(json.dumps(self._run), encoding="ascii")

    def _write_index(self, number: int, part: Path, tally: Tally, digests: bytes) -> None:
        with replace_atomically(self._index(number)) as temporary:
            write_index(temporary, part, tally, [digests])

    def _whole_parts(self) -> Iterator[tuple[int, Index]]:
        """Yield the parts that are as they were written, counting those that are not."""
        pattern = re.compile(rf"part-(\d+){re.escape(self._form.suffix)}")
        # A kill leaves an index without its part, never a part without its index.
        found = (pattern.fullmatch(path.name) for path in self._folder.iterdir())
        for number in sorted(int(match[1]) for match in found if match):
            index = self._whole_index(number)
            if index is None:
                self.damaged += 1
            else:
                yield number, index

    def _checked_parts(self) -> Iterator[Path]:
        """Yield all parts; raises OutputError at the first that is not what was written."""
        for number in self._numbers:
            if self._whole_index(number) is None:
                raise OutputError(
                    f"{self._part(number)} has been changed or removed since it was written: add "
                    "--resume to read its images again"
                )
            yield self._part(number)

    def _whole_index(self, number: int) -> Index | None:
        """Return a part's index, or None unless both are as they were written."""
        try:
            index = read_index(self._index(number))
        except (OSError, ValueError):
            return None
        return index if index.matches(self._part(number)) else None

    def _remove_own(self, keep: Iterable[str] = ()) -> None:
        """Remove what a kill has left half done, and nothing whose name is not mien's."""
        for path in self._folder.iterdir():
            if path.name not in keep and _OWN_NAMES.match(path.name):
                with suppress(OSError):
                    path.unlink()

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}{self._form.suffix}"

    def _index(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}.index"


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_index(path: Path) -> bool:
    """Return whether a file may be overwritten by an index: it is one, damaged or not, or empty."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) in (_MAGIC, b"")
