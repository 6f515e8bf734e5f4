"""Results on disk, part by part, so that a kill at any moment loses and doubles none.

Beside the output ``results.csv`` stands, while the work goes on, the folder ``results.csv.parts``:

- ``mien.lock``: says that the folder is mien's; nothing is taken up or removed where it is not.
- ``run.json``: what the run is of (model, detector, inputs). Without it, the parts mean nothing.
- ``part-000001.index``: which images a part has, their counts and the checksum of
  ``part-000001.csv``: their results. Both are written under other names and renamed, the results
  last: a part counts once they are there, and whole.

In the end the parts are joined into one file, that is renamed to the output, and the folder goes.
What stays is ``.results.csv.mien``, the output's own index, with what the run was of: going on with
a finished output makes it the first part of a run that reads what is new.
A run that goes on reads which images are done from the parts, and does the others.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from mien.batch.formats import PartFormat
from mien.batch.index import (
    Index,
    digest,
    holds,
    is_index,
    read_index,
    sorted_digests,
    write_index,
)
from mien.batch.listing import Input
from mien.batch.tally import Tally
from mien.core.errors import InputError, OutputError, UsageError
from mien.core.files import claim_folder, release_folder, replacing
from mien.core.results import Result

PART_IMAGES = 4096
"""A part has at most as many images, since it is in memory until it is written."""

PART_SECONDS = 1.0
"""A part is written after a second, or after `PART_SHARE` of the time so far if that is more."""

PART_SHARE = 0.005
"""What a kill may cost of the work so far; it keeps the parts of long runs from being many."""

_RUN = "run.json"
_INPUTS = "inputs"
_OWN_NAMES = re.compile(r"\.?(part-\d+|run|whole|record)\.")


def parts_folder(output: Path) -> Path:
    """Return the folder of an output's parts."""
    return output.with_name(output.name + ".parts")


def record_file(output: Path) -> Path:
    """Return the file that says what a finished output was made from."""
    return output.with_name(f".{output.name}.mien")


class Journal:
    """The parts of one output; use as a context manager, which writes what is left on the way out.

    Attributes:
        tally: counts of all results, those that were there at the start included.
        finished: the output is there already, and nothing has been added to it.
        interrupted: there were parts of a run that did not come to its end.
        damaged: parts that were there but not as they were written; their images are read again.
        met: images that `remaining` has passed over, since they are done.
    """

    def __init__(
        self, output: Path, form: PartFormat, run: Mapping[str, Any], *, resume: bool
    ) -> None:
        """Open or make the folder of parts.

        Args:
            output: the file that all results go to in the end; a link is followed.
            form: writes and joins the parts.
            run: what the run is of, as JSON takes it; one that goes on must have the same, but for
                more ``inputs``.
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
        self.damaged = self.met = 0
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
            if os.path.lexists(self._record) and not is_index(self._record):
                raise UsageError(
                    f"{self._record} is there and not a file of mien's: move it away, or give "
                    "another --output"
                )
            self._done = sorted_digests(self._taken_up(resume=resume))
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is left unless it is all finished."""
        try:
            # Where a full disk is the reason for leaving, it is said already.
            with suppress(OutputError):
                self.flush()
        finally:
            if not self._numbers:  # there is nothing to go on with
                self._clear(keep=set())
            release_folder(self._folder, self._lock)

    def has(self, source: str) -> bool:
        """Say whether an image's results were there at the start."""
        return self.done > 0 and holds(self._done, source)

    def remaining(self, inputs: Iterable[Input]) -> Iterator[Input]:
        """Yield the inputs that have no results yet."""
        for one in inputs:
            if self.has(one.source):
                self.met += 1
            else:
                yield one

    def reopen(self) -> None:
        """Make a finished output the first part of a run that adds to it; it stays until the end.

        Raises:
            OutputError: if that cannot be written.
        """
        found = read_index(self._record)
        with replacing(self._part(1)) as temporary:
            self._form.write_part(self.output, temporary)
            self._write_index(1, temporary, found.tally, found.digests)
        self._numbers = [1]
        self._write_run()
        self.finished = False

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
        with replacing(self._part(number)) as temporary:
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
            reason = error.strerror or type(error).__name__
            raise OutputError(f"cannot write {self.output}: {reason}") from error
        self._numbers = []

    def _taken_up(self, *, resume: bool) -> bytes:
        """Return the digests of the images that are done; make the folder ready."""
        file = self._folder / _RUN
        if file.exists():
            if not resume:
                raise UsageError(
                    f"{self._folder} holds the results of an interrupted run: add --resume to go "
                    "on with it, or delete that folder to start anew"
                )
            self._check_same(self._read_run(), f"or delete {self._folder} to start anew")
            self.interrupted = True
            parts = dict(self._whole_parts())
            self._numbers = sorted(parts)
            self._clear(keep={_RUN, *self._part_files()})
            self._write_run()
            for number in self._numbers:
                self.tally.add(parts[number].tally)
            return b"".join(parts[number].digests for number in self._numbers)
        self._clear(keep=set())
        if resume and self.output.exists():
            found = self._finished_run()
            self.finished = True
            self.tally.add(found.tally)
            return found.digests
        self._write_run()
        return b""

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
        with replacing(self._folder / _RUN) as temporary:
            temporary.write_text(json.dumps(self._run), encoding="ascii")

    def _write_index(self, number: int, part: Path, tally: Tally, digests: bytes) -> None:
        with replacing(self._index(number)) as temporary:
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

    def _clear(self, *, keep: set[str]) -> None:
        """Remove what a kill has left half done, and nothing that has other names than mien's."""
        for path in self._folder.iterdir():
            if path.name not in keep and _OWN_NAMES.match(path.name):
                with suppress(OSError):
                    path.unlink()

    def _part_files(self) -> Iterator[str]:
        for number in self._numbers:
            yield self._part(number).name
            yield self._index(number).name

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}{self._form.suffix}"

    def _index(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}.index"


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
