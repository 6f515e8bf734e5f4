"""The HTTP service: FastAPI around one recognizer. `mien.service.app` makes it."""

from __future__ import annotations

import importlib.util

from mien.core.errors import MissingExtra

_PACKAGES = ("fastapi", "prometheus_client", "python_multipart", "uvicorn", "websockets")


def require_app(needed_for: str = "the HTTP service") -> None:
    """Raise MissingExtra unless the packages of the extra ``app`` are installed; import nothing."""
    if any(importlib.util.find_spec(name) is None for name in _PACKAGES):
        raise MissingExtra("app", needed_for)
