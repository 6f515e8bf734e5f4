"""Reading that is watched: which image is read, for how long, and an end to it where it hangs."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mien.batch.chunks import analyze_chunk, failed_result
from mien.batch.listing import Input
from mien.core.errors import EXIT_INTERRUPTED, shown
from mien.core.results import Result

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

TIMEOUT_SECONDS = 120.0
"""What one image may take unless told otherwise: many times what the largest take."""

TICK_SECONDS = 0.2
_STOP_SECONDS = 2.0


class Clock:
    """Seconds that pass while one looks at it often: a machine that sleeps makes no image late."""

    def __init__(self) -> None:
        """Start at 0."""
        self._now = 0.0
        self._looked = time.monotonic()

    def now(self) -> float:
        """Return the seconds; between two looks at most one passes."""
        looked = time.monotonic()
        self._now += min(looked - self._looked, 1.0)
        self._looked = looked
        return self._now


class Hung(Exception):
    """An image took too long; it is being read still.

    Attributes:
        place: its place among the images; their number where the network hangs after them.
    """

    def __init__(self, place: int) -> None:
        """Take its place."""
        super().__init__(place)
        self.place = place


def late_result(recognizer: Recognizer, one: Input, timeout: float) -> Result:
    """Return the result of an image that was given up."""
    problem = (
        f"{shown(one.source)} took longer than {timeout:g} seconds (--timeout), and was given up"
    )
    return failed_result(recognizer, one, "error", problem)


def analyze_watched(
    recognizer: Recognizer, chunk: Sequence[Input], *, batch_size: int, timeout: float
) -> list[Result]:
    """Analyze images as `analyze_chunk` does, in a thread, so that neither they hold this one up.

    An interrupt is taken at once, whatever a decoder is doing.

    Raises:
        Hung: if one of them takes too long. The recognizer must not be used again, since the thread
            cannot be ended and is using it.
    """
    work = _Work(recognizer, chunk, batch_size)
    clock = Clock()
    place, since = work.place, 0.0
    threading.Thread(target=work.run, daemon=True).start()
    try:
        # Not joined: an interrupted join takes a thread for one that has ended (Python 3.11).
        while not work.ended.wait(TICK_SECONDS):
            now = clock.now()
            if work.place != place:
                place, since = work.place, now
            elif now - since > timeout:
                raise Hung(place)
    except BaseException as error:
        work.stopped = True
        if not isinstance(error, Hung):
            # Python's end is no good moment to be found in a library's code.
            ended = work.ended.wait(_STOP_SECONDS)
            if not ended and isinstance(error, KeyboardInterrupt):
                atexit.register(os._exit, EXIT_INTERRUPTED)
        raise
    if work.error is not None:
        raise work.error
    return work.results


class _Stopped(BaseException):
    """Nobody waits for the results any more."""


class _Work:
    def __init__(self, recognizer: Recognizer, chunk: Sequence[Input], batch_size: int) -> None:
        self._recognizer = recognizer
        self._chunk = chunk
        self._batch_size = batch_size
        self.place = 0
        self.stopped = False
        self.ended = threading.Event()
        self.results: list[Result] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.results = list(
                analyze_chunk(
                    self._recognizer, self._chunk, batch_size=self._batch_size, reaching=self._reach
                )
            )
        except BaseException as error:
            self.error = error
        self.ended.set()

    def _reach(self, place: int) -> None:
        self.place = place
        if self.stopped:
            raise _Stopped
