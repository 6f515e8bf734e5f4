"""What the tests of the HTTP service share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service_maker import Gated, Service, loader, running


@pytest.fixture(scope="module")
def service(tiny_model: Path) -> Iterator[Service]:
    """A service of the tiny model, to which each image is a face."""
    with running(loader(tiny_model)) as started:
        yield started


@pytest.fixture
def gated() -> Iterator[Gated]:
    """A detector that waits while its gate is closed; a test may leave it so."""
    detector = Gated()
    yield detector
    detector.gate.set()
