"""Which of the faces that a detector found are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mien.core.errors import UsageError
from mien.inference.alignment import ALIGN, check_align
from mien.inference.detectors.base import Detection


@dataclass(frozen=True)
class FaceChoice:
    """Which faces of an image are read, and how they are cut out.

    Attributes:
        min_face: a face whose box has a smaller side than this, in pixels, is left out.
        max_faces: only so many are read: the largest ones, of equal ones the surest; None for all.
        align: level the eyes before reading, "auto" (faces that lean far), "on" or "off"; for
            detectors that find eyes.
    """

    min_face: int = 0
    max_faces: int | None = None
    align: str = ALIGN[0]

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        check_align(self.align)
        _whole("min_face", self.min_face, 0)
        if self.max_faces is not None:
            _whole("max_faces", self.max_faces, 1)

    def chosen(self, detections: Iterable[Detection]) -> tuple[Detection, ...]:
        """Return the detections that are read, in their order."""
        kept = [one for one in detections if min(one.box.w, one.box.h) >= self.min_face]
        if self.max_faces is None or len(kept) <= self.max_faces:
            return tuple(kept)
        ranked = sorted(
            range(len(kept)), key=lambda place: (-kept[place].box.area, -kept[place].confidence)
        )
        return tuple(kept[place] for place in sorted(ranked[: self.max_faces]))


def _whole(what: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"expected {what} as a whole number of {least} or more, got {value!r}")
