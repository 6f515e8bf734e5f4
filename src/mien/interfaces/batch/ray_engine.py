"""The Ray engine: images through recognizers on all machines of a Ray cluster.

Ray Data carries the images' names to its actors and the results back, in the order of the names.
The results are those of the local engine, since the same code makes them.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.core.errors import MienError, MissingExtra, ModelError, UsageError
from mien.core.results import Result
from mien.interfaces.batch.chunks import CHUNK_IMAGES, analyze_chunk, chunked
from mien.interfaces.batch.listing import Input
from mien.interfaces.batch.loading import RecognizerSource

try:
    # Read when Ray is imported: nothing is reported to anybody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import pyarrow  # noqa: F401 - Ray Data's own need of it comes later, with a trace
    import ray
    import ray.data
    from ray.exceptions import RayError
except ImportError as error:
    raise MissingExtra("ray", "--engine ray") from error

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

WINDOW_IMAGES = 50_000
"""Names that are given to the cluster at once: a million are never held together."""

BLOCK_IMAGES = 16 * CHUNK_IMAGES
"""Images in one task's hands, at most: what is read again if its machine dies."""

_ANSWER_SECONDS = 10.0
_TRIES = 3
"""Failures in a row, without a result between them, that end the run."""


class RayEngine:
    """Reads images in actors of a Ray cluster; all its machines must see the images' paths.

    Args:
        source: what each actor loads its recognizer from; all machines must see a model's folder.
        recognizer: this process's own, to make sure that the actors have the same model.
        address: the cluster's, or "auto" for one on this machine; None starts one for the run.
        workers: actors; as many as the cluster has cores unless given.
        batch_size: faces that go through the network at once.
    """

    def __init__(
        self,
        source: RecognizerSource,
        recognizer: Recognizer,
        *,
        address: str | None = None,
        workers: int | None = None,
        batch_size: int,
    ) -> None:
        """See the class."""
        self._source = source
        self._sha256 = recognizer.model.sha256
        self._address = address
        self._workers = workers
        self._batch_size = batch_size

    def __call__(self, inputs: Iterable[Input]) -> Iterator[Result]:
        """Yield one result an input, in their order.

        Raises:
            UsageError: if there is no cluster at the address.
            MienError: if the cluster fails: all its machines are gone, or mien is not installed on
                them.
        """
        with _cluster(self._address):
            for window in chunked(inputs, WINDOW_IMAGES):
                yield from self._outliving(window)

    def _outliving(self, window: list[Input]) -> Iterator[Result]:
        """Yield the window's results; when a machine dies, go on from the first that is missing.

        Ray could start a lost actor again by itself, but waits for ever where no machine has a core
        left for it.
        """
        done, idle = 0, 0
        while done < len(window):
            before = done
            try:
                for result in self._through(window[done:]):
                    yield result
                    done += 1
            except RayError as error:
                idle = idle + 1 if done == before else 0
                if isinstance(error, MienError) or idle == _TRIES:
                    raise MienError(f"the Ray cluster failed: {_last_line(error)}") from error

    def _through(self, inputs: list[Input]) -> Iterator[Result]:
        # Pickled, since Arrow takes no names that are not UTF-8.
        rows = [{"input": pickle.dumps(_anywhere(one))} for one in inputs]
        blocks = -(-len(rows) // BLOCK_IMAGES)
        dataset = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            _Reader,
            fn_constructor_args=(self._source, self._sha256, self._batch_size),
            batch_size=CHUNK_IMAGES,
            concurrency=(1, min(blocks, self._most_workers())),
            num_cpus=1,
            max_restarts=0,
            max_task_retries=0,
        )
        for row in dataset.iter_rows():
            result: Result = pickle.loads(row["result"])
            yield result

    def _most_workers(self) -> int:
        cores = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call, unused-ignore]
        if cores < 1:
            raise MienError("no machine of the Ray cluster has a core: add one with 'ray start'")
        return cores if self._workers is None else min(cores, self._workers)


def _anywhere(one: Input) -> Input:
    """Return an input that means the same in any working folder; its name stays."""
    if not isinstance(one.content, str):
        return one
    return replace(one, content=os.path.abspath(one.content))  # noqa: PTH100 - keeps links


class _Reader:
    """One recognizer in an actor."""

    def __init__(self, source: RecognizerSource, sha256: str, batch_size: int) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._recognizer = source.load(threads=1)
        self._batch_size = batch_size
        found = self._recognizer.model.sha256
        if found != sha256:
            raise ModelError(
                f"a machine of the cluster has another model ({found[:12]}, expected "
                f"{sha256[:12]}): install the same mien and model on all of them"
            )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        chunk = [pickle.loads(each) for each in batch["input"]]
        results = analyze_chunk(self._recognizer, chunk, batch_size=self._batch_size)
        return {"result": np.array([pickle.dumps(one) for one in results], dtype=object)}


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine and end it afterwards."""
    connected_already = ray.is_initialized()
    if not connected_already:
        _connect(address)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        yield
    finally:
        if not connected_already:
            ray.shutdown()


def _connect(address: str | None) -> None:
    if address is not None:
        _check_answers(address)
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        # "local" starts a cluster even where there is another on this machine.
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray raises the plain class itself where a node does not start
        if address is not None:
            raise _no_cluster(address, error) from error
        reason = _last_line(error)
        raise MienError(f"Ray cannot be started on this machine: {reason}") from error


def _check_answers(address: str) -> None:
    """Make sure that somebody listens at HOST:PORT: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:  # "auto"
        return
    if not port.isdecimal():
        raise UsageError(f"expected --address as HOST:PORT or auto, got {address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> UsageError:
    reason = _last_line(error)
    return UsageError(f"no Ray cluster at {address} ({reason}): start one with 'ray start --head'")


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
