from __future__ import annotations

import numpy as np
import pytest

from mien.core.emotions import EMOTIONS
from mien.data.votes import VOTE_NAMES
from mien.evaluation.metrics import measure_agreement, official_majority

NEUTRAL, HAPPY, SAD = (EMOTIONS.index(name) for name in ("neutral", "happy", "sad"))


def votes(**counts: int) -> list[int]:
    return [counts.get(name, 0) for name in VOTE_NAMES]


def sure_of(*emotions: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.eye(7)[list(emotions)] * 0.93 + 0.01


def test_only_images_with_a_majority_count() -> None:
    counts = np.array(
        [
            votes(happy=6, neutral=4),  # read right
            votes(happy=5, neutral=5),  # no majority
            votes(neutral=6, sad=4),  # read wrong
            votes(sad=3, neutral=1, unknown=6),  # a majority of those who saw an emotion
            votes(unknown=5, not_a_face=5),  # nobody saw one
        ]
    )
    found = measure_agreement(sure_of(HAPPY, HAPPY, SAD, SAD, SAD), counts)
    assert found is not None
    assert (found.images, found.agreed) == (3, 2)
    assert found.accuracy == pytest.approx(2 / 3)
    by_name = {each.emotion: (each.agreed, each.images) for each in found.emotions}
    assert by_name["happy"] == (1, 1)
    assert by_name["neutral"] == (0, 1)
    assert by_name["sad"] == (1, 1)
    assert by_name["fear"] == (0, 0)


def test_the_official_protocol_drops_single_votes_and_counts_contempt() -> None:
    counts = np.array(
        [
            votes(happy=5, neutral=3, sad=1, fear=1),  # 5 of 8
            votes(happy=4, neutral=4, sad=1, fear=1),  # 4 of 8
            votes(contempt=6, neutral=4),
            votes(unknown=6, happy=4),
            votes(not_a_face=10),
            votes(happy=1, neutral=1),  # nothing is left
        ]
    )
    found = official_majority(counts)
    happy, contempt = VOTE_NAMES.index("happy"), VOTE_NAMES.index("contempt")
    assert found.tolist() == [happy, -1, contempt, -1, -1, -1]
    agreement = measure_agreement(sure_of(*[HAPPY] * 6), counts)
    assert agreement is not None
    assert (agreement.official_images, agreement.official_agreed) == (2, 1)
    assert agreement.official_accuracy == 0.5


def test_scores_that_are_the_shares_of_people_have_no_error() -> None:
    counts = np.array([votes(happy=7, neutral=3), votes(sad=10)])
    shares = np.zeros((2, 7))
    shares[0, HAPPY], shares[0, NEUTRAL], shares[1, SAD] = 0.7, 0.3, 1.0
    found = measure_agreement(shares, counts)
    assert found is not None
    assert found.share_error == pytest.approx(0, abs=1e-9)
    assert found.cross_entropy == pytest.approx(-(0.7 * np.log(0.7) + 0.3 * np.log(0.3)) / 2)
    assert sum(each.count for each in found.bins) == 14
    too_sure = measure_agreement(sure_of(HAPPY, SAD), counts)
    assert too_sure is not None
    assert too_sure.share_error > 0.02


def test_without_a_majority_there_is_nothing_to_say() -> None:
    counts = np.array([votes(happy=5, sad=5), votes(unknown=10)])
    assert measure_agreement(sure_of(HAPPY, SAD), counts) is None
