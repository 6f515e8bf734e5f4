"""Worker processes, each with a recognizer of its own, that can be killed whatever they do.

Processes keep a decoder that crashes, hangs, or exhausts memory from ending the run: its worker is
replaced, that image is an error, and the others are analyzed.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from mien.batch.analysis import POLL_SECONDS, Clock, analyze_chunk, failed_result, late_result
from mien.batch.inputs import Input, RecognizerOptions
from mien.core.errors import MienError, abbreviate
from mien.core.results import ModelInfo, Result

_CHUNKS_PER_WORKER = 2
_MAX_CHUNKS = 256
"""Whose results wait for one that must come before them."""

_LATE_SECONDS = 5.0
"""An image that takes longer lets others pass, where order does not matter."""

_START_SECONDS = 300.0
_START_TRIES = 3
_JOIN_SECONDS = 3.0

_PR_SET_PDEATHSIG = 1

_READY = "ready"


@dataclass(eq=False)
class _Task:
    """Images that one worker analyzes together; ``results`` is None until it has."""

    chunk: list[Input]
    results: list[Result] | None = None
    given: bool = False


class ProcessPool:
    """Analyzes chunks in at most ``workers`` processes, and outlives those that die or hang.

    A worker is started when there is work for it. The model is that of the workers' recognizers,
    for the results of images that fail; other arguments as `mien.batch.engines.make_engine`.
    """

    def __init__(
        self,
        options: RecognizerOptions,
        model: ModelInfo,
        *,
        workers: int,
        batch_size: int,
        timeout: float,
    ) -> None:
        self._options, self._model = options, model
        self._batch_size, self._timeout = batch_size, timeout
        # Windows waits for 63 handles at once, of which a worker has two.
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
        """Yield one result an image, in order unless late ones may let others pass.

        Args:
            chunks: the images.
            in_order: strictly.
            hung: a chunk that comes before these, and the index at which it hung elsewhere.

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
        open_tasks = sum(task.results is None for task in self._tasks)
        room = min(
            _CHUNKS_PER_WORKER * self._max_workers - open_tasks, _MAX_CHUNKS - len(self._tasks)
        )
        self._tasks += [_Task(chunk) for chunk in islice(chunks, max(0, room))]

    def _finished(self, *, in_order: bool) -> Iterator[Result]:
        """Yield the results that may come next."""
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

    def _assign(self) -> None:
        """Give tasks to idle workers; start another worker if there are more tasks."""
        waiting = [task for task in self._tasks if task.results is None and not task.given]
        for worker in self._workers:
            if waiting and worker.ready and worker.task is None:
                worker.give(waiting.pop(0), self._clock.now())
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(len(waiting) - starting, self._max_workers - len(self._workers))):
            try:
                self._workers.append(_Worker(self._options, self._batch_size, self._clock.now()))
            except OSError as error:  # the system has no room for another
                self._start_failed(error)
                return

    def _wait(self) -> None:
        """Wait a moment for messages, and replace workers that died or hang."""
        heard = set(
            wait(
                [each for one in self._workers for each in (one.process.sentinel, one.pipe)],
                POLL_SECONDS,
            )
        )
        now = self._clock.now()
        for worker in list(self._workers):
            dead = worker.process.sentinel in heard
            if dead or worker.pipe in heard:
                dead = not self._receive(worker, now) or dead
            limit = self._timeout if worker.task else _START_SECONDS
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
        """End a worker; of its images only the one at which it died or hung is an error."""
        worker.end()
        self._workers.remove(worker)
        if worker.task is not None:
            at = self._tasks.index(worker.task)
            self._tasks[at : at + 1] = self._split(worker.task.chunk, worker.index, hangs=hangs)
        elif not worker.ready:
            self._start_failed(None)

    def _split(self, chunk: list[Input], index: int, *, hangs: bool) -> list[_Task]:
        """Return what is left to do of a chunk whose worker ended at an image.

        An image is blamed for a death only if it was alone: the worker may have died of another.
        """
        if index >= len(chunk) > 1:  # in the network
            return [_Task([one]) for one in chunk]
        one = chunk[min(index, len(chunk) - 1)]
        blamed = _Task([one])
        if hangs:
            blamed.results = [late_result(self._model, one, self._timeout)]
        elif len(chunk) == 1:
            problem = f"{abbreviate(one.source)}: the process that read it died of it"
            blamed.results = [failed_result(self._model, one, problem)]
        parts = [_Task(chunk[:index]), blamed, _Task(chunk[index + 1 :])]
        return [task for task in parts if task.chunk]

    def _start_failed(self, error: Exception | None) -> None:
        """Make do with the workers there are; raises MienError where there are none."""
        self._failed_starts += 1
        if self._workers:
            self._max_workers = len(self._workers)
        elif self._failed_starts >= _START_TRIES:
            raise MienError(
                "worker processes die as they start: give --workers 1, or free some memory"
            ) from error


class _Worker:
    """A process, its task, and the image it has come to."""

    def __init__(self, options: RecognizerOptions, batch_size: int, now: float) -> None:
        # Spawned, not forked: a fork of a process that has threads may deadlock.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(theirs, options, batch_size), daemon=True
        )
        self.ready = False
        self.task: _Task | None = None
        self.index = 0
        self.since = now
        with theirs, _children_ignore_signals():
            self.process.start()

    def give(self, task: _Task, now: float) -> None:
        self.task, self.index, self.since = task, 0, now
        task.given = True
        with suppress(OSError):  # it has died, which is noticed next
            self.pipe.send(task.chunk)

    def end(self) -> None:
        self.process.kill()
        self.process.join(_JOIN_SECONDS)
        self.pipe.close()


@contextmanager
def _children_ignore_signals() -> Iterator[None]:
    """Start processes that a terminal's signals do not reach: this one ends them.

    Signals that come meanwhile are deferred: one that interrupted a start would leave half a
    process and its traceback on stderr. Where signals cannot be blocked (Windows), a child may get
    one before it has started.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    blocked = {signal.SIGINT, signal.SIGHUP}
    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        # Blocked in this thread they reach others, and Python's handlers run all the same.
        for one in (*blocked, signal.SIGTERM):
            handler = signal.getsignal(one)
            if callable(handler):
                handlers[one] = handler
                signal.signal(one, lambda number, _: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # Started by itself with the first child, it would unblock the signals.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for one, handler in handlers.items():
            signal.signal(one, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _work(pipe: Connection[Any, Any], options: RecognizerOptions, batch_size: int) -> None:
    """Analyze chunks until there are no more: a worker's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # even where a decoder holds the GIL
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        try:
            import cv2

            # As many workers as cores: none of them needs threads of its own.
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


def _end_with_parent() -> None:
    """Exit when the parent is gone, so that no worker outlives a kill."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
