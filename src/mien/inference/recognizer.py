"""Images in, faces and their emotions out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mien.core.display import image_reference
from mien.core.errors import MienError, NoFaceError, UnreadableImage, UsageError
from mien.core.faces import FACE_SIZE
from mien.core.images import ImageSource, Tensor, source_name
from mien.core.models import DEFAULT_MODEL
from mien.core.results import Face, Faces, ModelInfo, Result, Results
from mien.inference.classifier import BATCH_SIZE, Classifier
from mien.inference.detectors import Detection, Detector, load_detector
from mien.inference.preprocess import (
    FaceBatch,
    FaceChoice,
    is_one_image,
    preprocess,
    standard_faces,
    with_sources,
)
from mien.inference.quality import quality_of

_Self = TypeVar("_Self", bound="Recognizer")

ON_NO_FACE: tuple[str, ...] = ("empty", "raise")
"""What `Recognizer.analyze` does where there is no face."""


class Recognizer:
    """Finds faces and reads their emotions; keeps nothing between calls: threads may share it."""

    def __init__(
        self,
        classifier: Classifier,
        detector: Detector,
        choice: FaceChoice | None = None,
        *,
        tta: bool = False,
    ) -> None:
        """Put a classifier and a detector together; `load` makes both from their names.

        Args:
            classifier: reads faces.
            detector: finds them.
            choice: which of them are read; all unless given.
            tta: average over shifted and mirrored views of each face (test-time augmentation).
        """
        self.classifier = classifier
        self.detector = detector
        self.choice = choice or FaceChoice()
        self.tta = tta

    @classmethod
    def load(
        cls: type[_Self],
        model: str | Path = DEFAULT_MODEL,
        *,
        detector: str | Detector = "auto",
        threads: int | None = None,
        offline: bool = False,
        min_face: int = 0,
        max_faces: int | None = None,
        align: str = "auto",
        thorough: bool = False,
        labels: str | None = None,
        tta: bool = False,
    ) -> _Self:
        """Load a model and a face detector.

        Args:
            model: a bundled model's name, or the folder of one.
            detector: "auto", "yunet", "libface", "haar", "none" (images are face crops), or an
                object that keeps to `mien.Detector`. See `mien.load_detector`.
            threads: how many threads the network may use for one call; as many as there are cores
                unless given.
            offline: never download a detector's weights.
            min_face: leave out faces whose box has a smaller side than this, in pixels.
            max_faces: read only so many of an image: the largest; all unless given.
            align: level the eyes before reading: "auto" (of faces that lean far), "on" or "off".
            thorough: search large images for small faces, down to their own pixels, which takes
                seconds; for a detector given by name.
            labels: whose labels the scores follow: "people", the share of ten people who would name
                an emotion, or "fer2013", the data set's own; "people" unless given, where the model
                has that reading.
            tta: average over ten shifted and mirrored views of each face (test-time augmentation),
                which takes ten times as long for a little more accuracy.

        Raises:
            ModelError: if the model or the detector's weights are missing or damaged, or the model
                has no such reading.
            UsageError: if the detector is unknown or not installed, or an option is not as above.
        """
        choice = FaceChoice(min_face=min_face, max_faces=max_faces, align=align)
        if isinstance(detector, str):
            chosen = load_detector(detector, offline=offline, thorough=thorough)
        elif thorough:
            raise UsageError("thorough=True is for a detector given by name: make yours thorough")
        else:
            chosen = detector
        classifier = Classifier.open(model, threads=threads, labels=None, reading=labels)
        return cls(classifier, chosen, choice, tta=tta)

    @property
    def labels(self) -> tuple[str, ...]:
        """The model's emotions, in its order."""
        return self.classifier.labels

    @property
    def model(self) -> ModelInfo:
        """The model's name, version and hash, as results have them."""
        return self.classifier.manifest.info

    def analyze(
        self,
        image: ImageSource,
        *,
        color: str | None = None,
        on_no_face: str = "empty",
        allow_private: bool = False,
    ) -> Faces:
        """Find the faces in an image and read their emotions.

        Args:
            image: a path, an http(s) address, the bytes of an encoded file, a file that is open
                for reading them, a Pillow image, or an array or tensor: uint8 (0-255) or float
                (0-1), (H, W) grey, or (H, W, 3) or (H, W, 4) with ``color``; see `mien.load_image`.
            color: the order of an array's channels, "rgb" or "bgr".
            on_no_face: "empty" returns an empty list where there is no face, "raise" raises.
            allow_private: download from hosts that are not on the open internet, too.

        Returns:
            The faces, left to right, in a list that can also be looked at (`annotate`, `save`,
            `plot`, `to_pandas`) and holds the whole `result`.

        Raises:
            UnreadableImage: if the image is missing, is not one, or is damaged.
            NoFaceError: if there is no face and ``on_no_face`` is "raise".
            UsageError: if an array or an option is not as above.

        Example:
            >>> recognizer = mien.load()
            >>> [face.emotion for face in recognizer.analyze("photo.jpg")]
        """
        if on_no_face not in ON_NO_FACE:
            raise UsageError(
                f"expected on_no_face={' or '.join(map(repr, ON_NO_FACE))}, got {on_no_face!r}"
            )
        result = self.analyze_result(image, color=color, allow_private=allow_private)
        raise_for_status(result)
        if on_no_face == "raise" and not result.faces:
            raise NoFaceError(
                f"no face found in {result.source or 'the image'} by {self.detector.name}: "
                "try another detector, or detector='none' for an image that is a face crop"
            )
        return Faces(result)

    def analyze_result(
        self,
        image: ImageSource,
        *,
        color: str | None = None,
        source: str | None = None,
        allow_private: bool = False,
    ) -> Result:
        """Analyze one image and return the whole result: status, size, faces, model.

        Arguments as `analyze_many`, for one image; a failure is in the result's status.
        """
        return self.analyze_many(
            [image], color=color, sources=[source], allow_private=allow_private
        )[0]

    def analyze_many(
        self,
        images: Iterable[ImageSource],
        *,
        color: str | None = None,
        sources: Sequence[str | None] | None = None,
        batch_size: int = BATCH_SIZE,
        allow_private: bool = False,
    ) -> Results:
        """Analyze images, their faces together in batches.

        One image is in memory at a time: an iterator that makes them one by one is welcome.

        Args:
            images: each as in `analyze`.
            color: the order of all arrays' channels, "rgb" or "bgr".
            sources: a name for each image, for its result; None (for all or one) names it by its
                path, if it has one.
            batch_size: faces that go through the network at once.
            allow_private: as in `analyze`.

        Returns:
            One result an image, in their order, in a list that becomes a table (`to_pandas`). One
            that cannot be read has the status "unreadable", one that fails otherwise "error"; the
            others still run.

        Raises:
            UsageError: if an array, an option, or the number of sources is not as above.
            ModelError: if the network fails.
        """
        if is_one_image(images):
            raise UsageError(
                f"expected a list of images, got one {type(images).__name__}: "
                "use analyze or analyze_result for a single image"
            )
        batches, references = [], []
        for image, name in with_sources(images, sources):
            named = name or source_name(image)
            batch = self.find(image, color=color, source=named, allow_private=allow_private)
            batches.append(batch)
            references.append(image_reference(image, allow_private=allow_private))
        results = self.read(batches, batch_size=batch_size)
        return Results(
            result.read_from(reference, color)
            for result, reference in zip(results, references, strict=True)
        )

    def find(
        self,
        image: ImageSource,
        *,
        color: str | None = None,
        source: str | None = None,
        allow_private: bool = False,
    ) -> FaceBatch:
        """Do the first half of an analysis: load an image, find its faces and cut them out.

        Arguments and errors as `analyze_many`, for one image; `read` takes what is returned. An
        image that cannot be read has a status that says so.
        """
        return preprocess(
            image,
            self.detector,
            self.choice,
            color=color,
            source=source,
            allow_private=allow_private,
        )

    def read(self, batches: Sequence[FaceBatch], *, batch_size: int = BATCH_SIZE) -> list[Result]:
        """Do the second half: read the faces that `find` cut out of images, all together.

        Returns one result an image, in their order; arguments and errors as `analyze_many`.
        """
        faces = [face for batch in batches for face in batch.faces]
        rows = iter(self._classify(faces, batch_size))
        return [self._result(batch, list(islice(rows, len(batch.faces)))) for batch in batches]

    def classify(
        self,
        crops: Iterable[npt.NDArray[Any] | Tensor],
        *,
        color: str | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> npt.NDArray[np.float32]:
        """Read the emotions of face crops; no face is looked for in them.

        Args:
            crops: arrays or tensors, any sizes, each as `analyze` takes them.
            color: the order of the channels, "rgb" or "bgr".
            batch_size: faces that go through the network at once.

        Returns:
            float32 (N, classes): calibrated probabilities in the order of `labels`; rows sum to 1.

        Raises:
            UsageError: if a crop is not as above.
        """
        return self._classify(standard_faces(crops, color=color), batch_size)

    def _classify(
        self, faces: Sequence[npt.NDArray[np.uint8]], batch_size: int
    ) -> npt.NDArray[np.float32]:
        stacked = np.stack(faces) if faces else np.empty((0, FACE_SIZE, FACE_SIZE), np.uint8)
        return self.classifier.classify(stacked, augment=self.tta, batch_size=batch_size)

    def _result(self, batch: FaceBatch, rows: Sequence[npt.NDArray[np.float32]]) -> Result:
        found = zip(batch.detections, batch.turns, batch.faces, rows, strict=True)
        return Result(
            source=batch.source,
            status=batch.status,
            model=self.model,
            width=batch.width,
            height=batch.height,
            faces=tuple(self._face(number, *each) for number, each in enumerate(found)),
            error=batch.error,
        )

    def _face(
        self,
        number: int,
        found: Detection,
        turn: float,
        face: npt.NDArray[np.uint8],
        probabilities: npt.NDArray[np.float32],
    ) -> Face:
        quality = quality_of(face, found.box, found.landmarks)
        scores = dict(zip(self.labels, probabilities.tolist(), strict=True))
        emotion = self.labels[int(probabilities.argmax())]
        return Face(
            face_id=number,
            box=found.box,
            face_confidence=found.confidence,
            emotion=emotion,
            confidence=scores[emotion],
            uncertain=scores[emotion] < self.classifier.manifest.threshold(emotion)
            or "turned_away" in quality.flags,
            scores=scores,
            quality=quality,
            turn=turn,
        )


def raise_for_status(result: Result) -> None:
    """Raise UnreadableImage or MienError if an image could not be analyzed."""
    if result.status == "unreadable":
        raise UnreadableImage(result.error)
    if result.status == "error":
        raise MienError(result.error)
