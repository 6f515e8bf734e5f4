"""Metrics of probabilities and labels."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.emotions import EMOTIONS
from mien.core.errors import UsageError
from mien.evaluation.metrics import (
    CALIBRATION_BINS,
    Metrics,
    evaluate,
    measure,
    measure_calibration,
    selective_accuracy,
    wilson_interval,
)
from report_maker import make_samples

pytest.importorskip("sklearn")

Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def random_answers(seed: int, count: int, classes: int = 7) -> Arrays:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    logits = generator.normal(size=(count, 7)) + 1.5 * np.eye(7)[labels]
    rows = np.exp(logits)
    return (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32), labels


def answers(true: list[int], predicted: list[int], top: float = 0.7) -> Arrays:
    rows = np.full((len(true), 7), (1 - top) / 6)
    rows[np.arange(len(true)), predicted] = top
    return rows.astype(np.float32), np.array(true)


some_answers = st.builds(
    random_answers, st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 7)
)


def test_numbers_of_a_hand_counted_example() -> None:
    # angry: 2 of 3 correct, one predicted sad; happy: 1 of 1; sad: 1 of 2, one predicted happy.
    metrics = measure(*answers([0, 0, 0, 3, 5, 5], [0, 0, 5, 3, 5, 3]))
    by_name = {entry.emotion: entry for entry in metrics.classes}
    assert metrics.count == 6
    assert metrics.correct == 4
    assert metrics.accuracy == pytest.approx(4 / 6)
    assert metrics.balanced_accuracy == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert by_name["angry"].precision == 1.0
    assert by_name["happy"].precision == pytest.approx(1 / 2)
    assert by_name["angry"].f1 == pytest.approx(0.8)
    assert metrics.macro_f1 == pytest.approx((0.8 + 2 / 3 + 0.5) / 3)
    assert metrics.weighted.f1 == pytest.approx((3 * 0.8 + 2 / 3 + 2 * 0.5) / 6)
    assert metrics.confusion[0] == (2, 0, 0, 0, 0, 1, 0)
    assert metrics.confusion_rates[5] == (0, 0, 0, 0.5, 0, 0.5, 0)
    assert metrics.loss == pytest.approx(-(4 * np.log(0.7) + 2 * np.log(0.05)) / 6, rel=1e-5)
    assert metrics.calibration.confidence == pytest.approx(0.7)
    assert metrics.calibration.error == pytest.approx(0.7 - 4 / 6, abs=1e-6)


def test_numbers_agree_with_scikit_learn_where_every_class_is_present() -> None:
    from sklearn.metrics import balanced_accuracy_score, classification_report, log_loss

    probabilities, labels = random_answers(3, 500)
    metrics = measure(probabilities, labels)
    rows = probabilities.astype(np.float64)
    rows /= rows.sum(axis=1, keepdims=True)
    report = classification_report(
        labels, rows.argmax(axis=1), target_names=EMOTIONS, output_dict=True
    )
    assert metrics.loss == pytest.approx(log_loss(labels, rows))
    assert metrics.balanced_accuracy == pytest.approx(
        balanced_accuracy_score(labels, rows.argmax(axis=1))
    )
    for entry in metrics.classes:
        expected = report[entry.emotion]
        assert entry.precision == pytest.approx(expected["precision"])
        assert entry.recall == pytest.approx(expected["recall"])
        assert entry.f1 == pytest.approx(expected["f1-score"])
        assert entry.support == expected["support"]
    for name, average in (("macro avg", metrics.macro), ("weighted avg", metrics.weighted)):
        assert average.precision == pytest.approx(report[name]["precision"])
        assert average.recall == pytest.approx(report[name]["recall"])
        assert average.f1 == pytest.approx(report[name]["f1-score"])


def test_a_class_without_images_is_named_and_left_out_of_means() -> None:
    metrics = measure(*answers([0, 0, 3], [0, 6, 3]))
    assert metrics.absent == ("disgust", "fear", "neutral", "sad", "surprise")
    assert metrics.balanced_accuracy == pytest.approx(0.75)
    fear, surprise = metrics.classes[2], metrics.classes[6]
    assert (fear.accuracy, fear.precision, fear.f1, fear.accuracy_interval) == (None,) * 4
    assert (surprise.support, surprise.predicted, surprise.precision) == (0, 1, 0.0)
    assert metrics.confusion_rates[2] is None
    text = json.dumps(metrics.to_dict(), allow_nan=False)
    assert json.loads(text)["classes"][2]["recall"] is None


def test_a_class_with_images_that_is_never_predicted_has_f1_zero_and_no_precision() -> None:
    metrics = measure(*answers([1, 0], [0, 0]))
    disgust = metrics.classes[1]
    assert (disgust.precision, disgust.recall, disgust.f1) == (None, 0.0, 0.0)
    assert metrics.macro_f1 == pytest.approx((2 / 3 + 0) / 2)


def test_clean_images_have_their_own_metrics() -> None:
    probabilities, labels = answers([0, 3, 5, 6], [0, 3, 3, 0])
    clean = np.array([False, True, True, True])
    evaluation = evaluate(probabilities, labels, clean=clean)
    assert evaluation.all.accuracy == 0.5
    assert evaluation.clean is not None
    assert (evaluation.clean.count, evaluation.clean.correct) == (3, 1)
    assert evaluate(probabilities, labels).to_dict()["clean"] is None
    assert evaluate(probabilities, labels, clean=np.zeros(4, bool)).clean is None


def test_a_confident_error_has_a_large_but_finite_loss() -> None:
    metrics = measure(*answers([0], [3], top=1.0))
    assert metrics.loss == pytest.approx(-np.log(1e-7))


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        (np.full((2, 6), 1 / 6), np.array([0, 1])),
        (np.full((2, 7), 1 / 7), np.array([0])),
        (np.full((2, 7), 1 / 7), np.array([0, 7])),
        (np.full((2, 7), 1 / 7), np.array([0, -1])),
        (np.full((2, 7), 1 / 7), np.array([0.0, 1.0])),
        (np.full((2, 7), 1.0), np.array([0, 1])),
        (np.full((2, 7), np.nan), np.array([0, 1])),
        (np.array([[2.0, -1, 0, 0, 0, 0, 0]]), np.array([0])),
        (np.zeros((0, 7)), np.zeros(0, np.int64)),
    ],
)
def test_invalid_probabilities_and_labels_are_refused(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> None:
    with pytest.raises(UsageError):
        measure(probabilities, labels)


@given(some_answers)
@settings(max_examples=40)
def test_counts_rates_and_shares_agree(arrays: Arrays) -> None:
    metrics = measure(*arrays)
    counts = np.array(metrics.confusion)
    assert counts.sum() == metrics.count
    assert np.trace(counts) == metrics.correct
    assert metrics.accuracy == pytest.approx(metrics.correct / metrics.count)
    for row, rates, entry in zip(counts, metrics.confusion_rates, metrics.classes, strict=True):
        assert row.sum() == entry.support
        assert (rates is None) == (entry.support == 0) == (entry.emotion in metrics.absent)
        if rates is not None:
            assert sum(rates) == pytest.approx(1)
            np.testing.assert_allclose(np.array(rates) * entry.support, row)
            assert entry.accuracy == pytest.approx(rates[EMOTIONS.index(entry.emotion)])
    assert counts.sum(axis=0).tolist() == [entry.predicted for entry in metrics.classes]
    check_shares(metrics)


def check_shares(metrics: Metrics) -> None:
    averages = (metrics.macro, metrics.weighted)
    shares = [metrics.accuracy, metrics.balanced_accuracy, metrics.calibration.error]
    shares += [value for mean in averages for value in (mean.precision, mean.recall, mean.f1)]
    assert all(0 <= share <= 1 + 1e-12 for share in shares)
    assert metrics.loss >= 0
    assert metrics.weighted.recall == pytest.approx(metrics.accuracy)
    assert metrics.macro.recall == pytest.approx(metrics.balanced_accuracy)


@given(st.integers(1, 5000), st.data())
def test_a_wilson_interval_holds_its_share_and_lies_within_zero_and_one(
    count: int, data: st.DataObject
) -> None:
    correct = data.draw(st.integers(0, count))
    interval = wilson_interval(correct, count)
    assert 0 <= interval.low <= correct / count <= interval.high <= 1
    mirrored = wilson_interval(count - correct, count)
    assert mirrored.low == pytest.approx(1 - interval.high, abs=1e-9)


def test_a_wilson_interval_as_published() -> None:
    # Newcombe 1998, table I, method 3: 81/263 gives 0.2553 to 0.3662; 0/20 gives 0 to 0.1611.
    interval = wilson_interval(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)
    assert round(wilson_interval(0, 20).high, 4) == 0.1611
    with pytest.raises(UsageError):
        wilson_interval(0, 0)
    with pytest.raises(UsageError):
        wilson_interval(3, 2)


pairs = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50)


def test_a_hand_counted_example() -> None:
    confidences = np.array([0.9, 0.9, 0.9, 0.9, 0.35])
    correct = np.array([True, True, True, False, True])
    calibration = measure_calibration(confidences, correct)
    assert calibration.error == pytest.approx(4 / 5 * (0.9 - 0.75) + 1 / 5 * (1 - 0.35))
    assert calibration.confidence == pytest.approx(0.79)
    filled = [entry for entry in calibration.bins if entry.count]
    assert [(entry.count, entry.accuracy) for entry in filled] == [(1, 1.0), (4, 0.75)]
    empty = next(entry for entry in calibration.bins if not entry.count)
    assert (empty.confidence, empty.accuracy) == (None, None)


def test_the_edges_of_the_range_fall_into_the_first_and_last_bin() -> None:
    calibration = measure_calibration(np.array([0.0, 1.0]), np.array([False, True]))
    assert calibration.bins[0].count == calibration.bins[-1].count == 1
    assert calibration.error == 0.0


@given(pairs)
def test_bins_hold_every_prediction_and_the_error_is_bounded(
    values: list[tuple[float, bool]],
) -> None:
    confidences = np.array([value for value, _ in values])
    correct = np.array([right for _, right in values])
    calibration = measure_calibration(confidences, correct)
    assert len(calibration.bins) == CALIBRATION_BINS
    assert sum(entry.count for entry in calibration.bins) == len(values)
    # Never less than the gap of the means (triangle inequality), never more than 1.
    gap = abs(confidences.mean() - correct.mean())
    assert gap - 1e-9 <= calibration.error <= 1 + 1e-9
    for entry in calibration.bins:
        if entry.confidence is not None:
            assert entry.low - 1e-9 <= entry.confidence <= entry.high + 1e-9


def test_confidences_of_another_length_are_refused() -> None:
    with pytest.raises(UsageError):
        measure_calibration(np.array([]), np.array([], bool))
    with pytest.raises(UsageError):
        measure_calibration(np.array([0.5]), np.array([True, False]))


ROWS = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9]])
CORRECT = np.array([True, False, True, False])


def test_a_prediction_is_certain_from_the_threshold_of_its_class() -> None:
    certain = selective_accuracy(ROWS, CORRECT, np.array([0.8, 0.5]))
    assert (certain.count, certain.correct, certain.share) == (3, 2, 0.75)
    assert certain.accuracy == pytest.approx(2 / 3)
    assert certain.accuracy_interval is not None
    assert certain.accuracy_interval.low < 2 / 3 < certain.accuracy_interval.high


def test_without_certain_predictions_there_is_no_accuracy() -> None:
    certain = selective_accuracy(ROWS, CORRECT, np.ones(2))
    assert (certain.count, certain.correct, certain.share) == (0, 0, 0)
    assert certain.accuracy is None
    assert certain.accuracy_interval is None


@given(st.lists(st.floats(0, 1), min_size=7, max_size=7))
def test_lower_thresholds_make_no_prediction_uncertain(values: list[float]) -> None:
    samples = make_samples()
    rows = samples.probabilities.astype(np.float64)
    correct = rows.argmax(axis=1) == samples.labels
    high = np.array(values)
    few = selective_accuracy(rows, correct, high)
    more = selective_accuracy(rows, correct, high / 2)
    assert few.count <= more.count
    assert few.correct <= more.correct <= correct.sum()


def test_certain_predictions_are_counted_on_all_and_on_clean_images() -> None:
    samples = make_samples()
    clean = np.arange(len(samples.labels)) % 2 == 0
    evaluation = evaluate(
        samples.probabilities, samples.labels, clean=clean, thresholds=np.full(7, 0.5)
    )
    assert evaluation.all.certain is not None
    assert evaluation.clean is not None
    assert evaluation.clean.certain is not None
    assert 0 < evaluation.clean.certain.count < evaluation.all.certain.count < len(samples.labels)
    assert evaluate(samples.probabilities, samples.labels).all.certain is None
