"""Connecting to a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mien.core.errors import MienError, MissingExtra, UsageError
from mien.core.process import disable_telemetry

_SETTINGS = {
    # Ray does not print on stdout, which is for data, that a worker died.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    # A busy machine takes longer to start processes than Ray thinks, and hardly runs what Ray makes
    # nice. Which of these there are depends on its version.
    "RAY_raylet_start_wait_time_s": "300",
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
    import ray

    from mien.batch.ray_start import unasked, unhurried
except ImportError as error:
    raise MissingExtra("ray", "--engine ray") from error

_ANSWER_SECONDS = 10.0


@contextmanager
def cluster(address: str | None, *, cores: int = 0) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine and end it afterwards.

    Args:
        address: the cluster's, or "auto" for one on this machine; None starts one.
        cores: as many as one that is started has at least, whether or not the machine has them.

    Raises:
        UsageError: if there is no cluster at the address.
        MienError: if none can be started here.
    """
    connected_already = ray.is_initialized()
    if not connected_already:
        _connect(address, cores)
    try:
        yield
    finally:
        if not connected_already:
            ray.shutdown()


def last_line(error: BaseException) -> str:
    """Return the last line of what an error says: Ray's are traces as a rule."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _connect(address: str | None, cores: int) -> None:
    if address is not None:
        _check_answers(address)
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is not None:
            with _own_signals():
                ray.init(address=address, **quiet)
            return
        if cores > (os.cpu_count() or 1):
            quiet["num_cpus"] = cores
        with unhurried(), unasked(), _own_signals():
            # "local" starts a cluster even where there is another on this machine.
            ray.init(address="local", include_dashboard=False, **quiet)
    except Exception as error:  # Ray raises the plain class itself where a node does not start
        if address is not None:
            raise _no_cluster(address, error) from error
        raise MienError(f"Ray cannot be started on this machine: {last_line(error)}") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what SIGTERM does here: Ray would end the process, with nothing written."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


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
    return UsageError(
        f"no Ray cluster at {address} ({last_line(error)}): start one with 'ray start --head'"
    )
