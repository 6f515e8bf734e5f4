"""The Ray engine: images through recognizers on all machines of a Ray cluster.

Ray Data carries the images' names to its actors and the results back, in the order of the names.
The results are those of the local engine, since the same code makes them.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.batch.chunks import CHUNK_IMAGES, chunked
from mien.batch.listing import Input
from mien.batch.loading import RecognizerSource
from mien.batch.ray_cluster import cluster, last_line
from mien.batch.watched import TIMEOUT_SECONDS, Hung, analyze_watched, late_result
from mien.core.errors import MienError, MissingExtra, ModelError
from mien.core.results import Result

try:
    import pyarrow  # noqa: F401 - Ray Data's own need of it comes later, with a trace
    import ray
    import ray.data
    from ray.exceptions import RayError
    from ray.util.annotations import RayDeprecationWarning
except ImportError as error:
    raise MissingExtra("ray", "--engine ray") from error

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer

WINDOW_IMAGES = 50_000
"""Names that are given to the cluster at once: a million are never held together."""

BLOCK_IMAGES = 16 * CHUNK_IMAGES
"""Images in one task's hands, at most: what is read again if its machine dies."""

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
        timeout: seconds that one image may take.
    """

    def __init__(
        self,
        source: RecognizerSource,
        recognizer: Recognizer,
        *,
        address: str | None = None,
        workers: int | None = None,
        batch_size: int,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """See the class."""
        self._source = source
        self._sha256 = recognizer.model.sha256
        self._address = address
        self._workers = workers
        self._batch_size = batch_size
        self._timeout = timeout

    def __call__(
        self,
        inputs: Iterable[Input],
        *,
        in_order: bool = True,  # noqa: ARG002 - it always is
        careful: bool = False,  # noqa: ARG002 - nothing is read in this process
    ) -> Generator[Result, None, None]:
        """Yield one result an input, in their order whatever happens.

        Raises:
            UsageError: if there is no cluster at the address.
            MienError: if the cluster fails: all its machines are gone, or mien is not installed on
                them.
        """
        with cluster(self._address):
            _set_up_data()
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
                    raise MienError(f"the Ray cluster failed: {last_line(error)}") from error

    def _through(self, inputs: list[Input]) -> Iterator[Result]:
        # Pickled, since Arrow takes no names that are not UTF-8.
        rows = [{"input": pickle.dumps(_anywhere(one))} for one in inputs]
        blocks = -(-len(rows) // BLOCK_IMAGES)
        names = ray.data.from_items(rows, override_num_blocks=blocks)
        with warnings.catch_warnings():
            # The last two go away with Ray 2.64, and nothing has come for them yet.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset = names.map_batches(
                _Reader,
                fn_constructor_args=(self._source, self._sha256, self._batch_size, self._timeout),
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

    def __init__(
        self, source: RecognizerSource, sha256: str, batch_size: int, timeout: float
    ) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._source = source
        self._recognizer = source.load(threads=1)
        self._batch_size = batch_size
        self._timeout = timeout
        found = self._recognizer.model.sha256
        if found != sha256:
            raise ModelError(
                f"a machine of the cluster has another model ({found[:12]}, expected "
                f"{sha256[:12]}): install the same mien and model on all of them"
            )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        chunk = [pickle.loads(each) for each in batch["input"]]
        return {"result": np.array([pickle.dumps(one) for one in self._read(chunk)], dtype=object)}

    def _read(self, chunk: list[Input]) -> list[Result]:
        """Read images past those that hang, whose threads stay with their recognizers."""
        if not chunk:
            return []
        try:
            return analyze_watched(
                self._recognizer, chunk, batch_size=self._batch_size, timeout=self._timeout
            )
        except Hung as hung:
            self._recognizer = self._source.load(threads=1)
            place = hung.place
        if place >= len(chunk) > 1:
            return [result for one in chunk for result in self._read([one])]
        place = min(place, len(chunk) - 1)
        late = late_result(self._recognizer, chunk[place], self._timeout)
        return [*self._read(chunk[:place]), late, *self._read(chunk[place + 1 :])]


def _set_up_data() -> None:
    """Make Ray Data keep the order of what it is given, and its words to itself."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
