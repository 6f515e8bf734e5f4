from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.calibration import Temperature
from mien.core.errors import UsageError
from mien.evaluation.calibration import LEAST_IMAGES, calibrate, fit_softening, fit_temperature


def _drawn(temperature: Temperature, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from the probabilities that a temperature gives them."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, random.uniform(0.5, 4, (count, 1)), (count, 7))
    cumulated = temperature.probabilities(logits).cumsum(axis=1)
    return logits, (random.random((count, 1)) > cumulated).sum(axis=1).clip(0, 6)


@pytest.mark.parametrize("exponent", [0.0, 0.3])
@pytest.mark.parametrize("base", [0.7, 1.5])
def test_it_finds_the_temperatures_that_labels_were_drawn_at(base: float, exponent: float) -> None:
    found = fit_softening(*_drawn(Temperature(base, exponent), 6_000))
    assert found.base == pytest.approx(base, rel=0.1)
    assert found.exponent == pytest.approx(exponent, abs=0.12)


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 1000))
def test_other_images_are_calibrated_by_it_where_one_temperature_is_not_enough(seed: int) -> None:
    drawn_at = Temperature(1.2, 0.6)
    logits, labels = _drawn(drawn_at, 6_000, seed)
    half = len(labels) // 2

    def error(temperature: Temperature) -> float:
        found = temperature.probabilities(logits[half:])
        return calibrate(found.max(axis=1), found.argmax(axis=1) == labels[half:]).error

    plain = Temperature(fit_temperature(logits[:half], labels[:half]))
    assert error(fit_softening(logits[:half], labels[:half])) < min(0.03, error(plain))


def test_few_images_have_one_temperature() -> None:
    logits, labels = _drawn(Temperature(1.2, 0.4), LEAST_IMAGES - 1)
    assert fit_softening(logits, labels) == Temperature(fit_temperature(logits, labels))


def test_the_same_images_give_the_same_temperatures() -> None:
    data = _drawn(Temperature(1.2, 0.4), 1000)
    assert fit_softening(*data) == fit_softening(*data)


def test_no_images_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        fit_softening(np.zeros((0, 7)), np.zeros(0, np.int64))
