"""Agreement of predictions with FER+'s ten annotators."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.data.votes import EMOTION_COLUMNS, VOTE_NAMES
from mien.evaluation.metrics import Interval, binned, wilson_interval

BIN_COUNT = 10
_CONTEMPT = VOTE_NAMES.index("contempt")
_OFFICIAL = _CONTEMPT + 1
"""FER+'s eight emotions come first, contempt last of them; unknown and not-a-face follow."""


@dataclass(frozen=True)
class EmotionAgreement:
    """The images whose majority named an emotion, and how many of them are predicted as that."""

    emotion: str
    images: int
    agreed: int


@dataclass(frozen=True)
class ShareBin:
    """Scores in (low, high], of any emotion, and the votes that these faces got for it.

    Attributes:
        low, high: the edges, 0-1; the first bin also holds 0.
        count: scores in the bin.
        score: their mean.
        share: the mean share of people who named the emotion.
    """

    low: float
    high: float
    count: int
    score: float
    share: float


@dataclass(frozen=True)
class Agreement:
    """Predictions beside FER+'s votes.

    Attributes:
        images: those on which more than half of the votes for the seven emotions agree.
        agreed: how many of them are read as that majority says.
        accuracy: the share of these, 0-1, and its 95 % interval.
        accuracy_interval: see ``accuracy``.
        emotions: the same for each emotion.
        official_images: those of FER+'s own protocol (Barsoum et al. 2016, "majority"): single
            votes are dropped, and more than half of the others are for one of eight emotions.
        official_agreed: how many of them are read so; contempt, which has no score, never is.
        cross_entropy: of all scores against the shares of votes, in nats.
        share_error: the mean distance between a score and the share of people, over ``bins``.
        bins: of the reliability diagram: do seven of ten people say so where the score is 0.7?
    """

    images: int
    agreed: int
    accuracy: float
    accuracy_interval: Interval
    emotions: tuple[EmotionAgreement, ...]
    official_images: int
    official_agreed: int
    cross_entropy: float
    share_error: float
    bins: tuple[ShareBin, ...]

    @property
    def official_accuracy(self) -> float:
        """The share of the official protocol's images that is read right, 0-1."""
        return self.official_agreed / max(self.official_images, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures ready for JSON."""
        return {**asdict(self), "official_accuracy": self.official_accuracy}


def measure_agreement(
    probabilities: npt.NDArray[np.floating[Any]], counts: npt.NDArray[np.int64]
) -> Agreement | None:
    """Compare predictions with votes.

    Args:
        probabilities: (N, 7), in the order of `EMOTIONS`.
        counts: int64 (N, 10), as `mien.data.votes.align_votes` gives them.

    Returns:
        None where no image has a majority.
    """
    read = probabilities.argmax(axis=1)
    votes = counts[:, EMOTION_COLUMNS]
    total = votes.sum(axis=1)
    clear = 2 * votes.max(axis=1) > total
    if not clear.any():
        return None
    majority = votes.argmax(axis=1)
    agrees = read == majority
    emotions = tuple(
        EmotionAgreement(
            name,
            int((clear & (majority == place)).sum()),
            int(agrees[clear & (majority == place)].sum()),
        )
        for place, name in enumerate(EMOTIONS)
    )
    voted = total > 0
    shares = votes[voted] / total[voted, None]
    scores = np.asarray(probabilities[voted], np.float64)
    bins = _share_bins(scores.ravel(), shares.ravel())
    official = official_majority(counts)
    known = official >= 0
    agreed = int(agrees[clear].sum())
    return Agreement(
        images=int(clear.sum()),
        agreed=agreed,
        accuracy=agreed / int(clear.sum()),
        accuracy_interval=wilson_interval(agreed, int(clear.sum())),
        emotions=emotions,
        official_images=int(known.sum()),
        official_agreed=int((EMOTION_COLUMNS[read] == official)[known].sum()),
        cross_entropy=float(-(shares * np.log(np.maximum(scores, 1e-7))).sum(axis=1).mean()),
        share_error=sum(each.count * abs(each.score - each.share) for each in bins) / scores.size,
        bins=bins,
    )


def official_majority(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return FER+'s own majority label of images, indices into `VOTE_NAMES`; -1 for none.

    Emotions with a single vote are dropped as outliers; then one of the eight needs more than half
    of the votes that are left, unknown and not-a-face among them.

    Args:
        counts: int64 (N, 10), as `mien.data.votes.align_votes` gives them.
    """
    kept = np.where(counts > 1, counts, 0)
    winner = kept.argmax(axis=1)
    clear = (2 * kept.max(axis=1) > kept.sum(axis=1)) & (winner < _OFFICIAL)
    return np.where(clear, winner, -1)


def _share_bins(
    scores: npt.NDArray[np.float64], shares: npt.NDArray[np.float64]
) -> tuple[ShareBin, ...]:
    return tuple(
        ShareBin(
            low, high, int(inside.sum()), float(scores[inside].mean()), float(shares[inside].mean())
        )
        for low, high, inside in binned(scores, BIN_COUNT)
        if inside.any()
    )
