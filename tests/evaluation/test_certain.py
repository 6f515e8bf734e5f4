"""Which readings are certain, and how often these are right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.evaluation.certain import certain_readings
from mien.evaluation.metrics import evaluate
from report_maker import make_samples

pytest.importorskip("sklearn")

ROWS = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9]])
CORRECT = np.array([True, False, True, False])


def test_a_reading_is_certain_from_the_threshold_of_its_own_class_on() -> None:
    certain = certain_readings(ROWS, CORRECT, np.array([0.8, 0.5]))
    assert (certain.count, certain.correct, certain.share) == (3, 2, 0.75)
    assert certain.accuracy == pytest.approx(2 / 3)
    assert certain.accuracy_interval is not None
    assert certain.accuracy_interval.low < 2 / 3 < certain.accuracy_interval.high


def test_where_nothing_is_certain_there_is_no_accuracy() -> None:
    certain = certain_readings(ROWS, CORRECT, np.ones(2))
    assert (certain.count, certain.correct, certain.share) == (0, 0, 0)
    assert certain.accuracy is None
    assert certain.accuracy_interval is None


@given(st.lists(st.floats(0, 1), min_size=7, max_size=7))
def test_lower_thresholds_make_no_reading_less_certain(values: list[float]) -> None:
    samples = make_samples()
    rows = samples.probabilities.astype(np.float64)
    correct = rows.argmax(axis=1) == samples.labels
    high = np.array(values)
    few = certain_readings(rows, correct, high)
    more = certain_readings(rows, correct, high / 2)
    assert few.count <= more.count
    assert few.correct <= more.correct <= correct.sum()


def test_an_evaluation_counts_them_on_all_and_on_clean_images() -> None:
    samples = make_samples()
    clean = np.arange(len(samples.labels)) % 2 == 0
    found = evaluate(samples.probabilities, samples.labels, clean=clean, thresholds=np.full(7, 0.5))
    assert found.all.certain is not None
    assert found.clean is not None
    assert found.clean.certain is not None
    assert 0 < found.clean.certain.count < found.all.certain.count < len(samples.labels)
    assert evaluate(samples.probabilities, samples.labels).all.certain is None
