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


def test_from_each_classs_threshold_on_its_readings_are_right_as_often_as_asked() -> None:
    confidences = np.linspace(0.4, 0.99, 6 * LEAST_READINGS)
    step = confidences[1] - confidences[0]
    data = _joined(
        _readings(0, confidences, confidences > 0.7),
        _readings(1, confidences, confidences > 0.8),
        _readings(2, confidences, np.ones(len(confidences), bool)),
    )
    # All above x are right: those from t on are right (0.99 - x) / (0.99 - t) of the time.
    expected = [0.99 - (0.99 - x) / 0.85 for x in (0.7, 0.8)]
    assert fit_thresholds(*data) == pytest.approx([*expected, 0.0], abs=3 * step)
    stricter = fit_thresholds(*data, accuracy=1.0)
    assert stricter == pytest.approx([0.7, 0.8, 0.0], abs=3 * step)


def test_a_class_that_is_never_right_often_enough_is_never_certain() -> None:
    confidences = np.linspace(0.4, 0.99, LEAST_READINGS)
    data = _readings(1, confidences, np.arange(LEAST_READINGS) % 2 == 0)
    assert fit_thresholds(*data)[1] == 1.0


def test_a_lucky_few_prove_nothing() -> None:
    confidences = np.linspace(0.4, 0.99, LEAST_READINGS)
    data = _readings(1, confidences, confidences > 0.93)
    assert fit_thresholds(*data)[1] == 1.0


def test_a_class_with_few_readings_has_the_threshold_of_all() -> None:
    many = np.linspace(0.4, 0.99, 4 * LEAST_READINGS)
    few = np.linspace(0.4, 0.99, LEAST_READINGS - 1)
    data = _joined(_readings(0, many, many > 0.7), _readings(2, few, np.zeros(len(few), bool)))
    thresholds = fit_thresholds(*data, accuracy=0.7)
    assert thresholds[0] < thresholds[2] == thresholds[1] < 1.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 1.0))
def test_certain_readings_are_right_often_enough_and_no_lower_threshold_has_that(
    seed: int, accuracy: float
) -> None:
    random = np.random.default_rng(seed)
    confidences = random.integers(35, 100, 3 * LEAST_READINGS) / 100  # many are equal
    right = random.random(len(confidences)) < confidences**2
    threshold = fit_thresholds(*_readings(0, confidences, right), accuracy=accuracy)[0]
    certain = confidences >= threshold
    if certain.any():
        assert right[certain].mean() >= accuracy
    lower = [value for value in np.unique(confidences) if value < threshold]
    counted = [confidences >= value for value in lower if (confidences >= value).sum() >= 20]
    assert all(right[above].mean() < accuracy for above in counted)


def test_no_readings_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        fit_thresholds(np.zeros((0, 7)), np.zeros(0, np.int64))
    with pytest.raises(UsageError, match="as many rows"):
        fit_thresholds(np.zeros((2, 7)), np.zeros(3, np.int64))
