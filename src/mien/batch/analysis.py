"""Analysis of images in chunks, with a timeout per image, in this process or in worker processes.

Worker processes protect a run from decoders that crash, hang or exhaust memory: the worker is
replaced, its image becomes an error, and the other images are analyzed.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from mien.batch.inputs import Input, RecognizerOptions
from mien.core.errors import EXIT_INTERRUPTED, MienError, ModelError, UsageError, abbreviate
from mien.core.results import ModelInfo, Result

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from mien.inference.recognizer import Recognizer

CHUNK_IMAGES = 16
"""Images whose faces go through the network together."""

TIMEOUT_SECONDS = 120.0
"""Default time limit per image: many times what the largest images take."""

_POLL_SECONDS = 0.2
_STOP_SECONDS = 2.0

Item = TypeVar("Item")


def chunked(items: Iterable[Item], size: int = CHUNK_IMAGES) -> Iterator[list[Item]]:
    """Yield the items in lists of ``size``; the last one may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def error_result(model: ModelInfo, image: Input, error: str) -> Result:
    """Return the result of an image whose analysis failed."""
    return Result(image.source, "error", model, error=error)


def timeout_result(model: ModelInfo, image: Input, timeout: float) -> Result:
    """Return the result of an image that took longer than ``timeout`` seconds."""
    reason = f"took longer than {timeout:g} seconds (--timeout) and was skipped"
    return error_result(model, image, f"{abbreviate(image.source)} {reason}")


# ---------------------------------------------------------------- engines
@dataclass(frozen=True)
class Engine(ABC):
    """Analyzes images and yields one result per image, taking inputs as needed.

    Attributes:
        options: each worker loads its recognizer from these.
        recognizer: a recognizer with these options, in this process.
        workers: processes or actors; by default one per core.
        batch_size: faces that go through the network at once.
        timeout: seconds per image.
    """

    options: RecognizerOptions
    recognizer: Recognizer
    _: KW_ONLY
    workers: int | None = None
    batch_size: int
    timeout: float = TIMEOUT_SECONDS

    @abstractmethod
    def __call__(
        self, inputs: Iterable[Input], *, in_order: bool = True, isolate: bool = False
    ) -> Generator[Result, None, None]:
        """Yield the results.

        Args:
            inputs: the images.
            in_order: keep their order strictly; otherwise others may overtake a slow image.
            isolate: analyze nothing in this process, since an image may have crashed an earlier
                run.
        """


# ---------------------------------------------------------------- a chunk
def analyze_chunk(
    recognizer: Recognizer,
    chunk: Sequence[Input],
    *,
    batch_size: int,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Result]:
    """Analyze images together; returns one result per image, in order, even if some fail.

    An image on which the recognizer fails has the status "error".

    Args:
        recognizer: the recognizer.
        chunk: the images.
        batch_size: faces that go through the network at once.
        progress: called with an image's index before it is read, and with the number of images
            before the network runs.

    Raises:
        ModelError: if the network fails.
    """
    readable = [(index, image) for index, image in enumerate(chunk) if image.content is not None]

    def contents() -> Iterator[Any]:
        for index, image in readable:
            progress(index)
            yield image.content
        progress(len(chunk))

    try:
        results = recognizer.analyze_many(contents(), batch_size=batch_size)
        named = [
            _named(image, result) for (_, image), result in zip(readable, results, strict=True)
        ]
    except (ModelError, UsageError):
        raise
    except Exception:  # any type: analyze the images one by one to find the one that fails
        named = []
        for index, image in readable:
            progress(index)
            named.append(_analyze_alone(recognizer, image, batch_size))
    remaining = iter(named)
    return [
        Result(image.source, "unreadable", recognizer.model, error=image.problem)
        if image.content is None
        else next(remaining)
        for image in chunk
    ]


def _analyze_alone(recognizer: Recognizer, image: Input, batch_size: int) -> Result:
    content: Any = image.content
    try:
        (result,) = recognizer.analyze_many([content], batch_size=batch_size)
        return _named(image, result)
    except (ModelError, UsageError):
        raise
    except Exception as error:  # any type: one image must not end a run of a million
        reason = abbreviate(" ".join(str(error).split()))
        text = f"{abbreviate(image.source)}: {type(error).__name__}"
        return error_result(recognizer.model, image, f"{text}: {reason}" if reason else text)


def _named(image: Input, result: Result) -> Result:
    """Rename a result, and the image in its error, to the input's source.

    Bytes have no name, and the path that is read may differ from the source.
    """
    error = result.error
    if error is not None and isinstance(image.content, bytes):
        name = "standard input" if image.source == "-" else abbreviate(image.source)
        error = name + error.removeprefix("image")
    elif error is not None and isinstance(image.content, str):
        path = abbreviate(image.content)
        if error.startswith(path):
            error = abbreviate(image.source) + error.removeprefix(path)
    return replace(result, source=image.source, error=error)


# ---------------------------------------------------------------- timeouts in this process
class Clock:
    """Monotonic clock in seconds that stops while the machine sleeps, if it is read often."""

    def __init__(self) -> None:
        self._now = 0.0
        self._last_read = time.monotonic()

    def now(self) -> float:
        """Return the seconds so far; they advance by at most 1 between two calls."""
        read = time.monotonic()
        self._now += min(read - self._last_read, 1.0)
        self._last_read = read
        return self._now


class ImageTimeout(Exception):
    """An image took too long, and its thread is still running.

    Attributes:
        index: the image's index in its chunk, or the number of images if the network hangs.
    """

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class _Abandoned(BaseException):
    """Stops an analysis whose results are no longer wanted."""


def analyze_with_timeout(
    recognizer: Recognizer, chunk: Sequence[Input], *, batch_size: int, timeout: float
) -> list[Result]:
    """Run `analyze_chunk` in a thread, with ``timeout`` seconds per image.

    Ctrl-C takes effect at once, even inside a decoder.

    Raises:
        ImageTimeout: if an image takes too long. Do not use the recognizer again: its thread cannot
            be stopped.
    """
    done: Future[list[Result]] = Future()
    current, abandoned = 0, False

    def progress(index: int) -> None:
        nonlocal current
        current = index
        if abandoned:
            raise _Abandoned

    def work() -> None:
        try:
            done.set_result(
                analyze_chunk(recognizer, chunk, batch_size=batch_size, progress=progress)
            )
        except BaseException as error:
            done.set_exception(error)

    clock = Clock()
    index, since = current, 0.0
    threading.Thread(target=work, daemon=True).start()
    try:
        # No join: an interrupted join marks the thread as ended (Python 3.11).
        while not wait([done], _POLL_SECONDS).done:
            now = clock.now()
            if current != index:
                index, since = current, now
            elif now - since > timeout:
                raise ImageTimeout(index)
    except BaseException as error:
        abandoned = True
        if not isinstance(error, ImageTimeout):
            # The interpreter must not shut down while a thread runs native code.
            ended = wait([done], _STOP_SECONDS).done
            if not ended and isinstance(error, KeyboardInterrupt):
                atexit.register(os._exit, EXIT_INTERRUPTED)
        raise
    return done.result()


# ---------------------------------------------------------------- worker processes
# multiprocessing.connection is imported on use, since one photo is analyzed without it.
_CHUNKS_PER_WORKER = 2
_MAX_CHUNKS = 256
"""Limit on chunks whose results wait for an earlier one."""

_LATE_SECONDS = 5.0
"""If order does not matter, images may overtake one that takes longer."""

_START_SECONDS = 300.0
_START_TRIES = 3
_JOIN_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1
_READY = "ready"


@dataclass(eq=False)
class _Task:
    """A chunk for one worker; ``results`` is None until it is done."""

    chunk: list[Input]
    results: list[Result] | None = None
    assigned: bool = False


class ProcessPool:
    """Analyzes chunks in up to ``workers`` processes, and replaces those that die or hang.

    Workers start when there is work for them.
    """

    def __init__(self, engine: Engine, workers: int) -> None:
        self._engine, self._model = engine, engine.recognizer.model
        # Windows waits for at most 63 handles at once, and a worker has two.
        self._max_workers = min(workers, 30) if sys.platform == "win32" else workers
        self._clock = Clock()
        self._tasks: list[_Task] = []
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def results(
        self,
        chunks: Iterator[list[Input]],
        *,
        in_order: bool = True,
        hung: tuple[list[Input], int] | None = None,
    ) -> Iterator[Result]:
        """Yield one result per image.

        Args:
            chunks: the images.
            in_order: keep their order strictly; otherwise others may overtake a slow image.
            hung: a chunk that precedes the others, and the index at which it hung elsewhere.

        Raises:
            ModelError: if the network fails.
            MienError: if no worker can be started.
        """
        if hung is not None:
            self._tasks = self._split(*hung, hangs=True)
        try:
            while True:
                self._take(chunks)
                if not self._tasks:
                    return
                self._assign()
                self._wait()
                yield from self._finished(in_order=in_order)
        finally:
            for worker in self._workers:
                worker.process.kill()
            for worker in self._workers:
                worker.end()
            self._tasks, self._workers = [], []

    def _take(self, chunks: Iterator[list[Input]]) -> None:
        unfinished = sum(task.results is None for task in self._tasks)
        room = min(
            _CHUNKS_PER_WORKER * self._max_workers - unfinished, _MAX_CHUNKS - len(self._tasks)
        )
        self._tasks += [_Task(chunk) for chunk in islice(chunks, max(0, room))]

    def _finished(self, *, in_order: bool) -> Iterator[Result]:
        """Yield the results whose turn it is."""
        while self._tasks and self._tasks[0].results is not None:
            yield from self._tasks.pop(0).results or ()
        if in_order or not self._first_is_late():
            return
        finished = [task for task in self._tasks if task.results is not None]
        self._tasks = [task for task in self._tasks if task.results is None]
        for task in finished:
            yield from task.results or ()

    def _first_is_late(self) -> bool:
        since = {id(worker.task): worker.since for worker in self._workers}
        now = self._clock.now()
        return bool(self._tasks) and now - since.get(id(self._tasks[0]), now) > _LATE_SECONDS

    def _assign(self) -> None:
        """Give tasks to idle workers, and start workers for the remaining tasks."""
        waiting = [task for task in self._tasks if task.results is None and not task.assigned]
        for worker in self._workers:
            if waiting and worker.ready and worker.task is None:
                worker.assign(waiting.pop(0), self._clock.now())
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(len(waiting) - starting, self._max_workers - len(self._workers))):
            try:
                self._workers.append(_Worker(self._engine, self._clock.now()))
            except OSError as error:  # the system has no resources for another process
                self._start_failed(error)
                return

    def _wait(self) -> None:
        """Wait briefly for messages, and replace workers that died or hang."""
        from multiprocessing.connection import wait as wait_for_any

        handles = [
            handle for worker in self._workers for handle in (worker.process.sentinel, worker.pipe)
        ]
        signalled = set(wait_for_any(handles, _POLL_SECONDS))
        now = self._clock.now()
        for worker in list(self._workers):
            dead = worker.process.sentinel in signalled
            if dead or worker.pipe in signalled:
                dead = not self._receive(worker, now) or dead
            limit = self._engine.timeout if worker.task else _START_SECONDS
            idle = worker.ready and worker.task is None
            hangs = not dead and not idle and now - worker.since > limit
            if dead or hangs:
                self._replace(worker, hangs=hangs)

    def _receive(self, worker: _Worker, now: float) -> bool:
        """Handle a worker's messages; returns False if its pipe is closed."""
        try:
            while worker.pipe.poll():
                message = worker.pipe.recv()
                worker.since = now
                if isinstance(message, int):
                    worker.index = message
                elif message == _READY:
                    worker.ready = True
                    self._failed_starts = 0
                elif isinstance(message, Exception):
                    raise message
                elif worker.task is not None:
                    worker.task.results = message
                    worker.task = None
        except (EOFError, OSError):
            return False
        return True

    def _replace(self, worker: _Worker, *, hangs: bool) -> None:
        """End a worker; only the image at which it died or hung becomes an error."""
        worker.end()
        self._workers.remove(worker)
        if worker.task is not None:
            position = self._tasks.index(worker.task)
            remaining = self._split(worker.task.chunk, worker.index, hangs=hangs)
            self._tasks[position : position + 1] = remaining
        elif not worker.ready:
            self._start_failed(None)

    def _split(self, chunk: list[Input], index: int, *, hangs: bool) -> list[_Task]:
        """Return the tasks left of a chunk whose worker ended at an image.

        A death is blamed on an image only if it was alone in its chunk: another image may have
        caused it.
        """
        if index >= len(chunk) > 1:  # in the network
            return [_Task([image]) for image in chunk]
        image = chunk[min(index, len(chunk) - 1)]
        failed = _Task([image])
        if hangs:
            failed.results = [timeout_result(self._model, image, self._engine.timeout)]
        elif len(chunk) == 1:
            error = f"{abbreviate(image.source)}: the worker process died while reading it"
            failed.results = [error_result(self._model, image, error)]
        tasks = [_Task(chunk[:index]), failed, _Task(chunk[index + 1 :])]
        return [task for task in tasks if task.chunk]

    def _start_failed(self, error: Exception | None) -> None:
        """Continue with the existing workers; raises MienError if there are none."""
        self._failed_starts += 1
        if self._workers:
            self._max_workers = len(self._workers)
        elif self._failed_starts >= _START_TRIES:
            raise MienError(
                "worker processes die on startup: give --workers 1, or free some memory"
            ) from error


class _Worker:
    """A worker process, its task, and the index of the image it is at."""

    def __init__(self, engine: Engine, now: float) -> None:
        import multiprocessing

        # Spawned, since forking a process with threads may deadlock.
        context = multiprocessing.get_context("spawn")
        self.pipe, child_pipe = context.Pipe()
        self.process = context.Process(
            target=_run_worker, args=(child_pipe, engine.options, engine.batch_size), daemon=True
        )
        self.ready = False
        self.task: _Task | None = None
        self.index = 0
        self.since = now
        with child_pipe, _shielded_start():
            self.process.start()

    def assign(self, task: _Task, now: float) -> None:
        self.task, self.index, self.since = task, 0, now
        task.assigned = True
        with suppress(OSError):  # it died, which is noticed next
            self.pipe.send(task.chunk)

    def end(self) -> None:
        self.process.kill()
        self.process.join(_JOIN_SECONDS)
        self.pipe.close()


@contextmanager
def _shielded_start() -> Iterator[None]:
    """Start processes that ignore a terminal's signals, since this process ends them.

    Signals during a start are deferred: interrupting it would leave half a process and a
    traceback on stderr. On Windows, where signals cannot be blocked, a child may receive one
    before it has started.
    """
    from multiprocessing import resource_tracker

    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    blocked = {signal.SIGINT, signal.SIGHUP}
    deferred: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        # Blocking in this thread delivers signals to others, which still run Python's handlers.
        for number in (*blocked, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler
                signal.signal(number, lambda received, _: deferred.append(received))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # If it started along with the first child, it would unblock the signals.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for received in deferred[:1]:
            signal.raise_signal(received)


def _run_worker(pipe: Connection[Any, Any], options: RecognizerOptions, batch_size: int) -> None:
    """Analyze the chunks that come through the pipe: the main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # works even while a decoder holds the GIL
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        try:
            import cv2

            # There is a worker per core.
            cv2.setNumThreads(1)
            recognizer = options.load(threads=1)
            pipe.send(_READY)
            while True:
                chunk: list[Input] = pipe.recv()
                pipe.send(
                    analyze_chunk(recognizer, chunk, batch_size=batch_size, progress=pipe.send)
                )
        except MienError as error:
            pipe.send(error)
        except Exception as error:  # reported by the parent in one line, not here in a traceback
            pipe.send(MienError(f"a worker process failed: {type(error).__name__}: {error}"))


def _exit_with_parent() -> None:
    """Exit when the parent process is gone, so that no worker outlives it."""
    from multiprocessing import parent_process
    from multiprocessing.connection import wait as wait_for_any

    parent = parent_process()
    if parent is not None:
        wait_for_any([parent.sentinel])
        os._exit(1)
