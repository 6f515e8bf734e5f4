"""Batch runs: the local engine, and resumable runs into a file."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mien.batch.analysis import (
    Engine,
    ImageTimeout,
    ProcessPool,
    analyze_with_timeout,
    chunked,
)
from mien.batch.inputs import Input
from mien.batch.journal import Journal, RunSummary, count_of
from mien.batch.tables import ResultFormat
from mien.core.process import usable_cores
from mien.core.progress import Progress
from mien.core.results import Result

IN_PROCESS_IMAGES = 64
"""Fewer images are analyzed in this process, which is faster than loading the model in another."""

WORKERS_PER_CORE = 4
"""Limit on worker processes, each of which holds the model in memory."""

_JOIN_SECONDS = 1.0


# ---------------------------------------------------------------- engines
class LocalEngine(Engine):
    """Analyzes images in processes of this machine.

    A few images, or those of a single worker, are analyzed in this process by ``recognizer``.
    """

    def __call__(
        self, inputs: Iterable[Input], *, in_order: bool = True, isolate: bool = False
    ) -> Generator[Result, None, None]:
        """Yield one result per image; see `Engine`. Raises ModelError if the network fails."""
        cores = usable_cores()
        workers = min(self.workers or cores, WORKERS_PER_CORE * cores)
        iterator = iter(inputs)
        first = list(islice(iterator, IN_PROCESS_IMAGES))
        chunks = chunked(chain(first, iterator))
        if isolate or (workers > 1 and len(first) == IN_PROCESS_IMAGES):
            yield from ProcessPool(self, workers).results(chunks, in_order=in_order)
            return
        for chunk in chunks:
            try:
                yield from analyze_with_timeout(
                    self.recognizer, chunk, batch_size=self.batch_size, timeout=self.timeout
                )
            except ImageTimeout as error:
                # The hung thread keeps this process's recognizer: continue in a process that can
                # be killed.
                yield from ProcessPool(self, 1).results(chunks, hung=(chunk, error.index))


# ---------------------------------------------------------------- runs
def run_batch(
    inputs: Iterable[Input],
    engine: Engine,
    output: Path,
    output_format: ResultFormat,
    settings: Mapping[str, Any],
    *,
    resume: bool,
    inputs_to_count: Iterable[Input],
    notify: Callable[[str], None] | None,
) -> RunSummary:
    """Analyze all inputs that have no results yet, and write all results into one file.

    Args:
        inputs: the images, without duplicate sources.
        engine: analyzes them.
        output: the file.
        output_format: its format.
        settings: what a resumed run must have in common with this one; see `Journal`.
        resume: continue an interrupted or finished run, if there is one.
        inputs_to_count: a second iterable of the same images, to count them for the progress bar.
        notify: receives messages for the user; None for no messages and no progress bar.

    Returns:
        The summary of all results, including those of an interrupted run.

    Raises:
        UsageError: if there is an interrupted run, or one with other settings; see `Journal`.
        OutputError: if the results cannot be written.
        ModelError: if the network fails.
    """
    quiet = notify is None
    notify = notify or (lambda _: None)
    with Journal(output, output_format, settings, resume=resume) as journal:
        if journal.finished:
            if not any(True for _ in journal.remaining(inputs_to_count)):
                notify(f"{output} is complete: nothing to resume{_missing(journal)}")
                return journal.summary
            journal.reopen()
        if journal.damaged:
            parts = count_of(journal.damaged, "damaged part")
            notify(f"{output}: {parts}, whose images are analyzed again")
        if journal.done:
            notify(f"resuming {output}: {count_of(journal.done, 'image')} done")
        try:
            _analyze(inputs, engine, journal, inputs_to_count, quiet=quiet)
        except KeyboardInterrupt:
            journal.flush()
            done = count_of(journal.summary.images, "image")
            notify(f"{done} done: add --resume to continue with the others")
            raise
        journal.finish()
        notify(f"{output}: {journal.summary.text()}{_missing(journal)}")
    return journal.summary


def _missing(journal: Journal) -> str:
    """Return a note on images that have results but are no longer among the inputs."""
    missing = journal.done - journal.skipped
    return f" ({missing:,} of them no longer among the inputs)" if missing else ""


def _analyze(
    inputs: Iterable[Input],
    engine: Engine,
    journal: Journal,
    inputs_to_count: Iterable[Input],
    *,
    quiet: bool,
) -> None:
    if quiet or not sys.stderr.isatty():
        inputs_to_count = ()
    # An image that crashed the earlier run must not crash this one.
    generator = engine(journal.remaining(inputs), in_order=False, isolate=journal.interrupted)
    with (
        closing(generator) as results,
        Progress("reading faces", unit="img", quiet=quiet) as progress,
    ):
        new = (image for image in inputs_to_count if image.source not in journal)
        with _count_in_thread(progress, new):
            for result in results:
                journal.add(result)
                progress.advance()
        progress.total = progress.count


@contextmanager
def _count_in_thread(progress: Progress, inputs: Iterable[Input]) -> Iterator[None]:
    """Set the progress bar's total by counting the inputs in a thread."""
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
