"""A whole run: images through an engine into a file, with progress and counts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mien.batch.engines import Engine
from mien.batch.inputs import Input
from mien.batch.journal import Journal, Tally
from mien.batch.tables import PartFormat
from mien.core.progress import Progress

_JOIN_SECONDS = 1.0


def run_batch(
    inputs: Iterable[Input],
    engine: Engine,
    output: Path,
    form: PartFormat,
    run: Mapping[str, Any],
    *,
    resume: bool,
    counted: Iterable[Input],
    say: Callable[[str], None] | None,
) -> Tally:
    """Analyze all inputs that have no results yet, and write every result into one file.

    Args:
        inputs: the images, no source twice.
        engine: analyzes them.
        output: the file.
        form: its format.
        run: what the run is of; see `Journal`.
        resume: go on with an interrupted or finished run, if there is one.
        counted: inputs of the same sources, iterated over for their number alone.
        say: takes a line for the user; None: neither lines nor progress.

    Returns:
        The counts of all results, an interrupted run's included.

    Raises:
        UsageError: if an interrupted run stands in the way; see `Journal`.
        OutputError: if the results cannot be written.
        ModelError: if the network fails.
    """
    quiet = say is None
    say = say or (lambda _: None)
    with Journal(output, form, run, resume=resume) as journal:
        if journal.finished:
            if not any(True for _ in journal.remaining(counted)):
                say(f"{output} is complete: nothing to resume{_gone(journal)}")
                return journal.tally
            journal.reopen()
        if journal.damaged:
            what = "1 part of it is" if journal.damaged == 1 else f"{journal.damaged:,} parts are"
            say(f"{output}: {what} damaged, whose images are read again")
        if journal.done:
            say(f"going on with {output}: {journal.done:,} images are done")
        try:
            _analyze(inputs, engine, journal, counted, quiet=quiet)
        except KeyboardInterrupt:
            journal.flush()
            done = journal.tally.images
            say(f"{done:,} images are done: add --resume to go on with the others")
            raise
        journal.finish()
        say(f"{output}: {journal.tally.summary()}{_gone(journal)}")
    return journal.tally


def _gone(journal: Journal) -> str:
    """Return the number of images with results that are not among the inputs any more."""
    gone = journal.done - journal.skipped
    return f" ({gone:,} of them not among the inputs now)" if gone else ""


def _analyze(
    inputs: Iterable[Input],
    engine: Engine,
    journal: Journal,
    counted: Iterable[Input],
    *,
    quiet: bool,
) -> None:
    if quiet or not sys.stderr.isatty():
        counted = ()
    # An image that ended the earlier run must not end this one, too.
    found = engine(journal.remaining(inputs), in_order=False, isolate=journal.interrupted)
    with (
        closing(found) as results,
        Progress("reading faces", unit="img", quiet=quiet) as progress,
    ):
        with _counting(progress, (one for one in counted if one.source not in journal)):
            for result in results:
                journal.add(result)
                progress.advance()
        progress.total = progress.count


@contextmanager
def _counting(progress: Progress, inputs: Iterable[Input]) -> Iterator[None]:
    """Count the inputs in a thread, so that the progress line learns its total."""
    stopped = threading.Event()

    def count() -> None:
        total = 0
        for _ in inputs:
            if stopped.is_set():
                return
            total += 1
        progress.total = total

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(_JOIN_SECONDS)  # a disk may be slow to answer
