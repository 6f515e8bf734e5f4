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
from mien.core.web import redact_address
from mien.inference.recognizer import Recognizer
from mien.video.baseline import Baseline
from mien.video.charts import History, Portraits, draw_timeline, plot_history
from mien.video.frames import BrokenVideo, VideoFrame
from mien.video.live import PATIENCE_S, LiveStream, camera_frames, connected, stream_frames
from mien.video.reader import read_video
from mien.video.summary import EventTable, Marker, Markers, Person, Summary, markers_of
from mien.video.times import Window
from mien.video.tracker import SMOOTHING_S, CutFinder, Smoother, Tracker, memory_for, tracked

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
    events = () if markers is None else markers_of(markers)
    smoother = Smoother(smooth_s)
    live = connected(source, allow_private=allow_private)
    frames = frames_of(source, live, window, allow_private=allow_private)
    name = redact_address(str(source))
    readers = readers_for(live)
    moments = follow(recognizer, frames, name, window=window, smoother=smoother, readers=readers)
    gap_s = memory_for(window.every)
    overview = Overview(name, recognizer.labels, gap_s=gap_s, baseline=neutral, markers=events)
    return VideoResults(moments, overview, has_markers=markers is not None)


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


class Overview:
    """What is told of a whole video, gathered while its results pass by; keeps none of them."""

    def __init__(
        self,
        name: str,
        labels: Sequence[str],
        *,
        gap_s: float,
        baseline: Baseline | None = None,
        markers: Sequence[Marker] = (),
        draws: bool = True,
    ) -> None:
        """Begin a video.

        Args:
            name: the video's.
            labels: the model's.
            gap_s: seconds for which a frame, or a person who is out of sight, lasts at most.
            baseline: corrects the results.
            markers: events; those of other videos play no role.
            draws: whether there will be a `timeline` or a `plot`.
        """
        self.name, self.labels, self.baseline = name, labels, baseline
        self.summary = Summary(gap_s=gap_s)
        self._draws, self._history, self._portraits = draws, History(), Portraits()
        self._events = EventTable([one for one in markers if one.is_of(name)], labels, gap_s=gap_s)

    def take(self, moment: Moment) -> list[Result]:
        """Take the next moment; return the results that are ready by now, corrected."""
        if moment.result is None:
            return []
        self.summary.add(moment.result)
        if self._draws:
            self._history.add(moment.result)
            if moment.frame is not None:
                self._portraits.add_faces(moment.frame.pixels, moment.result)
        if self.baseline is None:
            return self._counted([moment.result])
        return self._counted(self.baseline.add(moment.result))

    def finish(self) -> list[Result]:
        """Return the results that are left at the end of the video."""
        return [] if self.baseline is None else self._counted(self.baseline.finish())

    def _counted(self, results: list[Result]) -> list[Result]:
        for result in results:
            self._events.add(result)
        return results

    def events(self) -> list[dict[str, Any]]:
        """Return the rows of the events, as `mien.video.summary.event_columns` names them."""
        rows = self._events.rows(corrected=self.baseline is not None)
        return [{"source": self.name} | row for row in rows]

    def timeline(self) -> Image.Image:
        """Return the emotions of each person over time as a picture."""
        return draw_timeline(
            self._history,
            self.summary.people(),
            title=self.name,
            labels=self.labels,
            portraits=self._portraits.pictures,
        )

    def plot(self) -> list[Axes]:
        """Show the smoothed scores of each person with Matplotlib, a chart for each."""
        return plot_history(self._history, title=self.name, labels=self.labels)


class VideoResults(Iterator[Result]):
    """The results of a video's frames, as they come, and what they tell of all of it.

    They are read once: `timeline`, `people`, `events` and `plot` read what is left and tell of
    everything.
    """

    def __init__(
        self, moments: Generator[Moment, None, None], overview: Overview, *, has_markers: bool
    ) -> None:
        """Take the frames and their results, and an overview that has seen none of them."""
        self._moments, self._overview, self._has_markers = moments, overview, has_markers
        self._ready: deque[Result] = deque()
        self._has_begun = False

    def __next__(self) -> Result:
        """Return the result of the next frame that is looked at."""
        self._has_begun = True
        while not self._ready:
            moment = next(self._moments, None)
            if moment is None:
                self._ready.extend(self._overview.finish())
                break
            self._ready.extend(self._overview.take(moment))
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def close(self) -> None:
        """Let go of the video before its end."""
        self._moments.close()

    def people(self) -> list[Person]:
        """Return everybody in the video, with what they felt from when to when."""
        return self._read().summary.people()

    def events(self) -> list[dict[str, Any]]:
        """Return a row for each marked event and person, as ``mien predict --events`` writes them.

        Mean scores, valence and shares of time, with those that a baseline corrected beside them.

        Raises:
            UsageError: if no markers were given.
        """
        if not self._has_markers:
            raise UsageError("there are no events: give analyze_video(..., markers=...)")
        return self._read().events()

    def timeline(self) -> Image.Image:
        """Return the emotions of each person over time as a picture."""
        return self._read().timeline()

    def plot(self) -> list[Axes]:
        """Show the smoothed scores of each person over time with Matplotlib, a chart for each.

        Raises:
            MissingExtra: if Matplotlib is not installed.
        """
        return self._read().plot()

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

    def _read(self) -> Overview:
        """Read what is left, and return what it all tells."""
        deque(self, maxlen=0)
        return self._overview


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
        allow_private: as `mien.video.reader.opened` has it, for a file; ``live`` knows its own.
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
) -> Generator[Moment, None, None]:
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
        found = tracked(found, time_s, self._tracker, self._smoother)
        return replace(found, frame=frame.number, time_s=time_s)
