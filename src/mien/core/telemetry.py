"""Nothing phones home: what mien runs on reports nothing about its user.

Some packages do so unless the environment says otherwise as they are loaded. mien says it before it
loads one of them, and leaves alone what somebody has set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

SWITCHES: Mapping[str, str] = {
    # ONNX Runtime, from 1.29 on: a device's number and a queue of events below the user's home, and
    # an upload to Microsoft.
    "ORT_DISABLE_TELEMETRY": "1",
    # Ray: reports to usage-stats.ray.io, once an hour.
    "RAY_USAGE_STATS_ENABLED": "0",
    # TensorFlow turns this on as it is imported.
    "ENABLE_RUNTIME_UPTIME_TELEMETRY": "0",
}
"""Environment variables, and what they say where reports are off."""


def disable_telemetry() -> None:
    """Turn reports off in this process and those that it starts, unless a variable is set."""
    for name, value in SWITCHES.items():
        os.environ[name] = os.environ.get(name) or value


def reporting() -> list[str]:
    """Return the variables, as ``NAME=VALUE``, by which somebody has turned reports on."""
    return [
        f"{name}={os.environ[name]}"
        for name, value in SWITCHES.items()
        if os.environ.get(name) not in (None, "", value)
    ]
