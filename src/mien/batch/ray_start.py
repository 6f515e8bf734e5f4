"""Starting Ray on a machine that is too busy for newer versions, and without asking where it is."""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

_HELPERS = (
    "DASHBOARD_AGENT_LISTEN_PORT_NAME",
    "METRICS_AGENT_PORT_NAME",
    "METRICS_EXPORT_PORT_NAME",
)
"""Ray's names of the ports that the dashboard's helper listens at: nobody asks for them here."""

_NOT_THERE = -1
"""What Ray's helpers write down for a port that they do without."""

_TAKEN = {"session_dir", "node_id", "runtime_env_agent_port"}


@contextmanager
def unhurried() -> Iterator[None]:
    """Keep a cluster that is started meanwhile from giving up on its own helpers.

    Each helper looks for a port and writes it down in a file. Newer versions of Ray wait 15 seconds
    for such a file, whatever one sets, and end if it is not there: on a busy machine no cluster
    starts (https://github.com/ray-project/ray/issues/65983). What they wait for is settled here
    before they are started. There is no public way to do so: with a version that does it otherwise
    nothing is changed, as with older ones, which settle the ports themselves.
    """
    services, raylet = _module("ray._private.services"), _module("ray._raylet")
    start = getattr(services, "start_raylet", None)
    names = [getattr(raylet, name, None) for name in _HELPERS]
    persist = getattr(raylet, "persist_port", None)
    if start is None or persist is None or None in names:
        yield
        return
    signature = inspect.signature(start)
    if not signature.parameters.keys() >= _TAKEN:
        yield
        return

    def start_settled(*words: Any, **options: Any) -> Any:
        given = signature.bind(*words, **options)
        given.arguments["runtime_env_agent_port"] = _free_port()
        for name in names:
            persist(given.arguments["session_dir"], given.arguments["node_id"], name, _NOT_THERE)
        return start(*given.args, **given.kwargs)

    services.start_raylet = start_settled
    try:
        yield
    finally:
        services.start_raylet = start


@contextmanager
def unasked() -> Iterator[None]:
    """Keep a cluster that is started meanwhile from asking whose cloud the machine is in.

    Without a dashboard Ray still starts its process, to report usage. Even with reports off it
    first asks 169.254.169.254 and metadata.google.internal, whatever one sets. Nothing else needs
    the process, so that it is left out, unless somebody has turned reports on.
    """
    services = _module("ray._private.services")
    start = getattr(services, "start_api_server", None)
    if start is None or os.environ.get("RAY_USAGE_STATS_ENABLED") == "1":
        yield
        return

    def start_nothing(*_: Any, **__: Any) -> tuple[str, None]:
        return "", None

    services.start_api_server = start_nothing
    try:
        yield
    finally:
        services.start_api_server = start


def _module(name: str) -> Any:
    """Return a module of Ray's own, None where this version has it no more."""
    try:
        return import_module(name)
    except ImportError:
        return None


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])
