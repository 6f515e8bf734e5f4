from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.errors import UsageError
from mien.evaluation.thresholds import LEAST_CERTAIN, LEAST_READINGS, fit_thresholds

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

MANY = np.linspace(0.4, 0.99, 6 * LEAST_READINGS)


def readings(
    label: int, confidences: Floats, right: npt.NDArray[np.bool_]
) -> tuple[Floats, Labels]:
    """Probabilities of three classes that read ``label``, and labels that bear some of them out."""
    probabilities = np.repeat((1 - confidences)[:, None] / 2, 3, axis=1)
    probabilities[:, label] = confidences
    return probabilities, np.where(right, label, (label + 1) % 3)


def joined(*parts: tuple[Floats, Labels]) -> tuple[Floats, Labels]:
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def certain(data: tuple[Floats, Labels], thresholds: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray(data[0].max(axis=1) >= thresholds[data[0].argmax(axis=1)])


def test_each_class_is_certain_from_where_its_own_readings_become_right() -> None:
    data = joined(
        readings(0, MANY, MANY > 0.7),
        readings(1, MANY, MANY > 0.8),
        readings(2, MANY, np.ones(len(MANY), bool)),
    )
    assert fit_thresholds(*data, accuracy=0.99) == pytest.approx([0.7, 0.8, 0.0], abs=0.003)


def test_readings_of_the_same_chance_are_certain_in_every_class_alike() -> None:
    random = np.random.default_rng(4)
    confidences = random.uniform(0.35, 1, 20_000)
    # The second class is as often right at c + 0.15 as the first one at c.
    data = joined(
        readings(0, confidences, random.random(20_000) < confidences),
        readings(1, confidences, random.random(20_000) < confidences - 0.15),
    )
    first, second, _ = fit_thresholds(*data, accuracy=0.8)
    assert second - first == pytest.approx(0.15, abs=0.06)


def test_a_class_that_is_right_less_often_is_not_silenced_for_it() -> None:
    random = np.random.default_rng(5)
    confidences = random.uniform(0.4, 0.84, 2000)
    data = joined(
        readings(0, confidences, random.random(2000) < confidences),
        readings(1, MANY, np.ones(len(MANY), bool)),
    )
    thresholds = fit_thresholds(*data)
    assert thresholds[0] < 0.84  # none of its confidences is right 85 % of the time
    assert thresholds[1] == 0.0


def test_thresholds_are_written_with_three_digits() -> None:
    thresholds = fit_thresholds(*readings(0, MANY, MANY > 0.69), accuracy=0.99)
    assert str(thresholds[0].item()) == "0.69"


def test_what_is_never_right_is_never_certain() -> None:
    data = joined(readings(0, MANY, MANY > 0.5), readings(1, MANY, np.zeros(len(MANY), bool)))
    assert fit_thresholds(*data)[1] == 1.0


def test_a_lucky_few_prove_nothing() -> None:
    confidences = np.linspace(0.4, 0.99, LEAST_READINGS)
    lucky = np.arange(LEAST_READINGS) > LEAST_READINGS - LEAST_CERTAIN + 5
    assert fit_thresholds(*readings(1, confidences, lucky))[1] == 1.0


def test_a_class_with_few_readings_is_judged_like_all() -> None:
    few = np.linspace(0.4, 0.99, LEAST_READINGS - 1)
    data = joined(readings(0, MANY, MANY > 0.7), readings(2, few, np.zeros(len(few), bool)))
    thresholds = fit_thresholds(*data, accuracy=0.7)
    # Nobody read the class in the middle: it is judged like all, and so is the one that few did.
    assert thresholds[2] == thresholds[1] < 1.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 1.0))
def test_certain_readings_are_right_as_often_as_asked(seed: int, accuracy: float) -> None:
    random = np.random.default_rng(seed)
    confidences = random.integers(35, 100, 3 * LEAST_READINGS) / 100  # many are equal
    power = random.uniform(1, 3, 3)
    data = joined(
        *(
            readings(
                label, confidences, random.random(len(confidences)) < confidences ** power[label]
            )
            for label in range(3)
        )
    )
    chosen = certain(data, fit_thresholds(*data, accuracy=accuracy))
    if chosen.any():
        assert (data[0].argmax(axis=1) == data[1])[chosen].mean() >= accuracy


def test_new_readings_keep_the_word_five_times_of_six() -> None:
    def drawn(random: np.random.Generator) -> tuple[Floats, Labels]:
        confidences = random.uniform(0.35, 1, 1000)
        powers = (1.0, 1.5, 2.0)
        return joined(
            *(
                readings(label, confidences, random.random(1000) < confidences**power)
                for label, power in enumerate(powers)
            )
        )

    kept = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        thresholds = fit_thresholds(*drawn(random), accuracy=0.8)
        fresh = drawn(random)
        right = fresh[0].argmax(axis=1) == fresh[1]
        kept += right[certain(fresh, thresholds)].mean() >= 0.8
    assert kept >= 47


def test_no_readings_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        fit_thresholds(np.zeros((0, 7)), np.zeros(0, np.int64))
    with pytest.raises(UsageError, match="as many rows"):
        fit_thresholds(np.zeros((2, 7)), np.zeros(3, np.int64))
