"""Writes the annotated video: H.264, each frame at its own time, the sound kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import OutputError
from mien.core.files import SOFTWARE, replacing
from mien.core.results import Face
from mien.inference.annotate import annotate
from mien.video.extra import load_av
from mien.video.frames import VideoFrame
from mien.video.opening import opened, reason_of
from mien.video.reading import VideoInfo
from mien.video.sound import SoundTrack
from mien.video.times import Window

_LIVE_TIME_BASE = Fraction(1, 90_000)
_LIVE_RATE = 25.0
# Good enough that nobody sees the encoding, quick enough that detection stays the slow part.
_ENCODING = {"preset": "veryfast", "crf": "20"}


class AnnotatedVideo:
    """An annotated video that is being written; `writing` makes one."""

    def __init__(self, target: Any, info: VideoInfo | None, start_s: float) -> None:
        """Write into an open container; ``info`` is of the original, None where it is live."""
        self._target = target
        self._start_s = start_s
        self._time_base = _LIVE_TIME_BASE if info is None else info.time_base
        rate = _LIVE_RATE if info is None else info.rate
        self._stream = target.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.options = dict(_ENCODING)
        self._stream.time_base = self._time_base
        self._stream.codec_context.time_base = self._time_base
        self._size: tuple[int, int] | None = None
        self._pts = -1
        self.frames = 0
        self.sound: SoundTrack | None = None

    def write(self, frame: VideoFrame, faces: Sequence[Face]) -> None:
        """Draw the faces on a frame, smoothed where they are, and write it at its own time."""
        drawn = np.asarray(annotate(frame.pixels, [shown(face) for face in faces]), np.uint8)
        picture = self._fitted(drawn)
        time_s = frame.time_s - self._start_s
        if self.sound is not None:
            self.sound.write_until(time_s)
        encoded = load_av().VideoFrame.from_ndarray(picture, format="rgb24")
        self._pts = max(self._pts + 1, round(time_s / self._time_base))
        encoded.pts, encoded.time_base = self._pts, self._time_base
        self._target.mux(self._stream.encode(encoded))
        self.frames += 1

    def finish(self) -> None:
        """Write what is still held back."""
        if self._size is not None:
            self._target.mux(self._stream.encode(None))
        if self.sound is not None:
            self.sound.write_until(None)

    def _fitted(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return a picture of the first one's size, with even sides, as H.264's colours need."""
        height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
        if self._size is None:
            self._size = (height, width)
            self._stream.height, self._stream.width = height, width
        if (height, width) != self._size:
            size = (self._size[1], self._size[0])
            return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        return np.ascontiguousarray(picture[:height, :width])


@contextmanager
def writing(
    path: Path,
    info: VideoInfo | None,
    *,
    window: Window,
    sound_of: str | None = None,
    allow_private: bool = False,
) -> Iterator[AnnotatedVideo]:
    """Give an annotated video to write frames to; it takes its name when it is complete.

    Args:
        path: its name's ending (`WRITTEN_SUFFIXES`) is its format.
        info: of the original; None for a stream or a camera.
        window: which part of the original it shows: times count from its start.
        sound_of: the original, if its sound is to be kept.
        allow_private: as `mien.video.opening.opened` has it, for that.

    Raises:
        OutputError: if it cannot be written.
    """
    av = load_av("writing a video")
    options = {} if path.suffix.lower() == ".mkv" else {"movflags": "+faststart"}
    with replacing(path) as temporary:
        try:
            with ExitStack() as stack:
                target = stack.enter_context(
                    av.open(f"file:{temporary}", "w", container_options=options)
                )
                # The one key that MP4, QuickTime and Matroska all keep as it is given.
                target.metadata["comment"] = SOFTWARE
                video = AnnotatedVideo(target, info, window.start)
                if sound_of is not None:
                    source = stack.enter_context(opened(sound_of, allow_private=allow_private))
                    video.sound = SoundTrack(source, target, window)
                yield video
                video.finish()
        except av.error.FFmpegError as error:
            raise OutputError(f"cannot write {path}: {reason_of(error)}") from error


def shown(face: Face) -> Face:
    """Return a face with its smoothed scores for its own, which flicker less."""
    if face.smoothed is None:
        return face
    return replace(
        face,
        emotion=face.smoothed.emotion,
        confidence=face.smoothed.confidence,
        scores=face.smoothed.scores,
    )
