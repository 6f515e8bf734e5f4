from __future__ import annotations

import numpy as np
import pytest

from mien.core.emotions import EMOTIONS
from mien.data.votes import VOTE_NAMES
from mien.evaluation.metrics import measure_agreement, official_majority

NEUTRAL, HAPPY, SAD = (EMOTIONS.index(name) for name in ("neutral", "happy", "sad"))


def votes(**counts: int) -> list[int]:
    return [counts.get(name, 0) for name in VOTE_NAMES]


def confident_in(*emotions: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.eye(7)[list(emotions)] * 0.93 + 0.01


def test_only_images_with_a_majority_count() -> None:
    counts = np.array(
        [
            votes(happy=6, neutral=4),  # correct
            votes(happy=5, neutral=5),  # no majority
            votes(neutral=6, sad=4),  # incorrect
            votes(sad=3, neutral=1, unknown=6),  # a majority of the votes for emotions
            votes(unknown=5, not_a_face=5),  # no vote for an emotion
        ]
    )
    agreement = measure_agreement(confident_in(HAPPY, HAPPY, SAD, SAD, SAD), counts)
    assert agreement is not None
    assert (agreement.images, agreement.agreed) == (3, 2)
    assert agreement.accuracy == pytest.approx(2 / 3)
    by_name = {entry.emotion: (entry.agreed, entry.images) for entry in agreement.emotions}
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
            votes(happy=1, neutral=1),  # no vote remains
        ]
    )
    labels = official_majority(counts)
    happy, contempt = VOTE_NAMES.index("happy"), VOTE_NAMES.index("contempt")
    assert labels.tolist() == [happy, -1, contempt, -1, -1, -1]
    agreement = measure_agreement(confident_in(*[HAPPY] * 6), counts)
    assert agreement is not None
    assert (agreement.official_images, agreement.official_agreed) == (2, 1)
    assert agreement.official_accuracy == 0.5


def test_scores_equal_to_vote_shares_have_no_error() -> None:
    counts = np.array([votes(happy=7, neutral=3), votes(sad=10)])
    shares = np.zeros((2, 7))
    shares[0, HAPPY], shares[0, NEUTRAL], shares[1, SAD] = 0.7, 0.3, 1.0
    agreement = measure_agreement(shares, counts)
    assert agreement is not None
    assert agreement.share_error == pytest.approx(0, abs=1e-9)
    assert agreement.cross_entropy == pytest.approx(-(0.7 * np.log(0.7) + 0.3 * np.log(0.3)) / 2)
    assert sum(row.count for row in agreement.bins) == 14
    overconfident = measure_agreement(confident_in(HAPPY, SAD), counts)
    assert overconfident is not None
    assert overconfident.share_error > 0.02


def test_without_any_majority_there_is_no_agreement() -> None:
    counts = np.array([votes(happy=5, sad=5), votes(unknown=10)])
    assert measure_agreement(confident_in(HAPPY, SAD), counts) is None
