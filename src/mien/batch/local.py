"""The local engine: images through this process or several, results in the order of the images."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from mien.batch.chunks import chunked
from mien.batch.listing import Input
from mien.batch.loading import RecognizerSource
from mien.batch.watched import TIMEOUT_SECONDS, Hung, analyze_watched, late_result
from mien.core.results import Result

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

FEW_IMAGES = 64
"""Fewer are read in this process, before another one would have loaded the model."""

WORKERS_A_CORE = 4
"""More would only wait for one another, each with the model in memory."""


class LocalEngine:
    """Reads images in processes of this machine.

    Args:
        source: what each process loads its recognizer from.
        recognizer: this process's own, for a few images or a single worker.
        workers: processes; those that the machine has cores for unless given.
        batch_size: faces that go through the network at once.
        timeout: seconds that one image may take.
    """

    def __init__(
        self,
        source: RecognizerSource,
        recognizer: Recognizer,
        *,
        workers: int | None = None,
        batch_size: int,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """See the class."""
        self._source = source
        self._recognizer = recognizer
        cores = usable_cores()
        self._workers = cores if workers is None else min(workers, WORKERS_A_CORE * cores)
        self._batch_size = batch_size
        self._timeout = timeout

    def __call__(
        self, inputs: Iterable[Input], *, in_order: bool = True, careful: bool = False
    ) -> Generator[Result, None, None]:
        """Yield one result an input; see `Engine`. Raises ModelError if the network fails."""
        rest = iter(inputs)
        few = list(islice(rest, FEW_IMAGES))
        chunks = chunked(chain(few, rest))
        if careful or (self._workers > 1 and len(few) == FEW_IMAGES):
            yield from self._elsewhere(self._workers, chunks, in_order=in_order)
            return
        for chunk in chunks:
            try:
                yield from analyze_watched(
                    self._recognizer, chunk, batch_size=self._batch_size, timeout=self._timeout
                )
            except Hung as hung:
                yield from self._past(hung.place, chunk, chunks)

    def _past(
        self, place: int, chunk: list[Input], chunks: Iterator[list[Input]]
    ) -> Iterator[Result]:
        """Go on in a process that can be ended, since the thread that hangs cannot."""
        if place < len(chunk):
            before, after = chunk[:place], chunk[place + 1 :]
            yield from self._elsewhere(1, iter([before] if before else []))
            yield late_result(self._recognizer, chunk[place], self._timeout)
        else:
            after = chunk
        yield from self._elsewhere(1, chain([after] if after else [], chunks))

    def _elsewhere(
        self, workers: int, chunks: Iterator[list[Input]], *, in_order: bool = True
    ) -> Iterator[Result]:
        from mien.batch.processes import Processes

        pool = Processes(
            self._source,
            self._recognizer,
            workers,
            batch_size=self._batch_size,
            timeout=self._timeout,
        )
        yield from pool.read(chunks, in_order=in_order)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
