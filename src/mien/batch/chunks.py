"""A few images at a time: what one worker reads in one go, its faces in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from mien.batch.listing import Input
from mien.core.errors import ModelError, UsageError, shown
from mien.core.results import Result

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

CHUNK_IMAGES = 16
"""Images whose faces go through the network together."""

Item = TypeVar("Item")


def chunked(items: Iterable[Item], size: int = CHUNK_IMAGES) -> Iterator[list[Item]]:
    """Yield the items in lists of ``size``, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _unheard(place: int) -> None:
    """Nobody wants to know."""


def analyze_chunk(
    recognizer: Recognizer,
    chunk: Sequence[Input],
    *,
    batch_size: int,
    reaching: Callable[[int], None] = _unheard,
) -> list[Result]:
    """Analyze images together and return one result each, in their order, whatever they are.

    An image that makes the recognizer fail in a way of its own has the status "error".

    Args:
        recognizer: what reads them.
        chunk: the images.
        batch_size: faces that go through the network at once.
        reaching: is told each image's place in the chunk before it is read, and the number of
            images before their faces go through the network.

    Raises:
        ModelError: if the network fails.
    """
    readable = [one for one in chunk if one.content is not None]
    places = [place for place, one in enumerate(chunk) if one.content is not None]
    told = _Told(readable, [*places, len(chunk)], reaching)
    try:
        found = _analyzed(recognizer, readable, told, batch_size)
    except (ModelError, UsageError):
        raise
    except Exception:  # of any kind: which image it was and what it said is found out below
        found = []
        for place, one in zip(places, readable, strict=True):
            reaching(place)
            found.append(_analyzed_alone(recognizer, one, batch_size))
    results = iter(found)
    return [
        failed_result(recognizer, one, "unreadable") if one.content is None else next(results)
        for one in chunk
    ]


def failed_result(recognizer: Recognizer, one: Input, status: str, problem: str = "") -> Result:
    """Return the result of an input that was not analyzed, with its problem or the one given."""
    return Result(one.source, status, recognizer.model, error=problem or one.problem)


class _Told(Sequence[Any]):
    """What to read images from, which tells somebody as they are gone through."""

    def __init__(
        self, inputs: Sequence[Input], places: Sequence[int], reaching: Callable[[int], None]
    ) -> None:
        self._contents = [one.content for one in inputs]
        self._places = places
        self._reaching = reaching

    def __len__(self) -> int:
        return len(self._contents)

    def __getitem__(self, index: Any) -> Any:
        return self._contents[index]

    def __iter__(self) -> Iterator[Any]:
        for place, content in zip(self._places, self._contents, strict=False):
            self._reaching(place)
            yield content
        self._reaching(self._places[-1])


def _analyzed(
    recognizer: Recognizer, inputs: Sequence[Input], contents: Sequence[Any], batch_size: int
) -> list[Result]:
    found = recognizer.analyze_many(contents, batch_size=batch_size)
    return [_renamed(result, one) for one, result in zip(inputs, found, strict=True)]


def _analyzed_alone(recognizer: Recognizer, one: Input, batch_size: int) -> Result:
    try:
        return _analyzed(recognizer, [one], [one.content], batch_size)[0]
    except (ModelError, UsageError):
        raise
    except Exception as error:  # as above: one image does not end a million others
        reason = shown(" ".join(str(error).split()))
        problem = f"{shown(one.source)}: {type(error).__name__}" + (f": {reason}" if reason else "")
        return failed_result(recognizer, one, "error", problem)


def _renamed(result: Result, one: Input) -> Result:
    """Give a result its input's name: bytes have none of their own, a path may have another."""
    error = result.error
    if error is not None and isinstance(one.content, bytes):
        name = "standard input" if one.source == "-" else shown(one.source)
        error = name + error.removeprefix("image")
    elif error is not None and isinstance(one.content, str):
        there = shown(one.content)
        if error.startswith(there):
            error = shown(one.source) + error.removeprefix(there)
    return replace(result, source=one.source, error=error)
