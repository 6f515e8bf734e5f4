"""The Ray engine: recognizers in actors on all machines of a Ray cluster.

Ray Data carries the images' names to its actors and the results back, in the order of the names.
The results are those of the local engine, since the same code makes them.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.batch.analysis import (
    CHUNK_IMAGES,
    TIMEOUT_SECONDS,
    ImageTimeout,
    analyze_with_timeout,
    chunked,
    late_result,
)
from mien.batch.inputs import Input, RecognizerOptions
from mien.core.errors import MienError, MissingExtra, ModelError, UsageError
from mien.core.process import disable_telemetry
from mien.core.results import Result

_SETTINGS = {
    # Ray must not print on stdout, which is for data, that a worker died.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    # On a busy machine processes take longer to start than Ray expects, and those that it starts
    # with a low priority hardly run.
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_worker_niceness": "0",
}

try:
    # Read when Ray is imported.
    disable_telemetry()
    for _name, _value in _SETTINGS.items():
        os.environ.setdefault(_name, _value)
    import pyarrow  # noqa: F401 - Ray Data itself asks for it later, with a traceback
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
"""Images of one task at most: what is analyzed again if its machine dies."""

_TRIES = 3
"""Failures in a row, without a result between them, that end the run."""

_CONNECT_SECONDS = 10.0


class RayEngine:
    """Analyzes images in actors of a Ray cluster, which have to have the recognizer's model.

    All machines must see the images' paths, and the folder of a model that is not bundled. Other
    arguments as `mien.batch.engines.make_engine`.
    """

    def __init__(
        self,
        options: RecognizerOptions,
        recognizer: Recognizer,
        *,
        address: str | None = None,
        workers: int | None = None,
        batch_size: int,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._actor_arguments = (options, recognizer.model.sha256, batch_size, timeout)
        self._address = address
        self._workers = workers

    def __call__(
        self,
        inputs: Iterable[Input],
        *,
        in_order: bool = True,  # noqa: ARG002 - it always is
        isolate: bool = False,  # noqa: ARG002 - nothing is analyzed in this process
    ) -> Generator[Result, None, None]:
        """Yield one result an input, in their order whatever happens.

        Raises:
            UsageError: if there is no cluster at the address.
            MienError: if the cluster fails: all its machines are gone, or mien is not installed on
                them.
        """
        with _cluster(self._address):
            context = ray.data.DataContext.get_current()
            context.execution_options.preserve_order = True
            context.enable_progress_bars = False
            context.print_on_execution_start = False
            for window in chunked(inputs, WINDOW_IMAGES):
                yield from self._with_retries(window)

    def _with_retries(self, window: list[Input]) -> Iterator[Result]:
        """Yield the window's results; when a machine dies, go on from the first that is missing.

        Ray could restart a lost actor itself, but waits for ever where no machine has a core left.
        """
        done, failures = 0, 0
        while done < len(window):
            before = done
            try:
                for result in self._map(window[done:]):
                    yield result
                    done += 1
            except RayError as error:
                failures = failures + 1 if done == before else 0
                if isinstance(error, MienError) or failures == _TRIES:
                    raise MienError(f"the Ray cluster failed: {_last_line(error)}") from error

    def _map(self, inputs: list[Input]) -> Iterator[Result]:
        # Pickled, since Arrow takes no names that are not UTF-8.
        rows = [{"input": pickle.dumps(_absolute(one))} for one in inputs]
        blocks = -(-len(rows) // BLOCK_IMAGES)
        names = ray.data.from_items(rows, override_num_blocks=blocks)
        with warnings.catch_warnings():
            # The last two go away with Ray 2.64, which has nothing in their place yet.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset = names.map_batches(
                _Analyzer,
                fn_constructor_args=self._actor_arguments,
                batch_size=CHUNK_IMAGES,
                concurrency=(1, min(blocks, self._max_workers())),
                num_cpus=1,
                max_restarts=0,
                max_task_retries=0,
            )
        for row in dataset.iter_rows():
            result: Result = pickle.loads(row["result"])
            yield result

    def _max_workers(self) -> int:
        cores = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call, unused-ignore]
        if cores < 1:
            raise MienError("no machine of the Ray cluster has a core: add one with 'ray start'")
        return cores if self._workers is None else min(cores, self._workers)


def _absolute(one: Input) -> Input:
    """Return an input that means the same in any working folder, under the same name."""
    if not isinstance(one.content, str):
        return one
    return replace(one, content=os.path.abspath(one.content))  # noqa: PTH100 - keeps links


class _Analyzer:
    """An actor with one recognizer."""

    def __init__(
        self, options: RecognizerOptions, sha256: str, batch_size: int, timeout: float
    ) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._options = options
        self._recognizer = options.load(threads=1)
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
        results = [pickle.dumps(one) for one in self._analyze(chunk)]
        return {"result": np.array(results, dtype=object)}

    def _analyze(self, chunk: list[Input]) -> list[Result]:
        """Analyze images past those that hang, whose threads keep their recognizers."""
        if not chunk:
            return []
        try:
            return analyze_with_timeout(
                self._recognizer, chunk, batch_size=self._batch_size, timeout=self._timeout
            )
        except ImageTimeout as late:
            self._recognizer = self._options.load(threads=1)
            index = late.index
        if index >= len(chunk) > 1:
            return [result for one in chunk for result in self._analyze([one])]
        index = min(index, len(chunk) - 1)
        result = late_result(self._recognizer.model, chunk[index], self._timeout)
        return [*self._analyze(chunk[:index]), result, *self._analyze(chunk[index + 1 :])]


# ---------------------------------------------------------------- the cluster


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine and end it afterwards.

    Args:
        address: the cluster's, or "auto" for one on this machine; None starts one.

    Raises:
        UsageError: if there is no cluster at the address.
        MienError: if none can be started here.
    """
    connected_already = ray.is_initialized()
    if not connected_already:
        _connect(address)
    try:
        yield
    finally:
        if not connected_already:
            ray.shutdown()


def _connect(address: str | None) -> None:
    if address is not None:
        _check_listening(address)
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address is not None:
            ray.init(address=address, **quiet)
        else:
            # "local" starts a cluster even where there is another on this machine.
            ray.init(address="local", include_dashboard=False, **quiet)
    except Exception as error:  # Ray raises the plain class itself where a node does not start
        if address is not None:
            raise _no_cluster(address, error) from error
        raise MienError(
            f"Ray cannot be started on this machine ({_last_line(error)}): try again while less "
            "else runs, or leave --engine ray out"
        ) from error
    finally:
        # Ray's own handler would end the process with nothing written.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, sigterm)


def _check_listening(address: str) -> None:
    """Make sure that somebody listens at HOST:PORT: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:  # "auto"
        return
    if not port.isdecimal():
        raise UsageError(f"expected --address as HOST:PORT or auto, got {address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> UsageError:
    return UsageError(
        f"no Ray cluster at {address} ({_last_line(error)}): start one with 'ray start --head'"
    )


def _last_line(error: BaseException) -> str:
    """Return the last line of an error, which as a rule is a traceback in Ray."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
