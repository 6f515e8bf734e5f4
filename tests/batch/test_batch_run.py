"""The local engine: the same results from any number of processes, although workers die."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.batch.analysis import CHUNK_IMAGES, Clock
from mien.batch.inputs import Input, RecognizerOptions
from mien.batch.run import IN_PROCESS_IMAGES, LocalEngine
from mien.core.errors import MienError
from mien.core.results import Result, Results
from mien.inference.recognizer import Recognizer


@dataclass(frozen=True)
class Deadly(RecognizerOptions):
    """Its recognizers crash their process at an image with a certain name."""

    at_once: bool = False

    def load(self, *, threads: int | None = None) -> Recognizer:
        if self.at_once:
            os._exit(9)
        whole = super().load(threads=threads)
        return Crashing(whole.classifier, whole.detector)


class Crashing(Recognizer):
    def analyze_many(self, images: Any, **options: Any) -> Results:
        return super().analyze_many(map(self.reading, images), **options)

    @staticmethod
    def reading(image: Any) -> Any:
        if "deadly" in str(image):
            os._exit(9)
        return image


@dataclass(frozen=True)
class Slow(RecognizerOptions):
    """Its recognizers hang or crash at images with certain names."""

    def load(self, *, threads: int | None = None) -> Recognizer:
        whole = super().load(threads=threads)
        whole.analyze(np.zeros((48, 48, 3), np.uint8), color="rgb")  # the first time takes long
        return Hanging(whole.classifier, whole.detector)


class Hanging(Recognizer):
    def analyze_many(self, images: Any, **options: Any) -> Results:
        return super().analyze_many(map(self.reading, images), **options)

    @staticmethod
    def reading(image: Any) -> Any:
        if str(image).startswith("hangs"):
            time.sleep(1000)
        if str(image).startswith("deadly"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return image


@pytest.fixture
def options(tiny_model: Path) -> RecognizerOptions:
    return RecognizerOptions(str(tiny_model), detector="none")


@pytest.fixture
def inputs(tmp_path: Path, make_pictures: Callable[..., list[str]]) -> list[Input]:
    paths = make_pictures(tmp_path / "d", IN_PROCESS_IMAGES + 30)
    return [Input(path, content=path) for path in [*paths, str(tmp_path / "missing.png")]]


def test_results_do_not_depend_on_workers(options: RecognizerOptions, inputs: list[Input]) -> None:
    recognizer = options.load()
    one = list(LocalEngine(options, recognizer, workers=1, batch_size=64)(inputs))
    two = list(LocalEngine(options, recognizer, workers=2, batch_size=64)(inputs))
    assert [result.source for result in two] == [given.source for given in inputs]
    assert two == one


def test_inputs_are_taken_lazily(options: RecognizerOptions, inputs: list[Input]) -> None:
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


def test_crashing_image_is_an_error_and_others_are_analyzed(
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
    assert results[40].error == "deadly.png: the worker process died while reading it"
    others = {result.status for result in results[:40] + results[41:-1]}
    assert others == {"ok"}


def test_workers_that_cannot_start_are_an_error(
    tiny_model: Path, options: RecognizerOptions, inputs: list[Input]
) -> None:
    source = Deadly(str(tiny_model), detector="none", at_once=True)
    engine = LocalEngine(source, options.load(), workers=2, batch_size=64)
    with pytest.raises(MienError, match="die on startup"):
        list(engine(inputs))


# Images that take too long

BAD = {3: "hangs.png", 20: "deadly.png", 40: "hangs too.png"}


def with_bad(inputs: list[Input]) -> list[Input]:
    given = list(inputs)
    for place, name in BAD.items():
        given[place] = Input(name, content=name)
    return given


def expected(given: Sequence[Input]) -> list[tuple[str, str]]:
    """Return each input's name and status; the last one is missing."""
    return [(one.source, "error" if one.source in BAD.values() else "ok") for one in given[:-1]] + [
        (given[-1].source, "unreadable")
    ]


def found(results: Iterable[Result]) -> list[tuple[str, str]]:
    return [(str(one.source), one.status) for one in results]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="crashes as on Unix")
@pytest.mark.parametrize("workers", [1, 2, 1_000_000])
def test_hanging_and_crashing_images_are_errors(
    tiny_model: Path, options: RecognizerOptions, inputs: list[Input], workers: int
) -> None:
    given = with_bad(inputs)
    source = Slow(str(tiny_model), detector="none")
    recognizer = source.load() if workers == 1 else options.load()
    engine = LocalEngine(source, recognizer, workers=workers, batch_size=64, timeout=2)
    results = list(engine(given))
    assert found(results) == expected(given)
    problems = [result.error for result in results if result.status == "error"]
    assert problems == [
        "hangs.png took longer than 2 seconds (--timeout) and was skipped",
        "deadly.png: the worker process died while reading it",
        "hangs too.png took longer than 2 seconds (--timeout) and was skipped",
    ]


@pytest.mark.slow
def test_others_may_overtake_a_slow_image(
    tiny_model: Path,
    options: RecognizerOptions,
    inputs: list[Input],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its time is over once all others are done but those of its own chunk.
    given = [Input("hangs.png", content="hangs.png"), *inputs * 10]
    results: list[Result] = []
    others = len(given) - CHUNK_IMAGES
    calls = itertools.count()

    def now(_: Clock) -> float:
        return 0.1 * next(calls) + (1e6 if len(results) >= others else 0)

    monkeypatch.setattr(Clock, "now", now)
    source = Slow(str(tiny_model), detector="none")
    engine = LocalEngine(source, options.load(), workers=2, batch_size=64, timeout=1e5)
    for result in engine(given, in_order=False):
        results.append(result)  # noqa: PERF402: the clock counts them
    assert results[others].source == "hangs.png"
    assert sorted(found(results)) == sorted(
        [("hangs.png", "error"), *[(one.source, status_of(one)) for one in inputs * 10]]
    )


def status_of(one: Input) -> str:
    return "unreadable" if "missing" in one.source else "ok"


def test_isolated_run_survives_the_crashing_image(
    tiny_model: Path, options: RecognizerOptions, inputs: list[Input]
) -> None:
    given = [*inputs[:2], Input("deadly.png", content="deadly.png"), inputs[3]]
    source = Deadly(str(tiny_model), detector="none")
    engine = LocalEngine(source, options.load(), workers=1, batch_size=64)
    statuses = [result.status for result in engine(given, isolate=True)]
    assert statuses == ["ok", "ok", "error", "ok"]


@pytest.mark.parametrize("count", [0, 1])
def test_more_workers_than_images_are_never_started(
    options: RecognizerOptions, inputs: list[Input], count: int
) -> None:
    engine = LocalEngine(options, options.load(), workers=1_000_000, batch_size=10**9)
    assert [one.source for one in engine(inputs[:count])] == [one.source for one in inputs[:count]]
    careful = list(engine(inputs[:count], isolate=True))
    assert [one.source for one in careful] == [one.source for one in inputs[:count]]
