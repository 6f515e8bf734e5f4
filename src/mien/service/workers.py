"""Concurrency: slots for admission, a pool of threads for images, a batcher for the network."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from prometheus_client import Gauge
from starlette.requests import ClientDisconnect

from mien.core.results import Result
from mien.service.errors import TOO_LONG, ApiError

if TYPE_CHECKING:
    from mien.inference.preprocess import FaceBatch
    from mien.inference.recognizer import Recognizer

MAX_BATCH_FACES = 32
"""No image joins a batch of this many faces: the time per face does not fall any further."""

_T = TypeVar("_T")


# ---------------------------------------------------------------- slots
class Slots:
    """Bounded counter of work in progress; answers 503 when full.

    Also a context manager, which holds a slot during the block.

    Args:
        limit: number of slots.
        work: what holds them, for the error, such as "videos are in progress".
        gauge: metric of the number of slots held.
    """

    def __init__(self, limit: int, work: str, gauge: Gauge) -> None:
        self._limit = limit
        self._work = work
        self._gauge = gauge
        self._held = 0

    def acquire(self) -> None:
        """Hold a slot; raise ApiError if there is none left."""
        if self._held >= self._limit:
            raise ApiError(503, f"busy: {self._limit} {self._work}; try again in a moment")
        self._held += 1
        self._gauge.set(self._held)

    def release(self) -> None:
        """Free a slot."""
        self._held -= 1
        self._gauge.set(self._held)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


# ---------------------------------------------------------------- pool
class WorkerPool:
    """Thread pool that abandons jobs which take too long.

    Used from one event loop. A thread cannot be stopped: one whose job takes too long is replaced
    by a new one, up to twice as many threads as workers. All are daemons, so that none of them
    keeps the interpreter from exiting. The length of the queue is bounded by the caller's `Slots`.

    Args:
        workers: number of threads.
        timeout_s: time that a job may wait for a thread, and then run, in seconds.
    """

    def __init__(self, workers: int, timeout_s: float) -> None:
        self._workers = workers
        self._timeout_s = timeout_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running: set[_Job] = set()
        self._threads: list[threading.Thread] = []
        for _ in range(workers):
            self._start_thread()

    @property
    def running(self) -> int:
        """Number of jobs in progress, including abandoned ones."""
        with self._lock:
            return len(self._running)

    async def run(
        self, function: Callable[[], _T], disconnected: Callable[[], Awaitable[object]]
    ) -> _T:
        """Run a job in a thread.

        If the client disconnects, a job that has not started is dropped; one that has is waited
        for, so that the request holds its slot as long as it occupies a thread.

        Args:
            function: the job.
            disconnected: returns once the client has disconnected.

        Raises:
            ClientDisconnect: if the client has disconnected.
            ApiError: if no thread is free in time, or the job takes too long.
        """
        job = self._submit(function)
        disconnect = asyncio.ensure_future(disconnected())
        try:
            started = asyncio.ensure_future(job.started.wait())
            await asyncio.wait(
                (started, disconnect), timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            started.cancel()
            if job.future.cancel():
                if disconnect.done():
                    raise ClientDisconnect
                raise ApiError(503, "busy: no worker was free in time; try again in a moment")
            result = asyncio.wrap_future(job.future)
            await asyncio.wait((result,), timeout=self._timeout_s)
            if not result.done():
                self._abandon(job)
                result.cancel()
                raise ApiError(
                    422,
                    f"the image takes too long: expected {self._timeout_s:g} seconds at most; "
                    "send a smaller one",
                    code=TOO_LONG,
                )
            if disconnect.done():
                result.exception()  # retrieved, so that asyncio does not log it
                raise ClientDisconnect
            return result.result()  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            job.future.cancel()
            raise
        finally:
            disconnect.cancel()

    async def run_untimed(self, function: Callable[[], _T]) -> _T:
        """Run a job of the service itself in a thread, without a time limit."""
        return await asyncio.wrap_future(self._submit(function).future)

    def close(self, timeout_s: float) -> None:
        """Drop the jobs that have not started, and wait for the others up to a timeout."""
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    job.future.cancel()
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _submit(self, function: Callable[[], Any]) -> _Job:
        job = _Job(function)
        self._jobs.put(job)
        return job

    def _start_thread(self) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=self._work, name="mien-worker", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _abandon(self, job: _Job) -> None:
        """Replace the thread of a job, within the limit on threads."""
        with self._lock:
            replaced = sum(running.replaced for running in self._running)
            job.replaced = job in self._running and replaced < self._workers
        if job.replaced:
            self._start_thread()

    def _work(self) -> None:
        """Run jobs until the pool closes or this thread was replaced."""
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
            del job  # frees its image and its result while the thread waits for the next job


class _Job:
    """Function to run in a thread, and its future."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self.started = asyncio.Event()
        self.replaced = False
        self._function = function
        self._loop = asyncio.get_running_loop()

    def run(self) -> None:
        """Run the function in the calling thread; errors go to the future."""
        self._call_in_loop(self.started.set)
        try:
            result = self._function()
        except BaseException as error:
            self._call_in_loop(self.future.set_exception, error)
        else:
            self._call_in_loop(self.future.set_result, result)

    def _call_in_loop(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the request
            self._loop.call_soon_threadsafe(function, *arguments)


# ---------------------------------------------------------------- batcher
class Classified(NamedTuple):
    """Result of an image, and the time that the network took for its batch in seconds."""

    result: Result
    network_s: float


class Batcher:
    """Thread that classifies the faces of all queued images in one batch.

    It never waits for a batch to fill up: an image that arrives alone is classified alone, at once.
    The length of the queue is bounded by the caller.

    Args:
        recognizer: its second half, `Recognizer.read`, runs here.
        on_batch: called with the number of images of each batch.
    """

    def __init__(self, recognizer: Recognizer, on_batch: Callable[[int], None]) -> None:
        self._recognizer = recognizer
        self._on_batch = on_batch
        self._queue: queue.SimpleQueue[_QueuedImage | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="mien-network", daemon=True).start()

    def submit(self, batch: FaceBatch) -> Future[Classified]:
        """Queue the faces of an image; may be called from any thread.

        Returns:
            Future with the image's result, or what `Recognizer.read` raised for it.
        """
        image = _QueuedImage(batch, Future())
        if batch.faces:
            self._queue.put(image)
        else:
            self._classify([image])
        return image.future

    def close(self) -> None:
        """End the thread after the images that are queued."""
        self._queue.put(None)

    def _work(self) -> None:
        while images := self._next_batch():
            self._on_batch(len(images))
            self._classify(images)
            images.clear()  # frees their pixels while the thread waits for the next batch

    def _next_batch(self) -> list[_QueuedImage]:
        """Wait for an image; return it with those queued behind it, or an empty list at the end."""
        images: list[_QueuedImage] = []
        faces = 0
        while faces < MAX_BATCH_FACES:
            try:
                image = self._queue.get(block=not images)
            except queue.Empty:
                break
            if image is None:
                self._queue.put(None)  # ends the next call
                break
            images.append(image)
            faces += len(image.batch.faces)
        return images

    def _classify(self, images: Sequence[_QueuedImage]) -> None:
        start = time.perf_counter()
        try:
            results = self._recognizer.read([image.batch for image in images])
        except Exception as error:
            if len(images) > 1:
                for image in images:  # one by one, so that an error concerns a single image
                    self._classify([image])
            else:
                with contextlib.suppress(InvalidStateError):  # cancelled: no request waits for it
                    images[0].future.set_exception(error)
            return
        seconds = time.perf_counter() - start
        for image, result in zip(images, results, strict=True):
            with contextlib.suppress(InvalidStateError):
                image.future.set_result(Classified(result, seconds))


class _QueuedImage(NamedTuple):
    batch: FaceBatch
    future: Future[Classified]
