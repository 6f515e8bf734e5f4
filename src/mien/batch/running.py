"""A whole run: images through an engine into a file, with a progress line and counts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien.batch.engines import Engine
from mien.batch.formats import PartFormat
from mien.batch.journal import Journal
from mien.batch.listing import Input
from mien.batch.tally import Tally
from mien.cli.output import note
from mien.core.progress import Progress

_COUNT_SECONDS = 1.0


@dataclass(frozen=True)
class Target:
    """Where results go.

    Attributes:
        output: the file.
        form: its format.
        resume: go on with an interrupted run, if there is one.
        quiet: no progress and no notes.
    """

    output: Path
    form: PartFormat
    resume: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Reading:
    """What is read.

    Attributes:
        inputs: the images, no source twice.
        counted: as many with the same sources, gone through for the progress line alone.
    """

    inputs: Iterable[Input]
    counted: Iterable[Input]


def run_batch(reading: Reading, engine: Engine, target: Target, run: Mapping[str, Any]) -> Tally:
    """Read all inputs that have no results yet, and write every result into the target.

    Args:
        reading: the images.
        engine: reads the images.
        target: where results go.
        run: what the run is of; see `Journal`.

    Returns:
        The counts of all results, an interrupted run's included.

    Raises:
        UsageError: if an interrupted run stands in the way; see `Journal`.
        OutputError: if the results cannot be written.
        ModelError: if the network fails.
    """

    def say(text: str) -> None:
        note(text, quiet=target.quiet)

    with Journal(target.output, target.form, run, resume=target.resume) as journal:
        if journal.finished:
            if not any(True for _ in journal.remaining(reading.counted)):
                say(f"{target.output} is complete: nothing to resume{_kept(journal)}")
                return journal.tally
            journal.reopen()
            journal.met = 0
        if journal.damaged:
            what = "1 part of it is" if journal.damaged == 1 else f"{journal.damaged:,} parts are"
            say(f"{target.output}: {what} damaged, whose images are read again")
        if journal.done:
            say(f"going on with {target.output}: {journal.done:,} images are done")
        try:
            _read_all(reading, engine, journal, quiet=target.quiet)
        except KeyboardInterrupt:
            journal.flush()
            text = (
                f"{journal.tally.images:,} images are done: add --resume to go on with the others"
            )
            say(text)
            raise
        journal.finish()
        say(f"{target.output}: {journal.tally.summary()}{_kept(journal)}")
    return journal.tally


def _kept(journal: Journal) -> str:
    """Say of how many images there are results that are not among the inputs any more."""
    kept = journal.done - journal.met
    return f" ({kept:,} of them not among the inputs now)" if kept else ""


def _read_all(reading: Reading, engine: Engine, journal: Journal, *, quiet: bool) -> None:
    # An image that ended a run may do so again: a run that goes on is to outlive it.
    left = journal.remaining(reading.inputs)
    found = engine(left, in_order=False, careful=journal.interrupted)
    with (
        closing(found) as results,
        Progress("reading faces", unit="img", quiet=quiet) as progress,
        _Count(progress) as count,
    ):
        if not quiet and sys.stderr.isatty():
            count.start(_new(journal, reading.counted))
        for result in results:
            journal.add(result)
            progress.advance()
        # Known now at the latest, whether or not the counting came to its end.
        count.stop()
        progress.total = progress.count


def _new(journal: Journal, inputs: Iterable[Input]) -> Iterator[Input]:
    return (one for one in inputs if not journal.has(one.source))


class _Count:
    """Counts images beside the work, so that the progress line learns how many there are."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, inputs: Iterator[Input]) -> None:
        self._thread = threading.Thread(target=self._count, args=(inputs,), daemon=True)
        self._thread.start()

    def _count(self, inputs: Iterator[Input]) -> None:
        total = 0
        for _ in inputs:
            if self._stopped.is_set():
                return
            total += 1
        self._progress.total = total

    def __enter__(self) -> _Count:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(_COUNT_SECONDS)  # a disk may be slow to answer
