"""What FER+ votes say about a training image's label, beside what its teachers say.

Ten people who looked at an image know more of it than a network does. How their words go together
with FER-2013's labels is learnt from the training images, by a multinomial logistic regression of
the label on the votes; what it adds to the share of each class is the votes' evidence, in logits.
The image shows a teacher's network what a label says only in part, so the student gets both: by
Bayes' rule, the evidence is added to the teachers' logits, and weighed, for the two agree in part.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import MissingExtra
from mien.training.augmentation import Floats

_INVERSE_PENALTY = 0.3
_STEPS = 2000
_HALF_A_VOTE = 0.5


def vote_evidence(counts: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> Floats:
    """Return the logarithm of p(label | votes) / p(label) for each image and class.

    Args:
        counts: FER+ votes, (N, 10), as `mien.data.votes.align_votes` gives them.
        labels: the same images' labels, (N,), indices into `EMOTIONS`.

    Returns:
        float32 (N, 7), the mean of each row 0; zeros where an image has no votes, or where one
        class or none has any.

    Raises:
        MissingExtra: if scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtra("train", "learning from FER+ votes") from error

    evidence = np.zeros((len(labels), len(EMOTIONS)), np.float32)
    voted = counts.any(axis=1)
    classes = np.unique(labels[voted])
    if len(classes) < 2:
        return evidence
    # Shares and logarithms: the one adds up over doubtful images, the other over sure ones.
    features = np.hstack([counts / 10, np.log(counts + _HALF_A_VOTE)])[voted]
    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_STEPS)
    model.fit(features, labels[voted])
    shares = np.bincount(labels[voted], minlength=len(EMOTIONS))[classes] / np.count_nonzero(voted)
    gain = model.predict_log_proba(features) - np.log(shares)
    rows = np.zeros((len(gain), len(EMOTIONS)))
    rows[:, classes] = gain - gain.mean(axis=1, keepdims=True)
    evidence[voted] = rows
    return evidence
