"""Fixtures of the HTTP service's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service_maker import Gated, Service, loader, running


@pytest.fixture(scope="module")
def service(tiny_model: Path) -> Iterator[Service]:
    """A service with the tiny model, which treats each image as a face crop."""
    with running(loader(tiny_model)) as started:
        yield started


@pytest.fixture
def gated() -> Iterator[Gated]:
    """A detector that blocks while its gate is closed."""
    detector = Gated()
    yield detector
    detector.gate.set()
