from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.errors import UsageError
from mien.evaluation.calibration import LEAST_READINGS, fit_thresholds

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def _readings(
    label: int, confidences: Floats, right: npt.NDArray[np.bool_]
) -> tuple[Floats, Labels]:
    """Probabilities of three classes that read ``label``, and labels that bear some of them out."""
    probabilities = np.repeat((1 - confidences)[:, None] / 2, 3, axis=1)
    probabilities[:, label] = confidences
    return probabilities, np.where(right, label, (label + 1) % 3)


def _joined(*parts: tuple[Floats, Labels]) -> tuple[Floats, Labels]:
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def test_each_class_has_the_confidence_that_tells_its_right_readings_from_the_wrong_ones() -> None:
    confidences = np.linspace(0.4, 0.99, 2 * LEAST_READINGS)
    data = _joined(
        _readings(0, confidences, confidences > 0.5),
        _readings(1, confidences, confidences > 0.8),
        _readings(2, confidences, np.ones(len(confidences), bool)),
    )
    step = confidences[1] - confidences[0]
    assert fit_thresholds(*data) == pytest.approx([0.5, 0.8, 0.0], abs=step)


def test_a_class_that_is_always_wrong_is_never_certain() -> None:
    confidences = np.linspace(0.4, 0.99, LEAST_READINGS)
    data = _readings(1, confidences, np.zeros(len(confidences), bool))
    assert fit_thresholds(*data)[1] == 1.0


def test_a_class_with_few_readings_has_the_threshold_of_all() -> None:
    many = np.linspace(0.4, 0.99, 4 * LEAST_READINGS)
    few = np.linspace(0.4, 0.99, LEAST_READINGS - 1)
    data = _joined(_readings(0, many, many > 0.7), _readings(2, few, np.zeros(len(few), bool)))
    thresholds = fit_thresholds(*data)
    assert thresholds[0] == pytest.approx(0.7, abs=0.01)
    assert thresholds[1] == thresholds[2] < 1.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_below_a_threshold_no_more_are_right_than_wrong_and_above_it_no_fewer(seed: int) -> None:
    random = np.random.default_rng(seed)
    confidences = random.integers(35, 100, 3 * LEAST_READINGS) / 100  # many are equal
    right = random.random(len(confidences)) < confidences**2
    threshold = fit_thresholds(*_readings(0, confidences, right))[0]
    below = confidences < threshold
    assert right[below].sum() <= (~right[below]).sum()
    assert right[~below].sum() >= (~right[~below]).sum()


def test_no_readings_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        fit_thresholds(np.zeros((0, 7)), np.zeros(0, np.int64))
    with pytest.raises(UsageError, match="as many rows"):
        fit_thresholds(np.zeros((2, 7)), np.zeros(3, np.int64))
