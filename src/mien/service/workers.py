"""Bounded thread pool for the analysis; answers 503 when full, and abandons what takes too long."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect

from mien.service.schemas import ApiError

TOO_LONG = "too_long"
"""The code of the error for what is abandoned."""

_T = TypeVar("_T")


class WorkerPool:
    """Threads, and places for who is served or waits; used from one event loop alone.

    A thread cannot be stopped. One whose image takes too long is abandoned and replaced, but there
    are never more than twice as many as workers. All are daemons: the interpreter waits for none.
    """

    def __init__(
        self,
        workers: int,
        waiting: int,
        seconds: float,
        *,
        on_taken: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Start the threads.

        Args:
            workers: threads.
            waiting: places beside theirs.
            seconds: how long a job may wait for a thread, and then how long it may take.
            on_taken: told how many places are taken whenever that changes.
        """
        self._on_taken = on_taken
        self._workers = workers
        self._places = workers + waiting
        self._seconds = seconds
        self._taken = 0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running: set[_Job] = set()
        self._threads: list[threading.Thread] = []
        for _ in range(workers):
            self._start_thread()

    @property
    def unfinished(self) -> int:
        """How many jobs are running, abandoned ones included."""
        with self._lock:
            return len(self._running)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place; raises ApiError if all are taken."""
        if self._taken >= self._places:
            raise ApiError(
                503, f"busy: {self._places} images are being read or wait; try again in a moment"
            )
        self._take(1)
        try:
            yield
        finally:
            self._take(-1)

    def _take(self, places: int) -> None:
        self._taken += places
        self._on_taken(self._taken)

    async def run(self, work: Callable[[], _T], gone: Callable[[], Awaitable[object]]) -> _T:
        """Do a job in a thread.

        When the client goes away, a job that has not begun is dropped; one that has is waited for,
        so that its place is free no sooner than its thread.

        Args:
            work: the job.
            gone: returns when the client has gone away.

        Raises:
            ClientDisconnect: if the client has gone away.
            ApiError: if no thread is free in time, or the job takes too long.
        """
        job = self._submit(work)
        disconnect = asyncio.ensure_future(gone())
        try:
            begun = asyncio.ensure_future(job.begun.wait())
            await asyncio.wait(
                (begun, disconnect), timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED
            )
            begun.cancel()
            if job.future.cancel():
                if disconnect.done():
                    raise ClientDisconnect
                raise ApiError(503, "busy: no worker was free in time; try again in a moment")
            done = asyncio.wrap_future(job.future)
            await asyncio.wait((done,), timeout=self._seconds)
            if not done.done():
                self._abandon(job)
                done.cancel()
                raise ApiError(
                    422,
                    f"the image takes too long: expected {self._seconds:g} seconds at most; send a "
                    "smaller one",
                    code=TOO_LONG,
                )
            if disconnect.done():
                done.exception()  # retrieved, so that asyncio does not log it
                raise ClientDisconnect
            return done.result()  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            job.future.cancel()
            raise
        finally:
            disconnect.cancel()

    async def run_untimed(self, work: Callable[[], _T]) -> _T:
        """Do a job of the service's own in a thread, however long it takes."""
        return await asyncio.wrap_future(self._submit(work).future)

    def close(self, seconds: float) -> None:
        """Drop what has not begun, and wait for the rest, but no longer than this."""
        with contextlib.suppress(queue.Empty):
            while True:
                waiting = self._jobs.get_nowait()
                if waiting is not None:
                    waiting.future.cancel()
        for _ in self._threads:
            self._jobs.put(None)
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _submit(self, work: Callable[[], Any]) -> _Job:
        job = _Job(work)
        self._jobs.put(job)
        return job

    def _start_thread(self) -> None:
        self._threads = [each for each in self._threads if each.is_alive()]
        thread = threading.Thread(target=self._work, name="mien-worker", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _abandon(self, job: _Job) -> None:
        """Replace the thread that does this job."""
        with self._lock:
            replaced = sum(each.replaced for each in self._running)
            job.replaced = job in self._running and replaced < self._workers
        if job.replaced:
            self._start_thread()

    def _work(self) -> None:
        """Do jobs until there are no more, or another thread does them instead."""
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            with self._lock:
                self._running.add(job)
            job.run()
            with self._lock:
                self._running.discard(job)
            if job.replaced:
                return
            del job  # its image and its result are not kept until the next one comes


class _Job:
    """Work, and what becomes of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self.begun = asyncio.Event()
        self.replaced = False
        self._work = work
        self._loop = asyncio.get_running_loop()

    def run(self) -> None:
        """Do it, in a thread."""
        self._tell(self.begun.set)
        try:
            result = self._work()
        except BaseException as error:  # raised where the result is awaited
            self._tell(self.future.set_exception, error)
        else:
            self._tell(self.future.set_result, result)

    def _tell(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)
