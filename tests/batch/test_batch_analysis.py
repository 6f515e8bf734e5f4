"""Analysis of a chunk: one result per image, despite failures and timeouts."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batch_maker import alike
from mien.api import Recognizer, load
from mien.batch.analysis import Clock, ImageTimeout, analyze_chunk, analyze_with_timeout, chunked
from mien.batch.inputs import Input
from mien.core.errors import ModelError
from mien.core.results import Results
from waiting import PATIENCE_S, until


class Fragile(Recognizer):
    """Recognizer that fails on images with certain names."""

    def analyze_many(self, images: Any, **options: Any) -> Results:
        return super().analyze_many(map(self.reading, images), **options)

    @staticmethod
    def reading(image: Any) -> Any:
        if "poison" in str(image):
            raise ZeroDivisionError("no good")
        if "nan" in str(image):
            raise ModelError("the model gave what is not a number")
        return image


@pytest.fixture
def fragile(tiny_model: Path) -> Fragile:
    whole = load(tiny_model, detector="none")
    return Fragile(whole.classifier, whole.detector)


def inputs(paths: Sequence[str]) -> list[Input]:
    return [Input(path, content=path) for path in paths]


def test_chunked() -> None:
    assert list(chunked(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(chunked([])) == []


def test_results_match_the_recognizer(
    fragile: Fragile, tmp_path: Path, make_pictures: Callable[..., list[str]]
) -> None:
    paths = make_pictures(tmp_path, 5)
    found = analyze_chunk(fragile, inputs(paths), batch_size=2)
    expected = fragile.analyze_many(paths)
    assert alike([one.to_dict() for one in found], [one.to_dict() for one in expected])


def test_failing_image_is_an_error_and_others_are_analyzed(
    fragile: Fragile, tmp_path: Path, make_pictures: Callable[..., list[str]]
) -> None:
    first, second = make_pictures(tmp_path, 2)
    found = analyze_chunk(fragile, inputs([first, "poison.png", second]), batch_size=64)
    assert [one.status for one in found] == ["ok", "error", "ok"]
    assert found[1].error == "poison.png: ZeroDivisionError: no good"
    assert found[1].source == "poison.png"


def test_failing_network_ends_the_run(fragile: Fragile) -> None:
    with pytest.raises(ModelError, match="not a number"):
        analyze_chunk(fragile, inputs(["nan.png"]), batch_size=64)


def test_an_input_with_a_problem_is_unreadable(fragile: Fragile) -> None:
    (found,) = analyze_chunk(fragile, [Input("p.png", problem="p.png is a pipe")], batch_size=64)
    assert (found.status, found.error) == ("unreadable", "p.png is a pipe")


def test_a_huge_file_is_not_read(fragile: Fragile, tmp_path: Path) -> None:
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate((1 << 30) + 1)  # no disk is used: there is nothing in it
    (found,) = analyze_chunk(fragile, inputs([str(huge)]), batch_size=64)
    assert found.status == "unreadable"
    assert found.error == f"{huge} is too large: expected at most 1 GiB, got 1,073,741,825 bytes"


def test_result_is_named_by_its_source(fragile: Fragile, tmp_path: Path) -> None:
    one = Input("a.png", content=str(tmp_path / "a.png"))
    (found,) = analyze_chunk(fragile, [one], batch_size=64)
    assert (found.source, found.error) == ("a.png", "a.png: no such file")


# With a timeout


class Sleepy(Recognizer):
    begun = 0
    is_hanging = False

    def analyze_many(self, images: Any, **options: Any) -> Results:
        return super().analyze_many(map(self.reading, images), **options)

    def reading(self, image: Any) -> Any:
        self.begun += 1
        self.is_hanging = str(image).startswith("hangs")
        time.sleep(1000 if self.is_hanging else 0.2)
        return image


@pytest.fixture
def sleepy(tiny_model: Path) -> Sleepy:
    whole = load(tiny_model, detector="none")
    return Sleepy(whole.classifier, whole.detector)


@pytest.fixture
def six(tmp_path: Path, make_pictures: Callable[..., list[str]]) -> list[Input]:
    return inputs(make_pictures(tmp_path / "d", 6))


def test_timeout_is_per_image(
    sleepy: Sleepy, six: list[Input], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clock, "now", lambda _: 0.9 * sleepy.begun)  # what each one takes
    results = analyze_with_timeout(sleepy, six, batch_size=64, timeout=1)
    assert [one.status for one in results] == ["ok"] * 6


def test_timeout_reports_the_hanging_image(
    sleepy: Sleepy, six: list[Input], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(Clock, "now", lambda _: float(next(ticks)) if sleepy.is_hanging else 0.0)
    gone = Input("pipe.png", problem="pipe.png is a pipe: expected an image file")
    chunk = [six[0], gone, Input("hangs.png", content="hangs.png"), six[1]]
    with pytest.raises(ImageTimeout) as caught:
        analyze_with_timeout(sleepy, chunk, batch_size=64, timeout=0.5)
    assert caught.value.index == 2


def test_an_interrupt_stops_the_thread_at_its_next_image(
    sleepy: Sleepy, six: list[Input], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Clock) -> float:
        raise KeyboardInterrupt

    before = threading.active_count()
    monkeypatch.setattr(Clock, "now", interrupt)
    monkeypatch.setattr("mien.batch.analysis._STOP_SECONDS", PATIENCE_S)
    with pytest.raises(KeyboardInterrupt):
        analyze_with_timeout(sleepy, six * 100, batch_size=64, timeout=60)
    until(lambda: threading.active_count() == before)


def test_other_errors_propagate(sleepy: Sleepy, six: list[Input]) -> None:
    sleepy.analyze_many = fail  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        analyze_with_timeout(sleepy, six, batch_size=64, timeout=60)


def fail(*_: object, **__: object) -> Results:
    raise KeyboardInterrupt


def test_clock_stops_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([100.0, 100.5, 5000.0, 5000.25])
    ticks = SimpleNamespace(monotonic=lambda: next(moments))
    monkeypatch.setattr("mien.batch.analysis.time", ticks)
    clock = Clock()
    assert [clock.now() for _ in range(3)] == [0.5, 1.5, 1.75]
