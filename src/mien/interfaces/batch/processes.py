"""Worker processes, each with a recognizer of its own.

Processes, since the detector libface keeps Python's lock while it looks: threads would wait for it.
They also keep a decoder that crashes, or takes all memory, from ending the run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, TypeAlias

from mien.core.errors import MienError
from mien.core.results import Result
from mien.interfaces.batch.chunks import analyze_chunk, failed_result
from mien.interfaces.batch.listing import Input
from mien.interfaces.batch.loading import RecognizerSource

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

_CHUNKS_A_WORKER = 2

_Pending: TypeAlias = "deque[tuple[list[Input], Future[list[Result]] | None]]"


class Processes:
    """Reads chunks of images side by side, and outlives workers that die.

    Args:
        source: what each process loads its recognizer from.
        recognizer: this process's own; it names the model in results that no worker could give.
        workers: how many processes.
        batch_size: faces that go through the network at once.
    """

    def __init__(
        self, source: RecognizerSource, recognizer: Recognizer, workers: int, batch_size: int
    ) -> None:
        """See the class."""
        self._source = source
        self._recognizer = recognizer
        self._workers = workers
        self._batch_size = batch_size

    def read(self, chunks: Iterator[list[Input]]) -> Iterator[Result]:
        """Yield one result an image, in order; two chunks a worker are under way at most.

        Raises:
            ModelError: if the network fails.
            MienError: if no worker can be started.
        """
        while True:
            pending: _Pending = deque()
            pool = self._pool(self._workers)
            try:
                yield from self._through(pool, chunks, pending)
                return
            except BrokenProcessPool:
                # A worker died of one of these; they are read apart, and then the others go on.
                for chunk, _ in pending:
                    yield from self._apart(chunk)
            finally:
                pool.shutdown(cancel_futures=True)

    def _through(
        self, pool: ProcessPoolExecutor, chunks: Iterator[list[Input]], pending: _Pending
    ) -> Iterator[Result]:
        """Yield results as they come; ``pending`` keeps the chunks that have not been yielded."""
        for chunk in chunks:
            # It is pending before it is given away, which a broken pool refuses.
            pending.append((chunk, None))
            pending[-1] = (chunk, pool.submit(_analyze_here, chunk, self._batch_size))
            if len(pending) >= _CHUNKS_A_WORKER * self._workers:
                yield from _first(pending)
        while pending:
            yield from _first(pending)

    def _apart(self, chunk: Sequence[Input]) -> Iterator[Result]:
        """Read images one by one in a process that may die of any of them."""
        pool = self._pool(1)
        try:
            self._check_starts(pool)
            for one in chunk:
                try:
                    results = pool.submit(_analyze_here, [one], self._batch_size).result()
                except BrokenProcessPool:
                    problem = f"{one.source}: the process that read it died of it"
                    results = [failed_result(self._recognizer, one, "error", problem)]
                    pool.shutdown()
                    pool = self._pool(1)
                yield from results
        finally:
            pool.shutdown(cancel_futures=True)

    def _check_starts(self, pool: ProcessPoolExecutor) -> None:
        try:
            pool.submit(_stand_by).result()
        except BrokenProcessPool as error:
            raise MienError(
                "worker processes die as they start: give --workers 1, or free some memory"
            ) from error

    def _pool(self, workers: int) -> ProcessPoolExecutor:
        # Spawned, not forked: a fork of a process that has threads may stand still for ever.
        return ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self._source,),
        )


def _first(pending: _Pending) -> list[Result]:
    future = pending[0][1]
    results = [] if future is None else future.result()
    pending.popleft()
    return results


class _Worker:
    """What a worker process keeps: it is one, and has one recognizer."""

    recognizer: Recognizer


def _start_worker(source: RecognizerSource) -> None:
    import cv2

    # An interrupt goes to all processes of a terminal: the first one ends the others in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # As many workers as cores: none of them needs threads of its own.
    cv2.setNumThreads(1)
    _Worker.recognizer = source.load(threads=1)


def _end_with_parent() -> None:
    """End this process when its parent is gone, so that none is left behind by a kill."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _stand_by() -> None:
    """Do nothing, once the worker has started."""


def _analyze_here(chunk: list[Input], batch_size: int) -> list[Result]:
    return analyze_chunk(_Worker.recognizer, chunk, batch_size=batch_size)
