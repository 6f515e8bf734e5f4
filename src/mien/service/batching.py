"""Micro-batches: the faces of all images that wait for the network go through it together."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, NamedTuple

from mien.core.results import Result

if TYPE_CHECKING:
    from mien.inference.preprocess import FaceBatch
    from mien.inference.recognizer import Recognizer

MAX_FACES = 32
"""No further image joins a batch that has so many faces: the time for each falls no more then."""


class Reading(NamedTuple):
    """An image's result, and how long the network took for its batch, in seconds."""

    result: Result
    seconds: float


class Batcher:
    """A thread that reads the faces of the images that wait, as many as there are.

    It waits for nothing that is not there yet: an image that comes alone is read alone, at once.
    How many may wait is for the caller to bound.
    """

    def __init__(self, recognizer: Recognizer, on_batch: Callable[[int], None]) -> None:
        """Start the thread.

        Args:
            recognizer: its second half, `Recognizer.read`, is done here.
            on_batch: called with the number of images of each batch.
        """
        self._recognizer = recognizer
        self._on_batch = on_batch
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="mien-network", daemon=True).start()

    def submit(self, found: FaceBatch) -> Future[Reading]:
        """Have the faces of an image read; from any thread.

        Returns:
            What gives the result, or raises what `Recognizer.read` raises of this image.
        """
        job = _Job(found, Future())
        if found.faces:
            self._waiting.put(job)
        else:
            self._read([job])
        return job.future

    def close(self) -> None:
        """End the thread once it has read what waits."""
        self._waiting.put(None)

    def _work(self) -> None:
        while jobs := self._next():
            self._on_batch(len(jobs))
            self._read(jobs)
            jobs.clear()  # nothing of an image is kept until the next one comes

    def _next(self) -> list[_Job]:
        """Wait for an image, and return it with those that wait beside it; none at the end."""
        jobs: list[_Job] = []
        count = 0
        while count < MAX_FACES:
            try:
                job = self._waiting.get(block=not jobs)
            except queue.Empty:
                break
            if job is None:
                self._waiting.put(None)  # for the next time
                break
            jobs.append(job)
            count += len(job.found.faces)
        return jobs

    def _read(self, jobs: Sequence[_Job]) -> None:
        start = time.perf_counter()
        try:
            results = self._recognizer.read([job.found for job in jobs])
        except Exception as error:  # raised where the result is awaited
            if len(jobs) == 1:
                jobs[0].fail(error)
                return
            for job in jobs:  # what one of them does to the network is no matter of the others
                self._read([job])
            return
        seconds = time.perf_counter() - start
        for job, result in zip(jobs, results, strict=True):
            job.finish(Reading(result, seconds))


class _Job(NamedTuple):
    """The faces of an image, and what becomes of them."""

    found: FaceBatch
    future: Future[Reading]

    def finish(self, reading: Reading) -> None:
        with contextlib.suppress(InvalidStateError):  # nobody waits for it any more
            self.future.set_result(reading)

    def fail(self, error: Exception) -> None:
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)
