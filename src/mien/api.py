"""The recognizer that mien gives its users: of images and, in one class with it, of videos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mien.core.results import Result
from mien.inference.recognizer import Recognizer as ImageRecognizer


class Recognizer(ImageRecognizer):
    """Finds faces and reads their emotions, in images and videos; threads may share it."""

    def analyze_video(
        self,
        source: str | Path | int,
        *,
        every: float | None = None,
        start: float = 0.0,
        end: float | None = None,
        smooth_s: float = 0.5,
        allow_private: bool = False,
    ) -> Iterator[Result]:
        """Track the faces of a video and read their emotions, a result for each frame.

        One frame is in memory at a time, however long the video is.

        Args:
            source: a file's path, a stream's address (rtsp, http, ...), or a camera's number.
            every: seconds between two frames that are looked at; each frame unless given.
            start: seconds from the video's start, from which on.
            end: seconds, up to which; to its end unless given.
            smooth_s: time constant, in seconds, of the smoothed scores; 0 for none.
            allow_private: allow http(s) to hosts that are not on the open internet.

        Yields:
            Results with ``frame`` and ``time_s``; their faces have a ``track_id``, the person's
            number throughout the video, and ``smoothed`` scores. A frame without faces has the
            status "no_face". A video that breaks off ends with a result "unreadable".

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
