"""The local engine: the same results from one process and from several, though workers die."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mien.core.errors import MienError
from mien.core.results import Result
from mien.inference.recognizer import Recognizer
from mien.interfaces.batch.listing import Input
from mien.interfaces.batch.loading import RecognizerOptions
from mien.interfaces.batch.local import FEW_IMAGES, LocalEngine


@dataclass(frozen=True)
class Deadly(RecognizerOptions):
    """Its recognizers end their process at an image with a certain name, as a crash would."""

    at_once: bool = False

    def load(self, *, threads: int | None = None) -> Recognizer:
        if self.at_once:
            os._exit(9)
        whole = super().load(threads=threads)
        return Crashing(whole.classifier, whole.detector)


class Crashing(Recognizer):
    def analyze_many(self, images: Any, **options: Any) -> list[Result]:
        if any("deadly" in str(image) for image in images):
            os._exit(9)
        return super().analyze_many(images, **options)


@pytest.fixture
def options(tiny_model: Path) -> RecognizerOptions:
    return RecognizerOptions(str(tiny_model), detector="none")


@pytest.fixture
def inputs(tmp_path: Path, make_pictures: Callable[..., list[str]]) -> list[Input]:
    paths = make_pictures(tmp_path / "d", FEW_IMAGES + 30)
    return [Input(path, content=path) for path in [*paths, str(tmp_path / "missing.png")]]


def test_two_workers_give_what_one_gives_in_order(
    options: RecognizerOptions, inputs: list[Input]
) -> None:
    recognizer = options.load()
    one = list(LocalEngine(options, recognizer, workers=1, batch_size=64)(inputs))
    two = list(LocalEngine(options, recognizer, workers=2, batch_size=64)(inputs))
    assert [result.source for result in two] == [given.source for given in inputs]
    assert two == one


def test_inputs_are_taken_as_they_are_needed(
    options: RecognizerOptions, inputs: list[Input]
) -> None:
    taken = 0

    def counted() -> Iterator[Input]:
        nonlocal taken
        for number in range(1_000_000):
            taken += 1
            yield inputs[number % len(inputs)]

    results = LocalEngine(options, options.load(), workers=1, batch_size=64)(counted())
    for _ in range(100):
        next(results)
    assert taken < 300


def test_an_image_that_kills_a_worker_is_an_error_and_the_others_are_read(
    tiny_model: Path, options: RecognizerOptions, inputs: list[Input]
) -> None:
    deadly = Input("deadly.png", content="deadly.png")
    given = [*inputs[:40], deadly, *inputs[40:]]
    engine = LocalEngine(
        Deadly(str(tiny_model), detector="none"), options.load(), workers=2, batch_size=64
    )
    results = list(engine(given))
    assert [result.source for result in results] == [one.source for one in given]
    assert results[40].status == "error"
    assert results[40].error == "deadly.png: the process that read it died of it"
    others = {result.status for result in results[:40] + results[41:-1]}
    assert others == {"ok"}


def test_workers_that_cannot_start_are_said(
    tiny_model: Path, options: RecognizerOptions, inputs: list[Input]
) -> None:
    source = Deadly(str(tiny_model), detector="none", at_once=True)
    engine = LocalEngine(source, options.load(), workers=2, batch_size=64)
    with pytest.raises(MienError, match="die as they start"):
        list(engine(inputs))
