"""Ray engine: recognizers in actors on all machines of a Ray cluster.

Ray Data sends the images' names to the actors and the results back, in order. The actors run the
same code as the local engine, so results are the same.
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
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mien.batch.analysis import (
    CHUNK_IMAGES,
    Engine,
    ImageTimeout,
    analyze_with_timeout,
    chunked,
    timeout_result,
)
from mien.batch.inputs import Input, RecognizerOptions
from mien.core.errors import MienError, MissingExtra, ModelError, UsageError
from mien.core.process import disable_telemetry
from mien.core.results import Result

_SETTINGS = {
    # Otherwise Ray reports dead workers on stdout, which is for data.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    # On a busy machine, processes start more slowly than Ray expects, and low-priority ones hardly
    # run.
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_worker_niceness": "0",
}

try:
    # Ray reads the environment when it is imported.
    disable_telemetry()
    for _name, _value in _SETTINGS.items():
        os.environ.setdefault(_name, _value)
    import pyarrow  # noqa: F401 - Ray Data fails without it later, with a traceback
    import ray
    import ray.data
    from ray.exceptions import RayError
    from ray.util.annotations import RayDeprecationWarning
except ImportError as error:
    raise MissingExtra("ray", "--engine ray") from error

WINDOW_IMAGES = 50_000
"""Names sent to the cluster at once, to limit memory."""

BLOCK_IMAGES = 16 * CHUNK_IMAGES
"""Limit on the images of a task, which are analyzed again if its machine dies."""

_TRIES = 3
"""Consecutive failures without any result that end the run."""

_CONNECT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class RayEngine(Engine):
    """Analyzes images in actors of a Ray cluster; ``address`` None starts one on this machine.

    The images' paths, and the folder of a model that is not bundled, must exist on all machines.
    """

    address: str | None = None

    def __call__(
        self,
        inputs: Iterable[Input],
        *,
        in_order: bool = True,  # noqa: ARG002 - always in order
        isolate: bool = False,  # noqa: ARG002 - nothing is analyzed in this process
    ) -> Generator[Result, None, None]:
        """Yield one result per image, in order.

        Raises:
            UsageError: if there is no cluster at the address.
            MienError: if the cluster fails: all its machines are gone, or mien is not installed on
                them.
        """
        with _cluster(self.address):
            context = ray.data.DataContext.get_current()
            context.execution_options.preserve_order = True
            context.enable_progress_bars = False
            context.print_on_execution_start = False
            for window in chunked(inputs, WINDOW_IMAGES):
                yield from self._with_retries(window)

    def _with_retries(self, window: list[Input]) -> Iterator[Result]:
        """Yield the window's results; if a machine dies, continue with the first missing one.

        Ray could restart a lost actor itself, but waits for ever if no machine has a free core.
        """
        done, failures = 0, 0
        while done < len(window):
            previously_done = done
            try:
                for result in self._map(window[done:]):
                    yield result
                    done += 1
            except RayError as error:
                failures = failures + 1 if done == previously_done else 0
                if isinstance(error, MienError) or failures == _TRIES:
                    raise MienError(f"the Ray cluster failed: {_last_line(error)}") from error

    def _map(self, inputs: list[Input]) -> Iterator[Result]:
        # Pickled, since Arrow rejects names that are not UTF-8.
        rows = [{"input": pickle.dumps(_absolute(image))} for image in inputs]
        blocks = -(-len(rows) // BLOCK_IMAGES)
        names = ray.data.from_items(rows, override_num_blocks=blocks)
        workers = min(blocks, self._max_workers())
        with warnings.catch_warnings():
            # Ray 2.60 deprecates max_restarts, without a replacement yet.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset = names.map_batches(
                _Analyzer,
                fn_constructor_args=(
                    self.options.absolute(),
                    self.recognizer.model.sha256,
                    self.batch_size,
                    self.timeout,
                ),
                batch_size=CHUNK_IMAGES,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
                num_cpus=1,
                max_restarts=0,
            )
        for row in dataset.iter_rows():
            result: Result = pickle.loads(row["result"])
            yield result

    def _max_workers(self) -> int:
        cores = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call, unused-ignore]
        if cores < 1:
            raise MienError("no machine of the Ray cluster has a core: add one with 'ray start'")
        return cores if self.workers is None else min(cores, self.workers)


def _absolute(image: Input) -> Input:
    """Return an input with an absolute path, for actors in other working folders."""
    if not isinstance(image.content, str):
        return image
    return replace(image, content=os.path.abspath(image.content))  # noqa: PTH100 - keeps links


class _Analyzer:
    """Actor with a recognizer."""

    def __init__(
        self, options: RecognizerOptions, sha256: str, batch_size: int, timeout: float
    ) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._options = options
        self._recognizer = options.load(threads=1)
        self._batch_size = batch_size
        self._timeout = timeout
        loaded = self._recognizer.model.sha256
        if loaded != sha256:
            raise ModelError(
                f"a machine of the cluster has another model ({loaded[:12]}, expected "
                f"{sha256[:12]}): install the same mien and model on all of them"
            )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        chunk = [pickle.loads(content) for content in batch["input"]]
        results = [pickle.dumps(result) for result in self._analyze(chunk)]
        return {"result": np.array(results, dtype=object)}

    def _analyze(self, chunk: list[Input]) -> list[Result]:
        """Analyze images, and load a new recognizer whenever one hangs."""
        if not chunk:
            return []
        try:
            return analyze_with_timeout(
                self._recognizer, chunk, batch_size=self._batch_size, timeout=self._timeout
            )
        except ImageTimeout as error:
            self._recognizer = self._options.load(threads=1)
            index = error.index
        if index >= len(chunk) > 1:  # in the network
            return [result for image in chunk for result in self._analyze([image])]
        index = min(index, len(chunk) - 1)
        result = timeout_result(self._recognizer.model, chunk[index], self._timeout)
        return [*self._analyze(chunk[:index]), result, *self._analyze(chunk[index + 1 :])]


# ---------------------------------------------------------------- the cluster
@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine and stop it afterwards.

    Args:
        address: the cluster's, or "auto" for one on this machine; None starts one.

    Raises:
        UsageError: if there is no cluster at the address.
        MienError: if none can be started here.
    """
    if ray.is_initialized():
        yield
        return
    _connect(address)
    try:
        yield
    finally:
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
    except Exception as error:  # Ray raises Exception itself if a node does not start
        if address is not None:
            raise _no_cluster(address, error) from error
        raise MienError(
            f"Ray cannot be started on this machine ({_last_line(error)}): try again when it is "
            "less busy, or leave --engine ray out"
        ) from error
    finally:
        # Ray's own handler would end the process before results are written.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, sigterm)


def _check_listening(address: str) -> None:
    """Check that something listens at HOST:PORT, since Ray itself tries for minutes."""
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
    """Return the last line of an error's message, which in Ray is usually a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
