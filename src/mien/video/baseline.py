"""A person's baseline: scores corrected by how their own face reads when it is neutral.

Some faces at rest read as a little angry or sad. Scores are shares of a whole, so they are compared
by ratios: the centre of the baseline's scores is their geometric mean, and the correction is the
perturbation that takes this centre to that of a neutral face, in other words a constant shift of
log scores before the softmax (Aitchison 1986, "The Statistical Analysis of Compositional Data").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mien.core.emotions import match_label
from mien.core.errors import UsageError
from mien.core.results import Face, Result, Smoothed

NEUTRAL_SHARE = 0.76
"""The score of neutral that a baseline is taken to; the other emotions share the rest evenly."""

ADDED_SHARE = 0.01
"""Added to each score before its logarithm: below that, ratios are those of noise."""


def neutral_scores(labels: Sequence[str]) -> dict[str, float]:
    """Return the scores that a baseline is taken to.

    Raises:
        UsageError: if no label means neutral, or there is no other.
    """
    neutral = match_label("neutral", labels)
    if neutral is None or len(labels) < 2:
        raise UsageError(
            "a baseline needs a model with the class neutral and others: "
            f"this one has {', '.join(labels)}"
        )
    rest = (1.0 - NEUTRAL_SHARE) / (len(labels) - 1)
    return {label: NEUTRAL_SHARE if label == neutral else rest for label in labels}


def shift_to_neutral(baseline: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return what to add to each label's log score, from a person's scores at rest, one or more."""
    return {
        label: _log(share) - math.fsum(_log(scores[label]) for scores in baseline) / len(baseline)
        for label, share in neutral_scores(tuple(baseline[0])).items()
    }


def correct(scores: Mapping[str, float], shift: Mapping[str, float]) -> Smoothed:
    """Return scores with their logarithms shifted, the likeliest emotion beside them."""
    powers = {label: math.exp(_log(score) + shift[label]) for label, score in scores.items()}
    total = math.fsum(powers.values())
    corrected = {label: power / total for label, power in powers.items()}
    emotion = max(corrected, key=corrected.__getitem__)
    return Smoothed(emotion, corrected[emotion], corrected)


class Baseline:
    """Corrects the results of a video; those before the baseline's end are held back until then."""

    def __init__(self, labels: Sequence[str], start_s: float, end_s: float) -> None:
        """Take the model's labels, and the seconds in which everybody is neutral.

        Raises:
            UsageError: if the model has no class neutral.
        """
        neutral_scores(labels)
        self.start_s, self.end_s = start_s, end_s
        self._seen: dict[int, list[Mapping[str, float]]] = {}
        self._shifts: dict[int, dict[str, float]] | None = None
        self._held: list[Result] = []
        self._without: set[int] = set()

    def add(self, result: Result) -> list[Result]:
        """Take the result of the next frame; return those that are corrected by now, in order."""
        ends = result.error is not None or (result.time_s or 0.0) >= self.end_s
        if self._shifts is None and not ends:
            if (result.time_s or 0.0) >= self.start_s:
                for face in result.faces:
                    if face.track_id is not None:
                        self._seen.setdefault(face.track_id, []).append(face.scores)
            self._held.append(result)
            return []
        return [*self.finish(), self._corrected(result)]

    def finish(self) -> list[Result]:
        """Return what is held back: the baseline, or the video, has ended."""
        if self._shifts is None:
            self._shifts = {number: shift_to_neutral(seen) for number, seen in self._seen.items()}
            self._seen.clear()
        held, self._held = self._held, []
        return [self._corrected(result) for result in held]

    def people_without(self) -> list[int]:
        """Return the numbers of those who were not seen in the baseline: their scores stay raw."""
        return sorted(self._without)

    def _corrected(self, result: Result) -> Result:
        return replace(result, faces=tuple(self._corrected_face(face) for face in result.faces))

    def _corrected_face(self, face: Face) -> Face:
        shift = None if face.track_id is None else (self._shifts or {}).get(face.track_id)
        if shift is not None:
            return replace(face, corrected=correct(face.scores, shift))
        if face.track_id is not None:
            self._without.add(face.track_id)
        return face


def _log(share: float) -> float:
    return math.log(share + ADDED_SHARE)
