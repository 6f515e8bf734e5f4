"""What has come out so far: counts by status, for the closing line and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mien.core.results import STATUSES, Result


@dataclass
class Tally:
    """Counts of images and faces.

    Attributes:
        statuses: images by status.
        faces: all of them.
        first_problem: the first error's line, or None.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    faces: int = 0
    first_problem: str | None = None

    @property
    def images(self) -> int:
        """All images."""
        return self.statuses.total()

    @property
    def failed(self) -> int:
        """Images that could not be read, or failed otherwise."""
        return self.statuses["unreadable"] + self.statuses["error"]

    def count(self, result: Result) -> None:
        """Count one result."""
        self.statuses[result.status] += 1
        self.faces += len(result.faces)
        self.first_problem = self.first_problem or result.error

    def add(self, other: Tally) -> None:
        """Count what another has counted, after one's own."""
        self.statuses.update(other.statuses)
        self.faces += other.faces
        self.first_problem = self.first_problem or other.first_problem

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON has them."""
        return {
            "statuses": dict(self.statuses),
            "faces": self.faces,
            "first_problem": self.first_problem,
        }

    @classmethod
    def from_dict(cls, counts: Mapping[str, Any]) -> Tally:
        """Return what `to_dict` gave."""
        return cls(Counter(counts["statuses"]), counts["faces"], counts["first_problem"])

    def summary(self) -> str:
        """Return the counts as people read them; those by status unless all are ``ok``."""
        faces = "1 face" if self.faces == 1 else f"{self.faces:,} faces"
        text = f"{faces} in " + ("1 image" if self.images == 1 else f"{self.images:,} images")
        if self.statuses["ok"] == self.images:
            return text
        named = (
            f"{self.statuses[name]:,} {name.replace('_', ' ')}"
            for name in STATUSES
            if self.statuses[name]
        )
        return f"{text}: {', '.join(named)}"
