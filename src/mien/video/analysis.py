"""From frames to results: faces found, tracked, read and smoothed over the time of a video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mien.core.results import Result
from mien.core.web_address import shown_address
from mien.inference.recognizer import Recognizer
from mien.video.frames import BrokenVideo, VideoFrame
from mien.video.live import (
    PATIENCE_S,
    LiveStream,
    camera_frames,
    connected,
    stream_frames,
)
from mien.video.reader import read_video
from mien.video.times import Window
from mien.video.tracker import SMOOTHING_S, CutFinder, Smoother, Tracker, memory_for

VideoSource = str | Path | int
"""A file's path, a stream's address, or a camera's number."""


@dataclass(frozen=True)
class Moment:
    """A frame and its result.

    Attributes:
        frame: the frame, or None where a video broke off.
        result: what was found; None for a frame that was not looked at.
    """

    frame: VideoFrame | None
    result: Result | None


def analyze_video(
    recognizer: Recognizer,
    source: VideoSource,
    *,
    every: float | None = None,
    start: float = 0.0,
    end: float | None = None,
    smooth_s: float = SMOOTHING_S,
    allow_private: bool = False,
) -> Iterator[Result]:
    """Yield the result of each frame that is looked at; as `mien.Recognizer.analyze_video`."""
    window = Window(start, end, every)
    smoother = Smoother(smooth_s)
    live = connected(source, allow_private=allow_private)
    frames = frames_of(source, live, window, allow_private=allow_private)
    name = shown_address(str(source))
    moments = follow(recognizer, frames, name, window=window, smoother=smoother)
    return (moment.result for moment in moments if moment.result is not None)


def frames_of(
    source: VideoSource,
    live: LiveStream | int | None,
    window: Window,
    *,
    patience_s: float = PATIENCE_S,
    allow_private: bool = False,
) -> Iterator[VideoFrame]:
    """Return the frames of a file, a stream or a camera.

    Args:
        source: which.
        live: what `mien.video.live.connected` gives for it.
        window: which part.
        patience_s: how long to try again after a stream is lost.
        allow_private: as `mien.video.opening.opened` has it, for a file; ``live`` knows its own.
    """
    if live is None:
        return read_video(str(source), window, allow_private=allow_private)
    if isinstance(live, int):
        return camera_frames(live, window)
    return stream_frames(live, window, patience_s=patience_s)


def follow(
    recognizer: Recognizer,
    frames: Iterable[VideoFrame],
    source: str,
    *,
    window: Window | None = None,
    smoother: Smoother | None = None,
) -> Iterator[Moment]:
    """Find, track and read the faces of frames, one frame in memory at a time.

    Args:
        recognizer: reads each frame.
        frames: in the order they are shown.
        source: the name that results get.
        window: its ``every`` tells which frames are looked at; all unless given.
        smoother: of the scores.

    Yields:
        A moment for each frame. A video that breaks off ends with one without a frame, whose
        result has the status "unreadable".

    Raises:
        InputError: if there is nothing to read at all.
    """
    window = window or Window()
    people = _People(smoother or Smoother(), memory_for(window.every))
    last_step: int | None = None
    try:
        for frame in frames:
            step = window.step(frame.time_s)
            if step is not None and step == last_step:
                yield Moment(frame, None)
                continue
            last_step = step
            found = recognizer.analyze_result(frame.pixels, color="rgb", source=source)
            yield Moment(frame, people.identify(found, frame))
    except BrokenVideo as error:
        broken = Result(
            source, "unreadable", recognizer.model, time_s=error.time_s, error=str(error)
        )
        yield Moment(None, broken)


class _People:
    """The people of a video: their numbers and their smoothed scores."""

    def __init__(self, smoother: Smoother, memory_s: float) -> None:
        self._tracker = Tracker(memory_s=memory_s)
        self._smoother = smoother
        self._memory_s = memory_s
        self._cuts = CutFinder()
        self._size: tuple[int, int] | None = None

    def identify(self, found: Result, frame: VideoFrame) -> Result:
        """Give a frame's faces their people's numbers and smoothed scores."""
        time_s = frame.time_s
        if self._cuts.is_cut(time_s, frame.pixels):
            self._tracker.forget()
        height, width = frame.pixels.shape[:2]
        if self._size is not None and (height, width) != self._size:
            self._tracker.rescale(width / self._size[1], height / self._size[0])
        self._size = (height, width)
        numbers = self._tracker.update(time_s, [face.box for face in found.faces])
        faces = tuple(
            replace(
                face,
                track_id=number,
                smoothed=self._smoother.update(time_s, number, face.scores),
            )
            for face, number in zip(found.faces, numbers, strict=True)
        )
        self._smoother.forget_before(time_s - self._memory_s)
        return replace(found, faces=faces, frame=frame.number, time_s=time_s)
