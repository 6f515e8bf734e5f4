"""Results on disk, part by part, so that a kill at any moment loses and doubles none.

Beside the output ``results.csv`` stands, while the work goes on, the folder ``results.csv.parts``:

- ``run.json``: what the run is of (model, detector, inputs). Without it, the folder means nothing.
- ``part-000001.json``: the names and counts of a part's images; ``part-000001.csv``: their results.
  Both are written under other names and renamed, the results last: a part counts once they are
  there, and whole.

In the end the parts are joined into one file, that is renamed to the output, and the folder goes.
A run that goes on reads which images are done from the parts, and does the others.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from mien.core.errors import InputError, OutputError, UsageError
from mien.core.files import replacing
from mien.core.results import Result
from mien.interfaces.batch.done_names import digest, holds, sorted_digests
from mien.interfaces.batch.folder_lock import LOCK_NAME, locked
from mien.interfaces.batch.formats import PartFormat
from mien.interfaces.batch.listing import Input
from mien.interfaces.batch.tally import Tally

PART_IMAGES = 4096
"""A part has at most as many images, since it is in memory until it is written."""

PART_SECONDS = 1.0
"""A part is written after a second, or after `PART_SHARE` of the time so far if that is more."""

PART_SHARE = 0.005
"""What a kill may cost of the work so far; it keeps the parts of long runs from being many."""

_RUN = "run.json"


def parts_folder(output: Path) -> Path:
    """Return the folder of an output's parts."""
    return output.with_name(output.name + ".parts")


class Journal:
    """The parts of one output; use as a context manager, which writes what is left on the way out.

    Attributes:
        done: images whose results were there at the start.
        tally: counts of all results, those that were there included.
    """

    def __init__(
        self, output: Path, form: PartFormat, run: Mapping[str, Any], *, resume: bool
    ) -> None:
        """Open or make the folder of parts.

        Args:
            output: the file that all results go to in the end; a link is followed.
            form: writes and joins the parts.
            run: what the run is of, as JSON takes it; one that goes on must have the same.
            resume: go on where an earlier run was killed, if there was one.

        Raises:
            UsageError: if there are parts and ``resume`` is not asked for, or they are of another
                run, or another process is writing them.
            OutputError: if the output or the parts cannot be written.
        """
        self.output = output.resolve() if output.is_symlink() else output
        self.tally = Tally()
        self._form = form
        self._folder = parts_folder(self.output)
        self._waiting: list[Result] = []
        self._started = self._written = time.monotonic()
        self._numbers: list[int] = []
        self._finished = False
        if self.output.is_dir():
            raise OutputError(f"cannot write {output}: it is a folder, expected a file's name")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {output}: {error.strerror}") from error
        self._lock = locked(self._folder)
        try:
            self._done = self._taken_up(run, resume=resume)
        except BaseException:
            self._lock.close()
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
            if not self._finished:
                # Where a full disk is the reason for leaving, it is said already.
                with suppress(OutputError):
                    self.flush()
        finally:
            self._lock.close()
            if not self._finished and not self._numbers:
                shutil.rmtree(self._folder, ignore_errors=True)

    def remaining(self, inputs: Iterable[Input]) -> Iterator[Input]:
        """Yield the inputs that have no results yet."""
        if not self.done:
            yield from inputs
            return
        for one in inputs:
            if not holds(self._done, one.source):
                yield one

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
        names = [result.source for result in self._waiting]
        manifest = {**counted.to_dict(), "sources": names}
        with replacing(self._manifest(number)) as temporary:
            # ASCII alone: names that are not UTF-8 come back as they were.
            temporary.write_text(json.dumps(manifest), encoding="ascii")
        with replacing(self._part(number)) as temporary:
            self._form.write(self._waiting, temporary)
        self._numbers.append(number)
        self._waiting = []
        self._written = time.monotonic()

    def finish(self) -> None:
        """Join all parts into the output and remove them.

        Raises:
            OutputError: if that fails; the parts stay.
        """
        self.flush()
        whole = self._folder / f"whole{self.output.suffix}"
        try:
            self._form.join((self._part(number) for number in self._numbers), whole)
            with whole.open("rb+") as file:
                os.fsync(file.fileno())
            whole.replace(self.output)
            self._finished = True
            # From here on the folder is rubbish, whether or not all of it goes.
            (self._folder / _RUN).unlink()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OutputError(f"cannot write {self.output}: {reason}") from error
        self._lock.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _taken_up(self, run: Mapping[str, Any], *, resume: bool) -> Any:
        """Return the sorted digests of the images that are done; make the folder ready."""
        file = self._folder / _RUN
        if not file.exists():
            self._clear(keep=())
            with replacing(file) as temporary:
                temporary.write_text(json.dumps(run), encoding="ascii")
            return sorted_digests(b"")
        if not resume:
            raise UsageError(
                f"{self._folder} holds the results of an interrupted run: add --resume to go on "
                "with it, or delete that folder to start anew"
            )
        self._check_same(file, run)
        self._numbers = sorted(
            int(path.stem.removeprefix("part-"))
            for path in self._folder.glob(f"part-*{self._form.suffix}")
            if self._manifest_of(path).exists()
        )
        known = [file, self._folder / LOCK_NAME]
        for number in self._numbers:
            known += [self._manifest(number), self._part(number)]
        self._clear(keep=known)
        return sorted_digests(b"".join(self._digests()))

    def _check_same(self, file: Path, run: Mapping[str, Any]) -> None:
        try:
            earlier = json.loads(file.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{file} cannot be read ({error}): delete {self._folder} to start anew"
            ) from error
        now = json.loads(json.dumps(run))
        for key in {**earlier, **now}:
            if earlier.get(key) != now.get(key):
                raise UsageError(
                    f"the interrupted run had {_said(key, earlier)}, this one {_said(key, now)}: "
                    f"resume it with the same, or delete {self._folder} to start anew"
                )

    def _digests(self) -> Iterator[bytes]:
        """Yield each finished part's digests, counting its results."""
        for number in self._numbers:
            file = self._manifest(number)
            try:
                manifest = json.loads(file.read_text(encoding="ascii"))
                self.tally.add(Tally.from_dict(manifest))
                yield b"".join(map(digest, manifest["sources"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{file} cannot be read ({error}): delete {self._folder} to start anew"
                ) from error

    def _clear(self, *, keep: Iterable[Path]) -> None:
        """Remove what a kill has left half done."""
        kept = {path.name for path in keep} | {LOCK_NAME}
        for path in self._folder.iterdir():
            if path.name not in kept:
                with suppress(OSError):
                    path.unlink()

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}{self._form.suffix}"

    def _manifest(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}.json"

    def _manifest_of(self, part: Path) -> Path:
        return part.with_suffix(".json")


def _said(key: str, run: Mapping[str, Any]) -> str:
    value = run.get(key)
    text = json.dumps(value) if isinstance(value, list | dict) else str(value)
    return f"{key} {text if len(text) <= 60 else text[:57] + '...'}"
