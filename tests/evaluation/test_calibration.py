"""Expected calibration error and its bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.errors import UsageError
from mien.evaluation.calibration import BIN_COUNT, calibrate

pairs = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50)


def test_a_hand_counted_example() -> None:
    confidences = np.array([0.9, 0.9, 0.9, 0.9, 0.35])
    correct = np.array([True, True, True, False, True])
    calibration = calibrate(confidences, correct)
    assert calibration.error == pytest.approx(4 / 5 * (0.9 - 0.75) + 1 / 5 * (1 - 0.35))
    assert calibration.confidence == pytest.approx(0.79)
    filled = [entry for entry in calibration.bins if entry.count]
    assert [(entry.count, entry.accuracy) for entry in filled] == [(1, 1.0), (4, 0.75)]
    empty = next(entry for entry in calibration.bins if not entry.count)
    assert (empty.confidence, empty.accuracy) == (None, None)


def test_the_edges_of_the_range_fall_into_the_first_and_last_bin() -> None:
    calibration = calibrate(np.array([0.0, 1.0]), np.array([False, True]))
    assert calibration.bins[0].count == calibration.bins[-1].count == 1
    assert calibration.error == 0.0


@given(pairs)
def test_bins_hold_every_prediction_and_the_error_is_bounded(
    values: list[tuple[float, bool]],
) -> None:
    confidences = np.array([value for value, _ in values])
    correct = np.array([right for _, right in values])
    calibration = calibrate(confidences, correct)
    assert len(calibration.bins) == BIN_COUNT
    assert sum(entry.count for entry in calibration.bins) == len(values)
    # Never less than the gap of the means (triangle inequality), never more than 1.
    gap = abs(confidences.mean() - correct.mean())
    assert gap - 1e-9 <= calibration.error <= 1 + 1e-9
    for entry in calibration.bins:
        if entry.confidence is not None:
            assert entry.low - 1e-9 <= entry.confidence <= entry.high + 1e-9


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(UsageError):
        calibrate(np.array([]), np.array([], bool))
    with pytest.raises(UsageError):
        calibrate(np.array([0.5]), np.array([True, False]))
