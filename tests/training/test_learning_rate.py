from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.training.recipe import TrainingSettings
from mien.training.trainer import learning_rate

COSINE = TrainingSettings(epochs=11, learning_rate=2.0, warmup_epochs=1.0)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 0.002), (0.25, 0.5), (0.5, 1.0), (1.0, 2.0), (6.0, 1.0), (11.0, 0.0)],
)
def test_warm_up_is_a_line_and_the_rest_a_half_cosine(progress: float, expected: float) -> None:
    assert learning_rate(COSINE, progress=progress) == pytest.approx(expected, abs=1e-12)


@given(st.floats(1, 11), st.floats(1, 11))
def test_after_the_warm_up_the_rate_only_falls(first: float, second: float) -> None:
    early, late = sorted((first, second))
    assert learning_rate(COSINE, progress=early) >= learning_rate(COSINE, progress=late) >= 0


def test_plateau_applies_the_scale_after_the_warm_up() -> None:
    settings = TrainingSettings(learning_rate=2.0, schedule="plateau", warmup_epochs=1.0)
    assert learning_rate(settings, progress=0.5, scale=0.25) == 1.0
    assert learning_rate(settings, progress=3.0, scale=0.25) == 0.5


def test_constant_rate_without_a_warm_up() -> None:
    settings = TrainingSettings(learning_rate=2.0, schedule="constant", warmup_epochs=0.0)
    assert [learning_rate(settings, progress=epoch) for epoch in (0, 1, 20)] == [2.0] * 3


def test_a_run_that_is_all_warm_up() -> None:
    settings = TrainingSettings(epochs=1, learning_rate=2.0, warmup_epochs=2.0)
    assert learning_rate(settings, progress=0.5) == 0.5
    assert learning_rate(settings, progress=1.0) == 1.0


def test_the_larger_size_starts_at_its_own_rate_and_ends_at_zero() -> None:
    settings = TrainingSettings(
        epochs=11,
        learning_rate=2.0,
        warmup_epochs=1.0,
        large_size=96,
        large_epochs=4,
        large_learning_rate=0.5,
    )
    expected = {1.0: 2.0, 4.0: 1.25, 7.0: 0.5, 9.0: 0.25, 11.0: 0.0}
    for progress, rate in expected.items():
        assert learning_rate(settings, progress=progress) == pytest.approx(rate, abs=1e-12)


def test_a_rate_for_the_larger_size_has_no_effect_without_that_size() -> None:
    settings = TrainingSettings(epochs=11, learning_rate=2.0, large_learning_rate=0.5)
    assert learning_rate(settings, progress=6.0) == learning_rate(COSINE, progress=6.0)
