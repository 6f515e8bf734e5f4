"""The recognizer that mien gives its users: of images and, in one class with it, of videos."""

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
    """Finds faces and reads their emotions, in images and videos; threads may share it."""

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
        """Find the faces in an image, read their emotions, and say what speaks for them.

        Args:
            image: as in `analyze`.
            color: the order of an array's channels, "rgb" or "bgr".
            emotion: the class to explain; each face's likeliest unless given.
            face_id: explain this face alone, counted from 0, left to right.
            method: "occlusion", which takes any model, or "gradcam", which is quicker and coarser.
            allow_private: as in `analyze`.

        Returns:
            The faces, left to right, each with its heat map; empty where there is none.

        Raises:
            UnreadableImage: if the image cannot be read.
            UsageError: if an option is not as above, or there is no such face.
            ModelError: if the method is "gradcam" and the model's head is of another kind.

        Example:
            >>> [found.explanation.part for found in mien.load().explain("photo.jpg")]
        """
        from mien.inference.explain import explain  # whoever reads emotions does not need it

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
        """Explain the faces of images, one after the other; arguments as `explain`.

        Returns:
            For each image its ``result`` and its ``faces``. One that cannot be read has a result
            that says so, and the others still run.

        Raises:
            UsageError: if these are not images, or an option is not as in `explain`.
            ModelError: as `explain`.

        Example:
            >>> [len(one.faces) for one in mien.load().explain_many(["a.jpg", "b.jpg"])]
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
        """Track the faces of a video and read their emotions, a result for each frame.

        A bounded number of frames is in memory, however long the video is.

        Args:
            source: a file's path, a stream's address (rtsp, http, ...), or a camera's number.
            every: seconds between two frames that are looked at; each frame unless given.
            start: seconds from the video's start, from which on.
            end: seconds, up to which; to its end unless given.
            smooth_s: time constant, in seconds, of the smoothed scores; 0 for none.
            baseline: start and end, in seconds, of the part in which everybody is neutral: faces
                get scores ``corrected`` by their own. Results come once the baseline has ended.
            markers: events, for `events` of what is returned: a CSV file with the columns start,
                end and label, or a list of (start, end, label), times in seconds.
            allow_private: allow http(s) to hosts that are not on the public internet.

        Returns:
            An iterator of results with ``frame`` and ``time_s``; their faces have a ``track_id``,
            the person's number throughout the video, and ``smoothed`` scores. A frame without faces
            has the status "no_face". A video that breaks off ends with a result "unreadable". The
            iterator also has the whole video's `timeline`, `people`, `events`, `plot` and
            `to_pandas`.

        Raises:
            InputError: if it is missing, is not a video, or has no picture, or if the markers
                cannot be read.
            MissingExtra: if PyAV is not installed (a camera needs none).
            UsageError: if a time is not as above, or the model has no neutral for a baseline.

        Example:
            >>> for result in mien.load().analyze_video("clip.mp4", every=0.5):
            ...     print(result.time_s, [face.emotion for face in result.faces])
        """
        from mien.video.analysis import analyze_video  # whoever reads photos does not need it

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
