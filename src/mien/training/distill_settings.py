"""The settings of learning from other networks: the table ``distill`` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mien.core.errors import UsageError
from mien.training.rules import ABOVE_ZERO, NOT_NEGATIVE, PROBABILITY, check


@dataclass(frozen=True)
class DistillSettings:
    """Learning from other networks (Beyer et al. 2021, 2106.05237); off without teachers.

    Attributes:
        teachers: runs' folders, exported models' folders, or bundled models' names.
        temperature: what teachers' and student's logits are divided by in the distance.
        weight: of the distance to the teachers; the labels' cross-entropy gets the rest.
        views: after how many epochs the augmented views come again; 0 is never. Above 0, the view
            of an image depends on the seed and on epoch modulo ``views`` alone.
        cache: folder in which the teachers' logits of the views are kept; empty is none.
        votes: share of the evidence of FER+ votes (``data.votes``) on an image's label that is
            added to the teachers' logits; about 0.5, for both saw the same image; 0 is off.
        sharp: teachers see each view before it is blurred, shrunk and coded as JPEG, so that the
            student learns to read such faces as it reads sharp ones; needs ``views``.
    """

    teachers: tuple[str, ...] = ()
    temperature: float = 2.0
    weight: float = 0.9
    views: int = 0
    cache: str = ""
    votes: float = 0.0
    sharp: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError where a value cannot be used."""
        rules = {
            "temperature": ABOVE_ZERO,
            "weight": PROBABILITY,
            "views": NOT_NEGATIVE,
            "votes": PROBABILITY,
        }
        check("distill", self, rules)
        names = [Path(teacher).name for teacher in self.teachers]
        if "" in names or len(set(names)) < len(names):
            raise UsageError(
                f"distill.teachers = {list(self.teachers)}: expected folders with different names, "
                "for the cached logits go by them"
            )
        if self.cache and not self.views:
            raise UsageError(
                'distill.cache needs views that come again: set distill.views, as 30, or cache = ""'
            )
