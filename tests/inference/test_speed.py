from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mien.core.errors import ModelError, UsageError
from mien.core.process import usable_cores
from mien.inference.speed import MIN_RUNS, machine, time_model


def _clock(steps: Iterator[float]) -> Iterator[float]:
    """Times at which runs that take so many seconds begin and end."""
    now = 0.0
    for step in steps:
        yield now
        now += step
        yield now


def test_the_median_and_quartiles_are_of_a_face(tiny_model: Path) -> None:
    ticks = _clock(iter([0.004, 0.008, 0.012, 0.016, 0.020] * 4))
    timing = time_model(
        tiny_model, threads=1, batch_size=4, seconds=0.12, clock=lambda: next(ticks)
    )
    assert timing.runs == MIN_RUNS
    assert (timing.low, timing.median, timing.high) == pytest.approx((2, 3, 4))
    assert (timing.model, timing.precision) == ("tiny", "float32")
    assert (timing.threads, timing.batch_size) == (1, 4)
    assert timing.megabytes == (tiny_model / "model.onnx").stat().st_size / 1e6


def test_a_slow_clock_stops_at_the_least_number_of_runs(tiny_model: Path) -> None:
    ticks = _clock(iter([9.0] * 99))
    timing = time_model(tiny_model, threads=1, batch_size=1, clock=lambda: next(ticks))
    assert timing.runs == MIN_RUNS


def test_a_fast_one_goes_on_until_the_seconds_are_over(tiny_model: Path) -> None:
    ticks = _clock(iter([0.01] * 99))
    timing = time_model(
        tiny_model, threads=1, batch_size=1, seconds=0.195, clock=lambda: next(ticks)
    )
    assert timing.runs == 20


def test_what_cannot_be_timed_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    for threads, size, seconds in ((0, 1, 1.0), (1, 0, 1.0), (1, 1, -1.0)):
        with pytest.raises(UsageError):
            time_model(tiny_model, threads=threads, batch_size=size, seconds=seconds)
    with pytest.raises(ModelError):
        time_model(tmp_path / "none", threads=1, batch_size=1)


def test_the_machine_is_described() -> None:
    assert machine()["cores"] == usable_cores() >= 1
    assert {"processor", "system", "python", "onnxruntime", "numpy"} < set(machine())
