"""Which recognizer to load, in a form that other processes and machines can be given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from mien.inference.detectors import Detector
    from mien.inference.preprocess import FaceChoice
    from mien.inference.recognizer import Recognizer


class RecognizerSource(Protocol):
    """Makes a recognizer wherever it is sent: it can be pickled."""

    def load(self, *, threads: int | None = None) -> Recognizer:
        """Load it; ``threads`` are the network's, its own setting unless given."""


@dataclass(frozen=True)
class RecognizerOptions:
    """The options that a recognizer is made of, as the command line has them.

    Attributes:
        model: a bundled model's name, or a model's folder.
        detector: its name.
        detector_weights: a file with YuNet's weights, or None.
        offline: never download a detector's weights.
        threads: of the network, or None for all cores.
        min_face: leave out faces of a smaller side, in pixels.
        max_faces: read only so many of an image, or None for all.
        align: level the eyes: "auto", "on" or "off".
        thorough: search for small faces at once, not only where a first look shows some.
        labels: whose labels the scores follow, "people" or "fer2013", or None for the model's
            default.
    """

    model: str
    detector: str = "auto"
    detector_weights: Path | None = None
    offline: bool = False
    threads: int | None = None
    min_face: int = 0
    max_faces: int | None = None
    align: str = "auto"
    thorough: bool = False
    labels: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return what changes results beside the model and the detector, as JSON takes it."""
        names = ("min_face", "max_faces", "align", "thorough", "labels")
        return {name: getattr(self, name) for name in names}

    def absolute(self) -> RecognizerOptions:
        """Return the same options, whose files mean the same in any working folder."""
        model = str(Path(self.model).absolute()) if Path(self.model).is_dir() else self.model
        weights = self.detector_weights
        return replace(
            self, model=model, detector_weights=None if weights is None else weights.absolute()
        )

    def load(self, *, threads: int | None = None) -> Recognizer:
        """Load the recognizer; raises what `mien.load` raises."""
        from mien.inference.recognizer import Recognizer

        return Recognizer.load(
            self.model,
            detector=self.load_detector(),
            threads=threads or self.threads,
            min_face=self.min_face,
            max_faces=self.max_faces,
            align=self.align,
            labels=self.labels,
        )

    def load_detector(self) -> Detector:
        """Load the detector alone; raises what `load_detector` of detectors raises."""
        from mien.inference.detectors import load_detector

        return load_detector(
            self.detector,
            weights=self.detector_weights,
            offline=self.offline,
            thorough=self.thorough,
        )

    def choice(self) -> FaceChoice:
        """Return which faces are read; raises UsageError if an option is not as it should be."""
        from mien.inference.preprocess import FaceChoice

        return FaceChoice(min_face=self.min_face, max_faces=self.max_faces, align=self.align)
