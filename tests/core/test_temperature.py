from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mien.core.calibration import Temperature, log_mean, softmax

Logits = npt.NDArray[np.float64]

LOGITS = arrays(np.float64, (5, 7), elements=st.floats(-40, 40, width=32))
TEMPERATURES = st.builds(Temperature, st.floats(0.1, 10), st.floats(-0.25, 1))


@settings(max_examples=60)
@given(LOGITS, TEMPERATURES)
def test_probabilities_sum_to_one_and_keep_the_order_of_the_classes(
    logits: Logits, temperature: Temperature
) -> None:
    probabilities = temperature.probabilities(logits)
    assert np.isfinite(probabilities).all()
    assert probabilities.sum(axis=1) == pytest.approx(1)
    chosen = np.take_along_axis(probabilities, logits.argmax(axis=1)[:, None], axis=1)
    assert (chosen[:, 0] == probabilities.max(axis=1)).all()


@settings(max_examples=30)
@given(LOGITS, TEMPERATURES, st.floats(-100, 100))
def test_softmax_is_shift_invariant(logits: Logits, temperature: Temperature, added: float) -> None:
    expected = temperature.probabilities(logits)
    assert temperature.probabilities(logits + added) == pytest.approx(expected, abs=1e-6)


def test_exponent_0_is_plain_temperature_scaling() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (9, 7))
    assert (Temperature(2.0).probabilities(logits) == softmax(logits / 2.0)).all()


def test_positive_exponent_sharpens_confident_faces() -> None:
    sure, doubt = np.array([[6.0, 0, 0, 0]]), np.array([[0.2, 0, 0, 0]])
    warm = Temperature(1.0, 0.5)
    assert warm.probabilities(sure).max() > softmax(sure).max()
    assert warm.probabilities(doubt).max() == pytest.approx(softmax(doubt).max(), abs=0.01)


def test_the_temperature_follows_the_entropy_of_the_face() -> None:
    # Entropy is 1 where all classes are alike, and log 2 / log 4 where two of four are.
    logits = np.array([[3.0, 3, -1000, -1000], [3.001, 3, -1000, -1000]])
    each = 2.0 * (math.log(2) / math.log(4)) ** 0.5
    expected = softmax(logits / each)
    assert Temperature(2.0, 0.5).probabilities(logits) == pytest.approx(expected, rel=1e-4)


def test_log_mean_inverts() -> None:
    random = np.random.default_rng(1)
    views = [softmax(random.normal(0, 2, (4, 7))) for _ in range(3)]
    assert softmax(log_mean(views)) == pytest.approx(np.mean(views, axis=0))
    nothing = np.array([[1.0, 0.0]])
    assert np.isfinite(log_mean([nothing])).all()


def test_empty_batch() -> None:
    assert Temperature(1.1, 0.3).probabilities(np.zeros((0, 7))).shape == (0, 7)


@pytest.mark.parametrize(
    ("base", "exponent"),
    [(0, 0), (-1, 0), (math.nan, 0), (1, math.inf), (1e-9, 0), (1e9, 0), (1, 11), (1, -11)],
)
def test_invalid_temperature_is_rejected(base: float, exponent: float) -> None:
    with pytest.raises(ValueError, match=r"expected a temperature from|expected an exponent"):
        Temperature(base, exponent)
