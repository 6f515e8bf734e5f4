"""The recognizer that mien gives its users: of images and, in one class with it, of videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mien.core.images import ImageSource
from mien.inference.recognizer import Recognizer as ImageRecognizer

if TYPE_CHECKING:
    from mien.inference.explain import ExplainedFace
    from mien.video.analysis import VideoResults


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
    ) -> list[ExplainedFace]:
        """Find the faces in an image, read their emotions, and say what speaks for them.

        Args:
            image: as in `analyze`.
            color: the order of an array's channels, "rgb" or "bgr".
            emotion: the class to explain; each face's likeliest unless given.
            face_id: explain this face alone, counted from 0, left to right.
            method: "occlusion", which takes any model, or "gradcam", which is quicker and coarser.

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

        return explain(self, image, color=color, emotion=emotion, face_id=face_id, method=method)

    def analyze_video(
        self,
        source: str | Path | int,
        *,
        every: float | None = None,
        start: float = 0.0,
        end: float | None = None,
        smooth_s: float = 0.5,
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
            allow_private: allow http(s) to hosts that are not on the open internet.

        Returns:
            An iterator of results with ``frame`` and ``time_s``; their faces have a ``track_id``,
            the person's number throughout the video, and ``smoothed`` scores. A frame without faces
            has the status "no_face". A video that breaks off ends with a result "unreadable". The
            iterator also has the whole video's `timeline`, `people`, `plot` and `to_pandas`.

        Raises:
            InputError: if it is missing, is not a video, or has no picture.
            MissingExtra: if PyAV is not installed (a camera needs none).
            UsageError: if a time is not as above.

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
            allow_private=allow_private,
        )


load = Recognizer.load
