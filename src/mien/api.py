"""`mien.Recognizer`: emotions of faces in images and videos, and their explanations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mien.core.images import ImageSource
from mien.inference.recognizer import Recognizer as ImageRecognizer

if TYPE_CHECKING:
    from mien.inference.explain import ExplainedFace, ExplainedImage
    from mien.video.analysis import VideoResults
    from mien.video.summary import Markers


class Recognizer(ImageRecognizer):
    """Detects faces and classifies their emotions in images and videos; thread-safe."""

    def explain(
        self,
        image: ImageSource,
        *,
        color: str | None = None,
        emotion: str | None = None,
        face_id: int | None = None,
        method: str = "occlusion",
        allow_private: bool = False,
    ) -> list[ExplainedFace]:
        """Explain the emotions of the faces in an image with heat maps.

        Args:
            image: as in `analyze`.
            color: channel order of an array, "rgb" or "bgr".
            emotion: class to explain; each face's likeliest unless given.
            face_id: explain only this face, counted from 0, left to right.
            method: "occlusion", for any model, or "gradcam", which is faster and coarser.
            allow_private: as in `analyze`.

        Returns:
            The faces, left to right, each with its heat map; empty if there are none.

        Raises:
            UnreadableImage: if the image cannot be read.
            UsageError: if an option is invalid, or there is no such face.
            ModelError: if "gradcam" does not support the head of the model.

        Example:
            >>> [face.explanation.part for face in mien.load().explain("photo.jpg")]
        """
        from mien.inference.explain import explain  # imported only if used

        return explain(
            self,
            image,
            color=color,
            emotion=emotion,
            face_id=face_id,
            method=method,
            allow_private=allow_private,
        )

    def explain_many(
        self,
        images: Iterable[ImageSource],
        *,
        color: str | None = None,
        emotion: str | None = None,
        method: str = "occlusion",
        allow_private: bool = False,
    ) -> list[ExplainedImage]:
        """Explain the faces of several images, one after another; arguments as in `explain`.

        Returns:
            The ``result`` and the explained ``faces`` of each image. An image that cannot be read
            has a result with the status "unreadable".

        Raises:
            UsageError: if ``images`` are not images, or an option is invalid.
            ModelError: as in `explain`.

        Example:
            >>> [len(image.faces) for image in mien.load().explain_many(["a.jpg", "b.jpg"])]
        """
        from mien.inference.explain import explain_many

        return explain_many(
            self,
            images,
            color=color,
            emotion=emotion,
            method=method,
            allow_private=allow_private,
        )

    def analyze_video(
        self,
        source: str | Path | int,
        *,
        every: float | None = None,
        start: float = 0.0,
        end: float | None = None,
        smooth_s: float = 0.5,
        baseline: tuple[float, float] | None = None,
        markers: Markers | None = None,
        allow_private: bool = False,
    ) -> VideoResults:
        """Track the faces of a video and classify their emotions, with one result per frame.

        Memory use is bounded, whatever the length of the video.

        Args:
            source: a file, the address of a stream (rtsp, http, ...), or the number of a camera.
            every: seconds between two analyzed frames; every frame unless given.
            start: seconds from the start of the video at which analysis begins.
            end: seconds from the start of the video at which analysis ends; its end unless given.
            smooth_s: time constant of the smoothed scores, in seconds; 0 for no smoothing.
            baseline: start and end, in seconds, of a part in which everyone is neutral. Faces get
                scores ``corrected`` by their own baseline; results are held back until its end.
            markers: events for the `events` of the results: a CSV file with the columns start, end
                and label, or a list of (start, end, label), times in seconds.
            allow_private: allow http(s) hosts that are not on the public internet.

        Returns:
            An iterator of results with ``frame`` and ``time_s``, whose faces have a ``track_id``
            (one per person and video) and ``smoothed`` scores. A frame without faces has the
            status "no_face"; a video that breaks off ends with a result "unreadable". The iterator
            also has `timeline`, `people`, `events`, `plot` and `to_pandas` for the whole video.

        Raises:
            InputError: if the source is missing, is not a video or has no pictures, or the markers
                cannot be read.
            MissingExtra: if PyAV is not installed (not needed for cameras).
            UsageError: if a time is invalid, or a baseline is given and the model has no class
                neutral.

        Example:
            >>> for result in mien.load().analyze_video("clip.mp4", every=0.5):
            ...     print(result.time_s, [face.emotion for face in result.faces])
        """
        from mien.video.analysis import analyze_video  # imported only if used

        return analyze_video(
            self,
            source,
            every=every,
            start=start,
            end=end,
            smooth_s=smooth_s,
            baseline=baseline,
            markers=markers,
            allow_private=allow_private,
        )


load = Recognizer.load
