"""Recognizer of the emotions in images: detector, preprocessing and classifier in one object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mien.core.checks import check_choice, check_list, check_type, invalid
from mien.core.display import image_reference
from mien.core.errors import MienError, NoFaceError, UnreadableImage, UsageError
from mien.core.images import FACE_SIZE, ImageSource, Tensor, source_name
from mien.core.models import DEFAULT_MODEL
from mien.core.results import Face, Faces, ModelInfo, Result, Results
from mien.inference.classifier import BATCH_SIZE, Classifier
from mien.inference.detectors import Detection, Detector, load_detector
from mien.inference.preprocess import (
    FaceBatch,
    FaceChoice,
    assess_quality,
    check_images,
    pair_sources,
    preprocess,
    standard_faces,
)

Self = TypeVar("Self", bound="Recognizer")  # not in `typing` before Python 3.11

ON_NO_FACE: tuple[str, ...] = ("empty", "raise")
"""What `Recognizer.analyze` does without a face."""


class Recognizer:
    """Recognizes emotions in images; keeps no state between calls, so that threads can share it."""

    def __init__(
        self,
        classifier: Classifier,
        detector: Detector,
        choice: FaceChoice | None = None,
        *,
        tta: bool = False,
    ) -> None:
        """Combine a classifier and a detector; `load` makes both from their names.

        Args:
            classifier: classifies the faces.
            detector: detects them.
            choice: which faces of an image to analyze; all if None.
            tta: average over shifted and mirrored views of each face (test-time augmentation).
        """
        if not callable(getattr(classifier, "classify", None)):
            raise invalid("classifier", "a Classifier", classifier)
        if not callable(getattr(detector, "detect", None)):
            raise invalid("detector", "a name or an object with detect()", detector)
        if choice is not None:
            check_type("choice", choice, FaceChoice, "a FaceChoice")
        self.classifier = classifier
        self.detector = detector
        self.choice = choice or FaceChoice()
        self.tta = tta

    @classmethod
    def load(
        cls: type[Self],
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
    ) -> Self:
        """Load a model and a face detector.

        Args:
            model: name of a bundled model, or a model's folder.
            detector: "auto", "yunet", "libface", "haar", "none" (images are face crops), or an
                object that implements `mien.Detector`. See `mien.load_detector`.
            threads: threads per network call; all cores if None.
            offline: never download a detector's weights.
            min_face: smallest side of a face's box, in pixels; smaller faces are left out.
            max_faces: largest number of faces per image; the largest faces are kept. All if None.
            align: level the eyes before classifying: "auto" (if the face leans far), "on" or "off".
            thorough: search large images for small faces at full resolution, which takes seconds;
                requires a detector given by name.
            labels: labels that the scores follow: "people" (the share of people who would name an
                emotion) or "fer2013" (the data set's own labels). None stands for "people" if the
                model has that reading.
            tta: average over ten shifted and mirrored views of each face (test-time augmentation),
                slightly more accurate at ten times the cost.

        Raises:
            ModelError: if the model or the detector's weights are missing or damaged, or the model
                has no such reading.
            UsageError: if the detector is unknown or not installed, or an option is invalid.
        """
        choice = FaceChoice(min_face=min_face, max_faces=max_faces, align=align)
        if isinstance(detector, str):
            detector = load_detector(detector, offline=offline, thorough=thorough)
        elif thorough:
            raise UsageError(
                "thorough=True needs a detector given by name; configure your own detector instead"
            )
        classifier = Classifier.open(model, threads=threads, labels=None, reading=labels)
        return cls(classifier, detector, choice, tta=tta)

    @property
    def labels(self) -> tuple[str, ...]:
        """The model's emotions, in its order."""
        return self.classifier.labels

    @property
    def model(self) -> ModelInfo:
        """Name, version and hash of the model."""
        return self.classifier.manifest.info

    def analyze(
        self,
        image: ImageSource,
        *,
        color: str | None = None,
        on_no_face: str = "empty",
        allow_private: bool = False,
    ) -> Faces:
        """Detect the faces in an image and recognize their emotions.

        Args:
            image: path, http(s) address, bytes of an encoded file, binary file object, Pillow
                image, array or tensor. Arrays are uint8 (0-255) or float (0-1), (H, W) grey, or
                (H, W, 3) or (H, W, 4) with ``color``; see `mien.load_image`.
            color: channel order of an array, "rgb" or "bgr".
            on_no_face: "empty" returns an empty list without a face, "raise" raises NoFaceError.
            allow_private: also download from hosts that are not on the public internet.

        Returns:
            The faces, left to right, in a list that can also be displayed (`annotate`, `save`,
            `plot`, `to_pandas`) and holds the whole `result`.

        Raises:
            UnreadableImage: if the image is missing, damaged, or not an image.
            NoFaceError: if there is no face and ``on_no_face`` is "raise".
            UsageError: if an array or an option is invalid.

        Example:
            >>> recognizer = mien.load()
            >>> [face.emotion for face in recognizer.analyze("photo.jpg")]
        """
        check_choice("on_no_face", on_no_face, ON_NO_FACE)
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
        """Analyze several images and classify their faces in batches.

        One image is in memory at a time, so ``images`` may be a generator.

        Args:
            images: each as for `analyze`.
            color: channel order of all arrays, "rgb" or "bgr".
            sources: names of the images in the results; by default an image's path, if it has one.
            batch_size: faces per network call.
            allow_private: as for `analyze`.

        Returns:
            One result per image, in order, in a list that converts to a table (`to_pandas`). An
            unreadable image has the status "unreadable", another failure the status "error"; the
            remaining images are still analyzed.

        Raises:
            UsageError: if an array, an option or the number of sources is invalid.
            ModelError: if the network fails.
        """
        check_images(images, "analyze or analyze_result")
        batches, references = [], []
        for image, name in pair_sources(images, sources):
            source = name or source_name(image)
            batches.append(
                self.find(image, color=color, source=source, allow_private=allow_private)
            )
            references.append(image_reference(image, allow_private=allow_private))
        results = self.read(batches, batch_size=batch_size)
        return Results(
            result.remember_image(reference, color)
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
        """Run the first half of an analysis: load an image, detect its faces and crop them.

        Arguments and errors as `analyze_many`, for one image. Pass the batch to `read`.
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
        """Run the second half of an analysis: classify the faces of all batches together.

        Returns one result per batch, in order; errors as `analyze_many`.
        """
        check_list("batches", batches, FaceBatch, "a list of what find returns")
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
        """Classify face crops without face detection.

        Args:
            crops: arrays or tensors of any size, each as for `analyze`.
            color: channel order, "rgb" or "bgr".
            batch_size: faces per network call.

        Returns:
            Calibrated probabilities, float32 (N, classes), in the order of `labels`; rows sum to 1.

        Raises:
            UsageError: if a crop is invalid.
        """
        return self._classify(standard_faces(crops, color=color), batch_size)

    def _classify(
        self, faces: Sequence[npt.NDArray[np.uint8]], batch_size: int
    ) -> npt.NDArray[np.float32]:
        stacked = np.stack(faces) if faces else np.empty((0, FACE_SIZE, FACE_SIZE), np.uint8)
        return self.classifier.classify(stacked, augment=self.tta, batch_size=batch_size)

    def _result(self, batch: FaceBatch, rows: Sequence[npt.NDArray[np.float32]]) -> Result:
        columns = zip(batch.detections, batch.turns, batch.faces, rows, strict=True)
        return Result(
            source=batch.source,
            status=batch.status,
            model=self.model,
            width=batch.width,
            height=batch.height,
            faces=tuple(self._face(face_id, *row) for face_id, row in enumerate(columns)),
            error=batch.error,
        )

    def _face(
        self,
        face_id: int,
        detection: Detection,
        turn: float,
        crop: npt.NDArray[np.uint8],
        probabilities: npt.NDArray[np.float32],
    ) -> Face:
        quality = assess_quality(crop, detection.box, detection.landmarks)
        scores = dict(zip(self.labels, probabilities.tolist(), strict=True))
        emotion = self.labels[int(probabilities.argmax())]
        return Face(
            face_id=face_id,
            box=detection.box,
            face_confidence=detection.confidence,
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
