"""What FER+ votes add to the teachers: nothing where nobody voted, the truth where they know it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mien.core.emotions import EMOTIONS
from mien.core.errors import UsageError
from mien.data.votes import VOTE_NAMES
from mien.training.distillation import with_evidence
from mien.training.evidence import vote_evidence
from training_maker import tiny_config

COLUMNS = np.array([VOTE_NAMES.index(emotion) for emotion in EMOTIONS])
RANDOM = np.random.default_rng(3)
LABELS = RANDOM.choice(7, 2000, p=[0.14, 0.02, 0.14, 0.25, 0.17, 0.17, 0.11])


def votes_on(labels: npt.NDArray[np.int64], *, right: int) -> npt.NDArray[np.int64]:
    """Ten votes an image, that many for its label and the rest for anything."""
    counts = RANDOM.multinomial(10 - right, [0.1] * 10, len(labels))
    counts[np.arange(len(labels)), COLUMNS[labels]] += right
    return counts


def test_the_evidence_is_for_what_people_saw() -> None:
    evidence = vote_evidence(votes_on(LABELS, right=6), LABELS)
    assert evidence.shape == (2000, 7)
    assert evidence.dtype == np.float32
    assert np.abs(evidence.mean(axis=1)).max() < 1e-5
    assert (evidence.argmax(axis=1) == LABELS).mean() > 0.97


def test_with_the_shares_of_the_classes_it_gives_the_posterior() -> None:
    counts = votes_on(LABELS, right=1)
    logits = vote_evidence(counts, LABELS) + np.log(np.bincount(LABELS) / len(LABELS))
    posterior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # Calibrated: the classes are as frequent as they are foretold to be.
    assert np.abs(posterior.mean(axis=0) - np.bincount(LABELS) / len(LABELS)).max() < 0.005
    sure = posterior.max(axis=1)
    assert abs(sure.mean() - (posterior.argmax(axis=1) == LABELS).mean()) < 0.05


def test_votes_that_know_nothing_say_next_to_nothing() -> None:
    evidence = vote_evidence(votes_on(LABELS, right=0), LABELS)
    assert np.abs(evidence).mean() < 0.3


def test_without_votes_there_is_no_evidence() -> None:
    counts = votes_on(LABELS, right=6)
    counts[::2] = 0
    evidence = vote_evidence(counts, LABELS)
    assert not evidence[::2].any()
    assert evidence[1::2].any(axis=1).all()
    assert not vote_evidence(np.zeros((5, 10), np.int64), LABELS[:5]).any()


def test_a_class_that_nobody_has_gets_no_say() -> None:
    labels = np.where(LABELS == 1, 0, LABELS)
    evidence = vote_evidence(votes_on(labels, right=6), labels)
    assert not evidence[:, 1].any()
    assert np.isfinite(evidence).all()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_evidence_is_added_in_logits(temperature: float) -> None:
    logits, added = RANDOM.normal(0, 2, (2, 6, 7))
    powers = np.exp(logits / temperature)
    taught = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    powers = np.exp((logits + added) / temperature)
    expected = powers / powers.sum(axis=1, keepdims=True)
    told = with_evidence(taught, added.astype(np.float32), temperature)
    assert np.allclose(told, expected, atol=1e-5)
    assert np.allclose(with_evidence(taught, np.zeros((6, 7), np.float32), 2.0), taught, atol=1e-6)
    # However sure the votes are, what comes out is a probability.
    assert np.isfinite(with_evidence(taught, (added * 500).astype(np.float32), 1.0)).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distill_teachers": []}, "expected distill.teachers, distill.views and data.votes"),
        ({"distill_views": 0}, "expected distill.teachers, distill.views and data.votes"),
        ({"data_votes": ""}, "expected distill.teachers, distill.views and data.votes"),
        ({"augmentation_mixup": 0.2}, "on whole images"),
    ],
)
def test_a_recipe_says_what_votes_beside_teachers_need(changes: dict[str, Any], words: str) -> None:
    whole: dict[str, Any] = {
        "distill_teachers": ["outputs/teacher"],
        "distill_views": 2,
        "distill_votes": 0.5,
        "data_votes": "votes.csv",
    }
    tiny_config(**whole)
    with pytest.raises(UsageError, match=words):
        tiny_config(**{**whole, **changes})
