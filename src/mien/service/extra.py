"""The packages of the extra ``app``, where they are installed."""

from __future__ import annotations

import importlib.util

from mien.core.errors import MissingExtra

_PACKAGES = ("fastapi", "prometheus_client", "python_multipart", "uvicorn")


def require_app(needed_for: str = "the HTTP service") -> None:
    """Check that all that the service is made of is installed; nothing is imported.

    Raises:
        MissingExtra: if a package is not.
    """
    if any(importlib.util.find_spec(name) is None for name in _PACKAGES):
        raise MissingExtra("app", needed_for)
