"""The local engine: images through this process or several, results in the order of the images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from mien.core.results import Result
from mien.interfaces.batch.chunks import analyze_chunk, chunked
from mien.interfaces.batch.listing import Input
from mien.interfaces.batch.loading import RecognizerSource

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

FEW_IMAGES = 64
"""Fewer are read in this process, before another one would have loaded the model."""


class LocalEngine:
    """Reads images in processes of this machine.

    Args:
        source: what each process loads its recognizer from.
        recognizer: this process's own, for a few images or a single worker.
        workers: processes; those that the machine has cores for unless given.
        batch_size: faces that go through the network at once.
    """

    def __init__(
        self,
        source: RecognizerSource,
        recognizer: Recognizer,
        *,
        workers: int | None = None,
        batch_size: int,
    ) -> None:
        """See the class."""
        self._source = source
        self._recognizer = recognizer
        self._workers = usable_cores() if workers is None else workers
        self._batch_size = batch_size

    def __call__(self, inputs: Iterable[Input]) -> Iterator[Result]:
        """Yield one result an input, in their order; raises ModelError if the network fails."""
        rest = iter(inputs)
        few = list(islice(rest, FEW_IMAGES))
        chunks = chunked(chain(few, rest))
        if self._workers > 1 and len(few) == FEW_IMAGES:
            from mien.interfaces.batch.processes import Processes

            pool = Processes(self._source, self._recognizer, self._workers, self._batch_size)
            yield from pool.read(chunks)
            return
        for chunk in chunks:
            yield from analyze_chunk(self._recognizer, chunk, batch_size=self._batch_size)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
