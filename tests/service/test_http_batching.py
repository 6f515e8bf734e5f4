"""Micro-batches: queued images share a run of the network, and get the same results."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.core.errors import ModelError
from mien.core.results import Result
from mien.inference.preprocess import FaceBatch
from mien.inference.recognizer import Recognizer
from service_maker import Service, loader, picture, running
from waiting import PATIENCE_S, until

pytest.importorskip("fastapi")

from mien.service import Limits
from mien.service.workers import MAX_BATCH_FACES, Batcher


class Held:
    """A recognizer whose network blocks until its gate opens, and fails for black faces."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.gate = threading.Event()
        self.batches: list[int] = []
        self._recognizer = recognizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recognizer, name)

    def read(self, batches: Sequence[FaceBatch]) -> list[Result]:
        self.batches.append(len(batches))
        assert self.gate.wait(PATIENCE_S)
        if any(not face.any() for batch in batches for face in batch.faces):
            raise ModelError("the network failed")
        return self._recognizer.read(batches)


@pytest.fixture
def held(tiny_model: Path) -> Held:
    return Held(loader(tiny_model)())


def test_a_lone_image_is_classified_at_once_and_queued_ones_together(held: Held) -> None:
    batches: list[int] = []
    batcher = Batcher(held, batches.append)  # type: ignore[arg-type]
    found = [held.find(picture(seed)) for seed in range(6)]
    futures = [batcher.submit(found[0])]
    until(lambda: held.batches == [1])
    futures += [batcher.submit(each) for each in found[1:]]
    held.gate.set()
    results = [future.result(PATIENCE_S).result for future in futures]
    assert held.batches == batches == [1, 5]
    alone = [held.analyze_result(picture(seed)) for seed in range(6)]
    assert len({each.faces[0].confidence for each in alone}) == 6
    for one, other in zip(results, alone, strict=True):
        np.testing.assert_allclose(
            list(one.faces[0].scores.values()), list(other.faces[0].scores.values()), atol=1e-6
        )
    batcher.close()


def test_batches_are_bounded(held: Held) -> None:
    batcher = Batcher(held, lambda _: None)  # type: ignore[arg-type]
    face = held.find(picture())
    futures = [batcher.submit(face)]
    until(lambda: held.batches == [1])
    futures += [batcher.submit(face) for _ in range(MAX_BATCH_FACES + 3)]
    held.gate.set()
    assert {future.result(PATIENCE_S).result.status for future in futures} == {"ok"}
    assert held.batches == [1, MAX_BATCH_FACES, 3]
    batcher.close()


def test_an_error_in_a_batch_concerns_one_image_only(held: Held) -> None:
    batcher = Batcher(held, lambda _: None)  # type: ignore[arg-type]
    good = held.find(picture())
    bad = held.find(np.zeros((48, 48, 3), np.uint8), color="rgb")
    first = batcher.submit(good)
    until(lambda: held.batches == [1])
    others = [batcher.submit(each) for each in (good, bad, good)]
    held.gate.set()
    assert (
        first.result(PATIENCE_S).result
        == others[0].result(PATIENCE_S).result
        == others[2].result(PATIENCE_S).result
    )
    with pytest.raises(ModelError, match="the network failed"):
        others[1].result(PATIENCE_S)
    batcher.close()


def test_images_without_faces_do_not_wait_for_the_network(held: Held) -> None:
    held.gate.set()
    nobody = FaceBatch(None, 10, 10, status="no_face")
    batcher = Batcher(held, lambda _: pytest.fail("it went through the network"))  # type: ignore[arg-type]
    assert batcher.submit(nobody).result(0).result.status == "no_face"
    batcher.close()


def test_queued_images_are_classified_before_the_batcher_closes(held: Held) -> None:
    batcher = Batcher(held, lambda _: None)  # type: ignore[arg-type]
    futures = [batcher.submit(held.find(picture(seed))) for seed in range(3)]
    batcher.close()
    held.gate.set()
    assert [future.result(PATIENCE_S).result.status for future in futures] == 3 * ["ok"]


def test_metrics_have_the_sizes_of_batches(tiny_model: Path) -> None:
    with (
        running(loader(tiny_model), limits=Limits(workers=2)) as service,
        ThreadPoolExecutor(8) as clients,
    ):
        replies = list(clients.map(lambda seed: service.analyze(picture(seed)), range(16)))
        assert [each.status for each in replies] == 16 * [200]
        assert service.metric("mien_batch_images_sum") == 16


def test_503_if_the_network_is_stuck(tiny_model: Path) -> None:
    kept: list[Held] = []

    def load() -> Any:
        kept.append(Held(loader(tiny_model)()))
        return kept[0]

    allowed = Limits(workers=1, analysis_seconds=0.3)
    with running(load, limits=allowed) as service:
        check_busy(service)
        kept[0].gate.set()
        until(lambda: service.analyze(picture()).status == 200)


def check_busy(service: Service) -> None:
    reply = service.analyze(picture())
    assert (reply.status, reply.json["code"]) == (503, "busy")
    assert int(reply.headers["retry-after"]) >= 1
