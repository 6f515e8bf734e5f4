"""Where a batch is analyzed: in this process, in several of this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from itertools import chain, islice
from typing import TYPE_CHECKING, Protocol

from mien.batch.analysis import (
    TIMEOUT_SECONDS,
    ImageTimeout,
    analyze_with_timeout,
    chunked,
)
from mien.batch.inputs import Input, RecognizerOptions
from mien.core.errors import UsageError
from mien.core.process import usable_cores
from mien.core.results import Result

if TYPE_CHECKING:
    from mien.batch.processes import ProcessPool
    from mien.inference.recognizer import Recognizer

IN_PROCESS_IMAGES = 64
"""Fewer are analyzed in this process, before another one would have loaded the model."""

WORKERS_PER_CORE = 4
"""More would only wait for one another, each with the model in memory."""


class Engine(Protocol):
    """Analyzes images somewhere and yields one result each, taking inputs as needed."""

    def __call__(
        self, inputs: Iterable[Input], *, in_order: bool = True, isolate: bool = False
    ) -> Generator[Result, None, None]:
        """Yield the results.

        Args:
            inputs: the images.
            in_order: strictly; otherwise an image that takes seconds may come after later ones.
            isolate: analyze nothing in this process: an image may have ended an earlier run.
        """


def make_engine(
    name: str,
    options: RecognizerOptions,
    recognizer: Recognizer,
    *,
    address: str | None,
    workers: int | None,
    batch_size: int,
    timeout: float,
) -> Engine:
    """Return the engine "local" or "ray".

    Args:
        name: which one.
        options: what each worker loads its recognizer from.
        recognizer: the same, loaded in this process.
        address: of the Ray cluster; None starts one on this machine.
        workers: processes or actors; one per core unless given.
        batch_size: faces that go through the network at once.
        timeout: seconds that one image may take.

    Raises:
        UsageError: if an option's value cannot be used, or does not go with another.
        MissingExtra: if Ray is asked for and not installed.
    """
    if name == "ray":
        from mien.batch.ray_engine import RayEngine

        return RayEngine(
            options.absolute(),
            recognizer,
            address=address,
            workers=workers,
            batch_size=batch_size,
            timeout=timeout,
        )
    if address is not None:
        raise UsageError("--address is that of a Ray cluster: add --engine ray")
    return LocalEngine(options, recognizer, workers=workers, batch_size=batch_size, timeout=timeout)


class LocalEngine:
    """Analyzes images in processes of this machine; arguments as `make_engine`.

    A few images, or those of a single worker, are analyzed in this process by ``recognizer``.
    """

    def __init__(
        self,
        options: RecognizerOptions,
        recognizer: Recognizer,
        *,
        workers: int | None = None,
        batch_size: int,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self.options = options
        self.recognizer = recognizer
        cores = usable_cores()
        self.workers = cores if workers is None else min(workers, WORKERS_PER_CORE * cores)
        self.batch_size = batch_size
        self.timeout = timeout

    def __call__(
        self, inputs: Iterable[Input], *, in_order: bool = True, isolate: bool = False
    ) -> Generator[Result, None, None]:
        """Yield one result an input; see `Engine`. Raises ModelError if the network fails."""
        rest = iter(inputs)
        first = list(islice(rest, IN_PROCESS_IMAGES))
        chunks = chunked(chain(first, rest))
        if isolate or (self.workers > 1 and len(first) == IN_PROCESS_IMAGES):
            yield from self._pool(self.workers).results(chunks, in_order=in_order)
            return
        for chunk in chunks:
            try:
                yield from analyze_with_timeout(
                    self.recognizer, chunk, batch_size=self.batch_size, timeout=self.timeout
                )
            except ImageTimeout as late:
                # The hung thread keeps this process's recognizer: go on in one that can be killed.
                yield from self._pool(1).results(chunks, hung=(chunk, late.index))

    def _pool(self, workers: int) -> ProcessPool:
        from mien.batch.processes import ProcessPool  # loads multiprocessing

        return ProcessPool(
            self.options,
            self.recognizer.model,
            workers=workers,
            batch_size=self.batch_size,
            timeout=self.timeout,
        )
