"""One image at a time is watched: a hang is told from work, and an interrupt is taken at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mien.batch.listing import Input
from mien.batch.loading import RecognizerOptions
from mien.batch.watched import Clock, Hung, analyze_watched
from mien.core.results import Result
from mien.inference.recognizer import Recognizer


class Sleepy(Recognizer):
    def analyze_many(self, images: Any, **options: Any) -> list[Result]:
        for image in images:
            time.sleep(1000 if str(image).startswith("hangs") else 0.2)
        return super().analyze_many(images, **options)


@pytest.fixture
def sleepy(tiny_model: Path) -> Recognizer:
    whole = RecognizerOptions(str(tiny_model), detector="none").load()
    return Sleepy(whole.classifier, whole.detector)


@pytest.fixture
def inputs(tmp_path: Path, make_pictures: Callable[..., list[str]]) -> list[Input]:
    return [Input(path, content=path) for path in make_pictures(tmp_path / "d", 6)]


def test_many_images_may_take_longer_than_one(sleepy: Recognizer, inputs: list[Input]) -> None:
    results = analyze_watched(sleepy, inputs, batch_size=64, timeout=1)
    assert [one.status for one in results] == ["ok"] * 6


def test_the_image_that_hangs_is_named_whatever_cannot_be_read(
    sleepy: Recognizer, inputs: list[Input]
) -> None:
    gone = Input("pipe.png", problem="pipe.png is a pipe: expected an image file")
    chunk = [inputs[0], gone, Input("hangs.png", content="hangs.png"), inputs[1]]
    with pytest.raises(Hung) as caught:
        analyze_watched(sleepy, chunk, batch_size=64, timeout=0.5)
    assert caught.value.place == 2


def test_an_interrupt_stops_the_thread_at_its_next_image(
    sleepy: Recognizer, inputs: list[Input], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Clock) -> float:
        raise KeyboardInterrupt

    before = threading.active_count()
    monkeypatch.setattr(Clock, "now", interrupt)
    with pytest.raises(KeyboardInterrupt):
        analyze_watched(sleepy, inputs * 100, batch_size=64, timeout=60)
    time.sleep(0.1)
    assert threading.active_count() == before


def test_what_goes_wrong_comes_out_as_it_is(sleepy: Recognizer, inputs: list[Input]) -> None:
    sleepy.analyze_many = fail  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        analyze_watched(sleepy, inputs, batch_size=64, timeout=60)


def fail(*_: object, **__: object) -> list[Result]:
    raise KeyboardInterrupt


def test_a_machine_that_slept_makes_no_image_late(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([100.0, 100.5, 5000.0, 5000.25])
    ticks = SimpleNamespace(monotonic=lambda: next(moments))
    monkeypatch.setattr("mien.batch.watched.time", ticks)
    clock = Clock()
    assert [clock.now() for _ in range(3)] == [0.5, 1.5, 1.75]
