"""Stuck images: their clients get an error, and neither others nor the end are delayed."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mien.core.results import Box
from mien.inference.detectors import Detection
from service_maker import Service, loader, picture, running
from waiting import PATIENCE_S, until

pytest.importorskip("fastapi")


class Slow:
    """A detector that blocks in images of one size until its gate opens."""

    name = "slow"
    crop_scale = None

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.stuck = 0

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Detection]:
        if image.shape[:2] == (64, 64):
            self.stuck += 1
            self.gate.wait(PATIENCE_S)
        return [Detection(Box(0, 0, image.shape[1], image.shape[0]), 1.0)]


SLOW = picture(size=(64, 64))


@pytest.fixture
def slow() -> Iterator[Slow]:
    detector = Slow()
    yield detector
    detector.gate.set()


def limits(**changed: Any) -> Any:
    from mien.service import Limits

    return Limits(**{"workers": 1, "analysis_seconds": 0.4, **changed})


def be_patient(service: Service) -> None:
    """Leave the images that follow the time that they need on a busy machine."""
    inner = service.app.state.service
    inner.limits = dataclasses.replace(inner.limits, analysis_seconds=PATIENCE_S)
    inner.workers._timeout_s = PATIENCE_S


def too_long(service: Service) -> None:
    while (reply := service.analyze(SLOW)).status == 503:  # no thread was free in time
        pass
    assert (reply.status, reply.json["code"]) == (422, "too_long")
    assert "expected 0.4 seconds at most" in reply.json["error"]


def test_422_for_a_stuck_image_while_others_are_served(
    tiny_model: Path, slow: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    with running(loader(tiny_model, slow), limits=limits()) as service:
        too_long(service)
        assert service.metric("mien_places_taken") == 0
        be_patient(service)
        assert [service.analyze(picture()).status for _ in range(3)] == 3 * [200]
        assert slow.stuck == 1
        (record,) = [each for each in caplog.records if each.name.startswith("mien.")]
        assert record.getMessage() == "abandoned an image after 0.4 s; 1 in progress"


def test_there_are_at_most_twice_as_many_threads_as_workers(tiny_model: Path, slow: Slow) -> None:
    before = set(threading.enumerate())

    def workers() -> int:
        new = set(threading.enumerate()) - before
        return sum(each.name == "mien-worker" for each in new)

    with running(loader(tiny_model, slow), limits=limits(workers=2)) as service:
        for _ in range(2):
            with ThreadPoolExecutor(2) as clients:
                list(clients.map(lambda _: too_long(service), range(2)))
        assert workers() == 4
        reply = service.analyze(picture())
        assert (reply.status, reply.json["code"]) == (503, "busy")
        assert "retry-after" in reply.headers
        be_patient(service)
        slow.gate.set()
        until(lambda: workers() == 2)
        assert service.analyze(picture()).status == 200
    until(lambda: workers() == 0)


def test_the_shutdown_does_not_wait_for_stuck_images(tiny_model: Path, slow: Slow) -> None:
    with running(loader(tiny_model, slow), limits=limits()) as service:
        too_long(service)
    assert service.app.state.service.workers.running == 1
    slow.gate.set()
    until(lambda: service.app.state.service.workers.running == 0)


def test_a_disconnect_from_a_stuck_image_frees_the_slot(tiny_model: Path, slow: Slow) -> None:
    import socket

    with running(loader(tiny_model, slow), limits=limits(max_waiting=0)) as service:
        with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as stream:
            head = b"POST /v1/analyze HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            stream.sendall(head + b"Content-Length: %d\r\n\r\n" % len(SLOW) + SLOW)
            until(lambda: slow.stuck == 1)
        until(lambda: service.metric("mien_places_taken") == 0)
        be_patient(service)
        assert service.analyze(picture()).status == 200


def test_errors_are_raised_to_the_caller_and_jobs_are_freed() -> None:
    import gc
    import weakref

    from mien.service.workers import WorkerPool

    class Image:
        pass

    async def never() -> None:
        await asyncio.Event().wait()

    async def use() -> None:
        pool = WorkerPool(1, 10)
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 // 0, never)
        image = Image()
        kept = weakref.ref(image)
        assert await pool.run(functools.partial(type, image), never) is Image
        del image
        await asyncio.to_thread(until, lambda: gc.collect() >= 0 and kept() is None)
        pool.close(PATIENCE_S)
        assert pool.running == 0

    asyncio.run(use())
