from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.errors import UsageError
from mien.evaluation.calibration import TEMPERATURES, fit_temperature


def _drawn(temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (20_000, 7))
    noise = random.gumbel(size=logits.shape)
    return logits, (logits / temperature + noise).argmax(axis=1)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    scaled = logits / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    chosen = scaled[np.arange(len(labels)), labels]
    return float((np.log(np.exp(scaled).sum(axis=1)) - chosen).mean())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_it_finds_the_temperature_that_labels_were_drawn_at(temperature: float) -> None:
    assert fit_temperature(*_drawn(temperature)) == pytest.approx(temperature, rel=0.03)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 3.0))
def test_no_temperature_near_it_is_better(seed: int, drawn_at: float) -> None:
    logits, labels = _drawn(drawn_at, seed)
    logits, labels = logits[:200], labels[:200]
    fitted = fit_temperature(logits, labels)
    best = _cross_entropy(logits, labels, fitted)
    for other in (fitted * 0.99, fitted * 1.01):
        assert best <= _cross_entropy(logits, labels, other) + 1e-12


def test_scaled_logits_have_a_scaled_temperature() -> None:
    logits, labels = _drawn(1.0)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * fit_temperature(logits, labels))


def test_where_no_temperature_is_best_an_end_of_the_range_is_given() -> None:
    logits = np.eye(3)
    assert fit_temperature(logits, np.arange(3)) == pytest.approx(TEMPERATURES[0])
    assert fit_temperature(logits, np.array([1, 2, 0])) == pytest.approx(TEMPERATURES[1])


@pytest.mark.parametrize(
    ("logits", "labels"),
    [(np.zeros((0, 7)), np.zeros(0)), (np.zeros((3, 7)), np.zeros(2)), (np.zeros(3), np.zeros(3))],
)
def test_what_does_not_fit_together_is_refused(logits: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(UsageError, match="as many rows"):
        fit_temperature(logits, labels.astype(np.int64))
