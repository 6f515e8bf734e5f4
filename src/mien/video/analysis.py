"""From frames to results: faces found, tracked, read and smoothed over the time of a video."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import InputError, UsageError
from mien.core.process import usable_cores
from mien.core.results import Result, to_pandas
from mien.core.web_address import shown_address
from mien.inference.recognizer import Recognizer
from mien.video.baseline import Baseline
from mien.video.episodes import Person, Summary
from mien.video.events import EventTable, Marker, Markers, markers_of
from mien.video.frames import BrokenVideo, VideoFrame
from mien.video.live import (
    PATIENCE_S,
    LiveStream,
    camera_frames,
    connected,
    stream_frames,
)
from mien.video.reader import read_video
from mien.video.timeline import History, Portraits, draw_timeline, plot_history
from mien.video.times import Window
from mien.video.tracker import SMOOTHING_S, CutFinder, Smoother, Tracker, memory_for

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from PIL import Image

VideoSource = str | Path | int
"""A file's path, a stream's address, or a camera's number."""

MAX_READERS = 8
"""So many threads read the frames of a file at most."""

# A file's frames are read in chunks of so many frames or pixels, whose faces go through the network
# together; so many pixels are held at once, beside one chunk.
_CHUNK_FRAMES = 8
_CHUNK_PIXELS = 4_000_000
_HELD_PIXELS = 64_000_000


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
    baseline: tuple[float, float] | None = None,
    markers: Markers | None = None,
    allow_private: bool = False,
) -> VideoResults:
    """Give the result of each frame that is looked at; as `mien.Recognizer.analyze_video`."""
    window = Window(start, end, every)
    neutral = None if baseline is None else _baseline(recognizer, baseline)
    events = None if markers is None else markers_of(markers)
    smoother = Smoother(smooth_s)
    live = connected(source, allow_private=allow_private)
    frames = frames_of(source, live, window, allow_private=allow_private)
    name = shown_address(str(source))
    readers = readers_for(live)
    moments = follow(recognizer, frames, name, window=window, smoother=smoother, readers=readers)
    return VideoResults(
        moments,
        name,
        recognizer.labels,
        gap_s=memory_for(window.every),
        baseline=neutral,
        markers=events,
    )


def _baseline(recognizer: Recognizer, span: tuple[float, float]) -> Baseline:
    try:
        start, end = map(float, span)
    except (TypeError, ValueError):
        start, end = 0.0, 0.0
    if not 0 <= start < end:
        raise UsageError(
            f"expected a baseline as (start, end) in seconds, the end after the start, got {span!r}"
        )
    return Baseline(recognizer.labels, start, end)


class VideoResults(Iterator[Result]):
    """The results of a video's frames, as they come, and what they tell of all of it.

    They are read once: `timeline`, `people`, `events` and `plot` read what is left and tell of
    everything.
    """

    def __init__(
        self,
        moments: Iterator[Moment],
        name: str,
        labels: Sequence[str],
        *,
        gap_s: float,
        baseline: Baseline | None = None,
        markers: Sequence[Marker] | None = None,
    ) -> None:
        """Take the frames and their results, and what is to be told of them.

        Args:
            moments: frames and their results.
            name: the video's.
            labels: the model's.
            gap_s: seconds for which a frame, or a person who is out of sight, lasts at most.
            baseline: corrects the results.
            markers: the events that `events` tells of.
        """
        self._moments, self._name, self._labels = moments, name, labels
        self._summary, self._history, self._portraits = Summary(gap_s=gap_s), History(), Portraits()
        self._baseline = baseline
        self._markers = None if markers is None else [one for one in markers if one.is_of(name)]
        self._events = EventTable(self._markers or (), labels, gap_s=gap_s)
        self._ready: deque[Result] = deque()
        self._has_begun = False

    def __next__(self) -> Result:
        """Return the result of the next frame that is looked at."""
        self._has_begun = True
        while not self._ready:
            moment = next(self._moments, None)
            if moment is None:
                self._give(() if self._baseline is None else self._baseline.finish())
                break
            if moment.result is not None:
                self._take(moment.frame, moment.result)
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def _take(self, frame: VideoFrame | None, result: Result) -> None:
        self._summary.add(result)
        self._history.add(result)
        if frame is not None:
            self._portraits.add_faces(frame.pixels, result)
        self._give([result] if self._baseline is None else self._baseline.add(result))

    def _give(self, results: Iterable[Result]) -> None:
        for result in results:
            self._events.add(result)
            self._ready.append(result)

    def close(self) -> None:
        """Let go of the video before its end."""
        if isinstance(self._moments, Generator):
            self._moments.close()

    def people(self) -> list[Person]:
        """Return everybody in the video, with what they felt from when to when."""
        self._read_on()
        return self._summary.people()

    def events(self) -> list[dict[str, Any]]:
        """Return a row for each marked event and person, as ``mien predict --events`` writes them.

        Mean scores, valence and shares of time, with those that a baseline corrected beside them.

        Raises:
            UsageError: if no markers were given.
        """
        if self._markers is None:
            raise UsageError("there are no events: give analyze_video(..., markers=...)")
        self._read_on()
        rows = self._events.rows(corrected=self._baseline is not None)
        return [{"source": self._name} | row for row in rows]

    def timeline(self) -> Image.Image:
        """Return the emotions of each person over time as a picture."""
        return draw_timeline(
            self._history,
            self.people(),
            title=self._name,
            labels=self._labels,
            portraits=self._portraits.pictures,
        )

    def plot(self) -> list[Axes]:
        """Show the smoothed scores of each person over time with Matplotlib, a chart for each.

        Raises:
            MissingExtra: if Matplotlib is not installed.
        """
        self._read_on()
        return plot_history(self._history, title=self._name, labels=self._labels)

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of all frames and faces, as `mien.to_pandas` does.

        Raises:
            UsageError: if some frames were read before.
            MissingExtra: if pandas is not installed.
        """
        if self._has_begun:
            raise UsageError(
                "this video has been read from: to_pandas() comes first, or "
                "mien.to_pandas(results) of the results that were kept"
            )
        return to_pandas(self)

    def _read_on(self) -> None:
        for _ in self:
            pass


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


def readers_for(live: LiveStream | int | None) -> int:
    """Return how many threads read a source's frames ahead: none of what is live."""
    return min(usable_cores(), MAX_READERS) if live is None else 0


def follow(
    recognizer: Recognizer,
    frames: Iterable[VideoFrame],
    source: str,
    *,
    window: Window | None = None,
    smoother: Smoother | None = None,
    readers: int = 0,
) -> Iterator[Moment]:
    """Find, track and read the faces of frames, a bounded number of them in memory at a time.

    Args:
        recognizer: reads each frame.
        frames: in the order they are shown.
        source: the name that results get.
        window: its ``every`` tells which frames are looked at; all unless given.
        smoother: of the scores.
        readers: threads that read frames ahead, in chunks, while others are decoded here; 0 reads
            each frame before the next one is asked for. The results are the same.

    Yields:
        A moment for each frame. A video that breaks off ends with one without a frame, whose
        result has the status "unreadable".

    Raises:
        InputError: if there is nothing to read at all.
    """
    window = window or Window()
    people = _People(smoother or Smoother(), memory_for(window.every))
    chosen = _chosen(frames, window)
    reader = _Reader(recognizer, source)
    found = reader.read_ahead(chosen, readers) if readers else reader.read(chosen)
    try:
        for frame, result in found:
            yield Moment(frame, None if result is None else people.identify(result, frame))
    except BrokenVideo as error:
        broken = Result(
            source, "unreadable", recognizer.model, time_s=error.time_s, error=str(error)
        )
        yield Moment(None, broken)


def _chosen(frames: Iterable[VideoFrame], window: Window) -> Iterator[_Chosen]:
    """Yield each frame, and whether it is looked at."""
    last_step: int | None = None
    for frame in frames:
        step = window.step(frame.time_s)
        yield frame, step is None or step != last_step
        last_step = step


# ---------------------------------------------------------------- reading frames
_Chosen = tuple[VideoFrame, bool]
_Read = tuple[VideoFrame, Result | None]


class _Reader:
    """Reads the faces of frames; each comes out in order, None for one that is not looked at."""

    def __init__(self, recognizer: Recognizer, source: str) -> None:
        self._recognizer = recognizer
        self._source = source
        self._stopped = threading.Event()

    def read(self, frames: Iterable[_Chosen]) -> Iterator[_Read]:
        """Read each frame before the next one is asked for."""
        for each in frames:
            yield from self._read_chunk([each])

    def read_ahead(self, frames: Iterable[_Chosen], readers: int) -> Iterator[_Read]:
        """Read chunks of frames in threads, while the frames after them are decoded here."""
        pending: deque[tuple[Future[list[_Read]], int]] = deque()
        held, broken = 0, None
        pool = ThreadPoolExecutor(readers, "mien-video")
        try:
            try:
                for chunk in _chunks(frames):
                    area = sum(frame.area for frame, _ in chunk)
                    pending.append((pool.submit(self._read_chunk, chunk), area))
                    held += area
                    del chunk
                    while len(pending) > readers + 1 or (held > _HELD_PIXELS and len(pending) > 1):
                        done, area = pending.popleft()
                        held -= area
                        yield from done.result()
            except InputError as error:  # after the results of the frames before it
                broken = error
            while pending:
                yield from pending.popleft()[0].result()
            if broken is not None:
                raise broken
        finally:
            self._stopped.set()
            pool.shutdown(cancel_futures=True)

    def _read_chunk(self, chunk: list[_Chosen]) -> list[_Read]:
        looked_at = [frame for frame, is_looked_at in chunk if is_looked_at]
        results = iter(
            self._recognizer.analyze_many(
                self._pictures(looked_at), color="rgb", sources=[self._source] * len(looked_at)
            )
        )
        return [(frame, next(results) if is_looked_at else None) for frame, is_looked_at in chunk]

    def _pictures(self, frames: list[VideoFrame]) -> Iterator[npt.NDArray[np.uint8]]:
        for frame in frames:
            if self._stopped.is_set():
                raise _Stopped
            yield frame.pixels


class _Stopped(Exception):
    """Nobody waits for the results any more."""


def _chunks(frames: Iterable[_Chosen]) -> Iterator[list[_Chosen]]:
    """Yield frames in chunks; what is left before an error comes before it."""
    chunk: list[_Chosen] = []
    area = 0
    try:
        for each in frames:
            chunk.append(each)
            area += each[0].area
            if len(chunk) == _CHUNK_FRAMES or area >= _CHUNK_PIXELS:
                yield chunk
                chunk, area = [], 0
    except InputError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


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
