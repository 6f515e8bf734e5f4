"""A chunk of images, their faces in one batch of the network, with a timeout for each image."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from mien.batch.inputs import Input
from mien.core.errors import EXIT_INTERRUPTED, ModelError, UsageError, abbreviate
from mien.core.results import ModelInfo, Result

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

CHUNK_IMAGES = 16
"""Images whose faces go through the network together."""

TIMEOUT_SECONDS = 120.0
"""What one image may take by default: many times what the largest take."""

POLL_SECONDS = 0.2
_STOP_SECONDS = 2.0

Item = TypeVar("Item")


def chunked(items: Iterable[Item], size: int = CHUNK_IMAGES) -> Iterator[list[Item]]:
    """Yield the items in lists of ``size``, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def failed_result(model: ModelInfo, one: Input, problem: str) -> Result:
    """Return the result of an image that could not be analyzed, with what happened."""
    return Result(one.source, "error", model, error=problem)


def late_result(model: ModelInfo, one: Input, timeout: float) -> Result:
    """Return the result of an image that took longer than ``timeout`` seconds."""
    late = f"took longer than {timeout:g} seconds (--timeout), and was given up"
    return failed_result(model, one, f"{abbreviate(one.source)} {late}")


# ---------------------------------------------------------------- one chunk


def analyze_chunk(
    recognizer: Recognizer,
    chunk: Sequence[Input],
    *,
    batch_size: int,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Result]:
    """Analyze images together; returns one result each, in their order, whatever they are.

    An image that makes the recognizer raise has the status "error".

    Args:
        recognizer: the recognizer.
        chunk: the images.
        batch_size: faces that go through the network at once.
        progress: called with each image's index before it is read, and with the number of images
            before the network runs.

    Raises:
        ModelError: if the network fails.
    """
    readable = [(index, one) for index, one in enumerate(chunk) if one.content is not None]

    def contents() -> Iterator[Any]:
        for index, one in readable:
            progress(index)
            yield one.content
        progress(len(chunk))

    try:
        results = recognizer.analyze_many(contents(), batch_size=batch_size)
        found = [_named(one, each) for (_, one), each in zip(readable, results, strict=True)]
    except (ModelError, UsageError):
        raise
    except Exception:  # of any kind: which image it was is found out below
        found = []
        for index, one in readable:
            progress(index)
            found.append(_analyze_alone(recognizer, one, batch_size))
    rest = iter(found)
    return [
        Result(one.source, "unreadable", recognizer.model, error=one.problem)
        if one.content is None
        else next(rest)
        for one in chunk
    ]


def _analyze_alone(recognizer: Recognizer, one: Input, batch_size: int) -> Result:
    content: Any = one.content
    try:
        (result,) = recognizer.analyze_many([content], batch_size=batch_size)
        return _named(one, result)
    except (ModelError, UsageError):
        raise
    except Exception as error:  # as above: one image does not end a run of a million
        reason = abbreviate(" ".join(str(error).split()))
        problem = f"{abbreviate(one.source)}: {type(error).__name__}" + (
            f": {reason}" if reason else ""
        )
        return failed_result(recognizer.model, one, problem)


def _named(one: Input, result: Result) -> Result:
    """Return a result under its input's name: bytes have none, and a path may be another."""
    error = result.error
    if error is not None and isinstance(one.content, bytes):
        name = "standard input" if one.source == "-" else abbreviate(one.source)
        error = name + error.removeprefix("image")
    elif error is not None and isinstance(one.content, str):
        path = abbreviate(one.content)
        if error.startswith(path):
            error = abbreviate(one.source) + error.removeprefix(path)
    return replace(result, source=one.source, error=error)


# ---------------------------------------------------------------- in a thread, with a timeout


class Clock:
    """Seconds of a monotonic clock that suspends while the machine sleeps; ask it often."""

    def __init__(self) -> None:
        """Start at 0."""
        self._now = 0.0
        self._asked = time.monotonic()

    def now(self) -> float:
        """Return the seconds; at most one passes between two calls."""
        asked = time.monotonic()
        self._now += min(asked - self._asked, 1.0)
        self._asked = asked
        return self._now


class ImageTimeout(Exception):
    """An image took too long; its thread is still at it.

    Attributes:
        index: the image's in the chunk; the number of images where the network hangs.
    """

    def __init__(self, index: int) -> None:
        """Take the index."""
        super().__init__(index)
        self.index = index


def analyze_with_timeout(
    recognizer: Recognizer, chunk: Sequence[Input], *, batch_size: int, timeout: float
) -> list[Result]:
    """Analyze images as `analyze_chunk` does, but in a thread, with ``timeout`` seconds for each.

    An interrupt is taken at once, whatever a decoder is doing.

    Raises:
        ImageTimeout: if one takes too long. The recognizer must not be used again, since its thread
            cannot be ended.
    """
    done: Future[list[Result]] = Future()
    reached, abandoned = 0, False

    def progress(index: int) -> None:
        nonlocal reached
        reached = index
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
    index, since = reached, 0.0
    threading.Thread(target=work, daemon=True).start()
    try:
        # Not joined: an interrupted join takes a thread for one that has ended (Python 3.11).
        while not wait([done], POLL_SECONDS).done:
            now = clock.now()
            if reached != index:
                index, since = reached, now
            elif now - since > timeout:
                raise ImageTimeout(index)
    except BaseException as error:
        abandoned = True
        if not isinstance(error, ImageTimeout):
            # The interpreter must not shut down while a thread is in a library's code.
            ended = wait([done], _STOP_SECONDS).done
            if not ended and isinstance(error, KeyboardInterrupt):
                atexit.register(os._exit, EXIT_INTERRUPTED)
        raise
    return done.result()


class _Abandoned(BaseException):
    """Nobody waits for the results any more."""
