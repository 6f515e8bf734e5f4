"""Worker processes, each with a recognizer of its own, that can be ended whatever they do.

Processes, since the detector libface looks at one image of a process at a time: threads would wait
for it. They also keep a decoder that crashes, hangs, or takes all memory, from ending the run: its
worker is replaced, that image is an error, and the others are read.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from mien.batch.chunks import analyze_chunk, failed_result
from mien.batch.listing import Input
from mien.batch.loading import RecognizerSource
from mien.batch.watched import TICK_SECONDS, Clock, late_result
from mien.core.errors import MienError, shown
from mien.core.results import Result

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

_CHUNKS_A_WORKER = 2
_MOST_CHUNKS = 256
"""Whose results wait for one that must come before them."""

_LATE_SECONDS = 5.0
"""An image that takes longer lets others pass, where they may."""

_START_SECONDS = 300.0
_START_TRIES = 3
_END_SECONDS = 3.0

_PR_SET_PDEATHSIG = 1

_READY = "ready"


@dataclass(eq=False)
class _Task:
    """Images that one worker reads together; ``results`` are None until it has."""

    chunk: list[Input]
    results: list[Result] | None = None
    given: bool = False


class Processes:
    """Reads chunks of images side by side, and outlives workers that die or hang.

    Args:
        source: what each process loads its recognizer from.
        recognizer: this process's own; it names the model in results that no worker could give.
        workers: how many processes at most; one is started when there is work for it.
        batch_size: faces that go through the network at once.
        timeout: seconds that one image may take.
    """

    def __init__(
        self,
        source: RecognizerSource,
        recognizer: Recognizer,
        workers: int,
        *,
        batch_size: int,
        timeout: float,
    ) -> None:
        """See the class."""
        self._source = source
        self._recognizer = recognizer
        # Windows waits for 63 things at once, of which a worker is two.
        self._most = min(workers, 30) if sys.platform == "win32" else workers
        self._batch_size = batch_size
        self._timeout = timeout
        self._clock = Clock()
        self._tasks: list[_Task] = []
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def read(self, chunks: Iterator[list[Input]], *, in_order: bool = True) -> Iterator[Result]:
        """Yield one result an image, in order unless told that a late one may let others pass.

        Raises:
            ModelError: if the network fails.
            MienError: if no worker can be started.
        """
        try:
            while True:
                self._take_in(chunks)
                if not self._tasks:
                    return
                self._give()
                self._hear()
                yield from self._results(in_order=in_order)
        finally:
            for worker in self._workers:
                worker.process.kill()
            for worker in self._workers:
                worker.end()
            self._tasks, self._workers = [], []

    def _take_in(self, chunks: Iterator[list[Input]]) -> None:
        under_way = sum(task.results is None for task in self._tasks)
        while under_way < _CHUNKS_A_WORKER * self._most and len(self._tasks) < _MOST_CHUNKS:
            chunk = next(chunks, None)
            if chunk is None:
                return
            self._tasks.append(_Task(chunk))
            under_way += 1

    def _results(self, *, in_order: bool) -> Iterator[Result]:
        """Yield what is there and may come next."""
        while self._tasks and self._tasks[0].results is not None:
            yield from self._tasks.pop(0).results or ()
        if in_order or not self._first_is_late():
            return
        passing = [task for task in self._tasks if task.results is not None]
        self._tasks = [task for task in self._tasks if task.results is None]
        for task in passing:
            yield from task.results or ()

    def _first_is_late(self) -> bool:
        since = {id(worker.task): worker.since for worker in self._workers}
        now = self._clock.now()
        return bool(self._tasks) and now - since.get(id(self._tasks[0]), now) > _LATE_SECONDS

    def _give(self) -> None:
        """Give work to those who have none; start another worker if there is more of it."""
        waiting = [task for task in self._tasks if task.results is None and not task.given]
        for worker in self._workers:
            if waiting and worker.ready and worker.task is None:
                worker.take(waiting.pop(0), self._clock.now())
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(len(waiting) - starting, self._most - len(self._workers))):
            try:
                self._workers.append(_Worker(self._source, self._batch_size, self._clock.now()))
            except OSError as error:  # the system has no room for another
                self._start_failed(error)
                return

    def _hear(self) -> None:
        """Wait a moment for what workers have to say, and replace those that will say no more."""
        by_end = {worker.process.sentinel: worker for worker in self._workers}
        by_pipe = {worker.pipe: worker for worker in self._workers}
        heard = set(wait([*by_end, *by_pipe], TICK_SECONDS))
        now = self._clock.now()
        for worker in list(self._workers):
            alive = True
            if worker.pipe in heard or worker.process.sentinel in heard:
                alive = self._listen(worker, now) and worker.process.sentinel not in heard
            limit = self._timeout if worker.task else _START_SECONDS
            hangs = alive and not worker.idle and now - worker.since > limit
            if not alive or hangs:
                self._replace(worker, hangs=hangs)

    def _listen(self, worker: _Worker, now: float) -> bool:
        """Take a worker's messages; False is returned if there will be none any more."""
        try:
            while worker.pipe.poll():
                message = worker.pipe.recv()
                worker.since = now
                if isinstance(message, int):
                    worker.place = message
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
        """End a worker; of its images only the one at which it died or hung is an error."""
        worker.end()
        self._workers.remove(worker)
        if worker.task is not None:
            index = self._tasks.index(worker.task)
            self._tasks[index : index + 1] = self._split(worker.task.chunk, worker.place, hangs)
        elif not worker.ready:
            self._start_failed(None)

    def _split(self, chunk: list[Input], place: int, hangs: bool) -> list[_Task]:
        """Return what is left to do of a chunk whose worker has ended at a place in it.

        An image is blamed for a death when it was alone: a worker may have died of something else.
        """
        if place >= len(chunk) > 1:  # not at an image
            return [_Task([one]) for one in chunk]
        one = chunk[min(place, len(chunk) - 1)]
        blamed = _Task([one])
        if hangs:
            blamed.results = [late_result(self._recognizer, one, self._timeout)]
        elif len(chunk) == 1:
            problem = f"{shown(one.source)}: the process that read it died of it"
            blamed.results = [failed_result(self._recognizer, one, "error", problem)]
        parts = [_Task(chunk[:place]), blamed, _Task(chunk[place + 1 :])]
        return [task for task in parts if task.chunk]

    def _start_failed(self, error: Exception | None) -> None:
        """Do with fewer workers where there are some; raises MienError where there are none."""
        self._failed_starts += 1
        if self._workers:
            self._most = len(self._workers)
        elif self._failed_starts >= _START_TRIES:
            raise MienError(
                "worker processes die as they start: give --workers 1, or free some memory"
            ) from error


class _Worker:
    """A process, and what it was told and has said."""

    def __init__(self, source: RecognizerSource, batch_size: int, now: float) -> None:
        # Spawned, not forked: a fork of a process that has threads may stand still for ever.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, source, batch_size), daemon=True)
        self.ready = False
        self.task: _Task | None = None
        self.place = 0
        self.since = now
        with theirs, _deaf_children():
            self.process.start()

    @property
    def idle(self) -> bool:
        return self.ready and self.task is None

    def take(self, task: _Task, now: float) -> None:
        self.task, self.place, self.since = task, 0, now
        task.given = True
        with suppress(OSError):  # it has died, which is heard of next
            self.pipe.send(task.chunk)

    def end(self) -> None:
        self.process.kill()
        self.process.join(_END_SECONDS)
        self.pipe.close()


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Start processes that a terminal's signals do not reach: this one ends them.

    Signals that come meanwhile wait: one that interrupted a start would leave half a process, whose
    trace everybody sees. Where signals cannot be held (Windows), a child may hear one before it has
    started.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    deaf = {signal.SIGINT, signal.SIGHUP}
    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        # Held back from this thread, they reach others, and Python hears of them all the same.
        for one in (*deaf, signal.SIGTERM):
            handler = signal.getsignal(one)
            if callable(handler):
                handlers[one] = handler
                signal.signal(one, lambda number, _: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # Started by itself with the first child, it would let go of the signals that are held.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, deaf)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for one, handler in handlers.items():
            signal.signal(one, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _work(pipe: Connection[Any, Any], source: RecognizerSource, batch_size: int) -> None:
    """Read chunks until there are no more: the worker's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # even where a decoder keeps Python's lock
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        try:
            import cv2

            # As many workers as cores: none of them needs threads of its own.
            cv2.setNumThreads(1)
            recognizer = source.load(threads=1)
            pipe.send(_READY)
            while True:
                chunk: Sequence[Input] = pipe.recv()
                pipe.send(
                    analyze_chunk(recognizer, chunk, batch_size=batch_size, reaching=pipe.send)
                )
        except MienError as error:
            pipe.send(error)
        except Exception as error:  # it is said there, in one line, and not here in a trace
            pipe.send(MienError(f"a worker process failed: {type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    """End this process when its parent is gone, so that none is left behind by a kill."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
