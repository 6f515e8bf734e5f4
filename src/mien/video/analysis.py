"""Video analysis: faces detected, tracked, classified and smoothed over the frames of a video."""

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

from mien.core.checks import invalid
from mien.core.errors import InputError, UsageError
from mien.core.process import usable_cores
from mien.core.results import Result, to_pandas
from mien.core.web import redact_address
from mien.inference.recognizer import Recognizer
from mien.video.charts import Portraits, ScoreHistory, draw_timeline, plot_history
from mien.video.frames import BrokenVideo, VideoFrame, Window
from mien.video.live import (
    RECONNECT_TIMEOUT_S,
    LiveStream,
    camera_frames,
    connect,
    stream_frames,
)
from mien.video.reader import read_video
from mien.video.summary import EventTable, Marker, Markers, Person, Summary, parse_markers
from mien.video.tracker import (
    SMOOTHING_S,
    Baseline,
    CutDetector,
    Smoother,
    Tracker,
    track_faces,
    track_memory,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from PIL import Image

VideoSource = str | Path | int
"""A file's path, a stream's address, or a camera's number."""


# ---------------------------------------------------------------- frames to results
MAX_THREADS = 8
# Frames of a file are analyzed in chunks, whose faces are classified together.
_CHUNK_FRAMES = 8
_CHUNK_PIXELS = 4_000_000
_MAX_HELD_PIXELS = 64_000_000  # besides one chunk

_Selected = tuple[VideoFrame, bool]
"""A frame, and whether it is analyzed."""

_Analyzed = tuple[VideoFrame, Result | None]


@dataclass(frozen=True)
class AnalyzedFrame:
    """A frame and its result."""

    frame: VideoFrame | None  # None where a video ended early
    result: Result | None  # None if the frame was not selected for analysis


def open_frames(
    source: VideoSource,
    live: LiveStream | int | None,
    window: Window,
    *,
    reconnect_s: float = RECONNECT_TIMEOUT_S,
    allow_private: bool = False,
) -> Iterator[VideoFrame]:
    """Return the frames of a file, or of the stream or camera that `connect` returned as ``live``.

    Arguments as `stream_frames` and, for files, `read_video`.
    """
    if live is None:
        return read_video(str(source), window, allow_private=allow_private)
    if isinstance(live, int):
        return camera_frames(live, window)
    return stream_frames(live, window, reconnect_s=reconnect_s)


def analysis_threads(live: LiveStream | int | None) -> int:
    """Return the number of threads to analyze a source with; 0 for live sources."""
    return min(usable_cores(), MAX_THREADS) if live is None else 0


def analyze_frames(
    recognizer: Recognizer,
    frames: Iterable[VideoFrame],
    source: str,
    *,
    window: Window | None = None,
    smoother: Smoother | None = None,
    threads: int = 0,
) -> Generator[AnalyzedFrame, None, None]:
    """Detect, track and classify the faces of frames, with a bounded number of them in memory.

    Args:
        recognizer: analyzes each frame.
        frames: in presentation order.
        source: the video's name in results.
        window: its ``every`` selects frames; all if None.
        smoother: of the scores.
        threads: number of threads that analyze chunks of frames while the next ones are decoded; 0
            analyzes each frame before the next one is requested. The results are the same.

    Yields:
        Every frame with its result. A video that ends early is followed by a result without a
        frame, with the status "unreadable".

    Raises:
        InputError: if no frame can be read.
    """
    window = window or Window()
    identifier = _Identifier(smoother or Smoother(), track_memory(window.every))
    selected = _select(frames, window)
    analyzer = _FrameAnalyzer(recognizer, source)
    analyzed = analyzer.in_threads(selected, threads) if threads else analyzer.one_by_one(selected)
    try:
        for frame, result in analyzed:
            yield AnalyzedFrame(
                frame, None if result is None else identifier.identify(result, frame)
            )
    except BrokenVideo as error:
        broken = Result(
            source, "unreadable", recognizer.model, time_s=error.time_s, error=str(error)
        )
        yield AnalyzedFrame(None, broken)


def _select(frames: Iterable[VideoFrame], window: Window) -> Iterator[_Selected]:
    last_step: int | None = None
    for frame in frames:
        step = window.step(frame.time_s)
        yield frame, step is None or step != last_step
        last_step = step


class _FrameAnalyzer:
    """Analyzes selected frames; all frames come out in order, with None for the others."""

    def __init__(self, recognizer: Recognizer, source: str) -> None:
        self._recognizer = recognizer
        self._source = source
        self._stopped = threading.Event()

    def one_by_one(self, frames: Iterable[_Selected]) -> Iterator[_Analyzed]:
        for selected in frames:
            yield from self._analyze_chunk([selected])

    def in_threads(self, frames: Iterable[_Selected], threads: int) -> Iterator[_Analyzed]:
        pending: deque[tuple[Future[list[_Analyzed]], int]] = deque()
        held, broken = 0, None
        pool = ThreadPoolExecutor(threads, "mien-video")
        try:
            try:
                for chunk in _chunks(frames):
                    area = sum(frame.area for frame, _ in chunk)
                    pending.append((pool.submit(self._analyze_chunk, chunk), area))
                    held += area
                    del chunk
                    while len(pending) > threads + 1 or (
                        held > _MAX_HELD_PIXELS and len(pending) > 1
                    ):
                        future, area = pending.popleft()
                        held -= area
                        yield from future.result()
            except InputError as error:  # raised after the results of the frames before it
                broken = error
            while pending:
                yield from pending.popleft()[0].result()
            if broken is not None:
                raise broken
        finally:
            self._stopped.set()
            pool.shutdown(cancel_futures=True)

    def _analyze_chunk(self, chunk: list[_Selected]) -> list[_Analyzed]:
        frames = [frame for frame, is_selected in chunk if is_selected]
        results = iter(
            self._recognizer.analyze_many(
                self._pictures(frames), color="rgb", sources=[self._source] * len(frames)
            )
        )
        return [(frame, next(results) if is_selected else None) for frame, is_selected in chunk]

    def _pictures(self, frames: list[VideoFrame]) -> Iterator[npt.NDArray[np.uint8]]:
        for frame in frames:
            if self._stopped.is_set():
                raise _Stopped
            yield frame.pixels


class _Stopped(Exception):
    """The results of a chunk are no longer needed."""


def _chunks(frames: Iterable[_Selected]) -> Iterator[list[_Selected]]:
    """Yield frames in chunks; an error is raised after the frames before it."""
    chunk: list[_Selected] = []
    area = 0
    try:
        for selected in frames:
            chunk.append(selected)
            area += selected[0].area
            if len(chunk) == _CHUNK_FRAMES or area >= _CHUNK_PIXELS:
                yield chunk
                chunk, area = [], 0
    except InputError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


class _Identifier:
    """Adds track ids and smoothed scores to the results of successive frames."""

    def __init__(self, smoother: Smoother, memory_s: float) -> None:
        self._tracker = Tracker(memory_s=memory_s)
        self._smoother = smoother
        self._cuts = CutDetector()
        self._size: tuple[int, int] | None = None

    def identify(self, result: Result, frame: VideoFrame) -> Result:
        time_s = frame.time_s
        if self._cuts.is_cut(time_s, frame.pixels):
            self._tracker.clear()
        height, width = frame.pixels.shape[:2]
        if self._size is not None and (height, width) != self._size:
            self._tracker.rescale(width / self._size[1], height / self._size[0])
        self._size = (height, width)
        result = track_faces(result, time_s, self._tracker, self._smoother)
        return replace(result, frame=frame.number, time_s=time_s)


# ---------------------------------------------------------------- whole videos
class Overview:
    """Summary, events, timeline and baseline correction of a video, updated result by result."""

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
        """Start before the first frame.

        Args:
            name: the video's.
            labels: the model's emotions.
            gap_s: longest duration of a frame, and of an absence within one episode, in seconds.
            baseline: corrects the results.
            markers: events; those of other videos are ignored.
            draws: keep the data for `timeline` and `plot`.
        """
        self.name, self.labels, self.baseline = name, labels, baseline
        self.summary = Summary(gap_s=gap_s)
        self._draws, self._history, self._portraits = draws, ScoreHistory(), Portraits()
        events = [marker for marker in markers if marker.applies_to(name)]
        self._events = EventTable(events, labels, gap_s=gap_s)

    def add(self, analyzed: AnalyzedFrame) -> list[Result]:
        """Add the next frame; return the results that are ready, corrected."""
        result = analyzed.result
        if result is None:
            return []
        self.summary.add(result)
        if self._draws:
            self._history.add(result)
            if analyzed.frame is not None:
                self._portraits.add_faces(analyzed.frame.pixels, result)
        return self._counted([result] if self.baseline is None else self.baseline.add(result))

    def finish(self) -> list[Result]:
        """Return the remaining results at the end of the video."""
        return [] if self.baseline is None else self._counted(self.baseline.finish())

    def _counted(self, results: list[Result]) -> list[Result]:
        for result in results:
            self._events.add(result)
        return results

    def events(self) -> list[dict[str, Any]]:
        """Return the rows of the event table; see `mien.video.summary.event_columns`."""
        rows = self._events.rows(corrected=self.baseline is not None)
        return [{"source": self.name} | row for row in rows]

    def timeline(self) -> Image.Image:
        """Draw the emotions of each person over time."""
        return draw_timeline(
            self._history,
            self.summary.people(),
            title=self.name,
            labels=self.labels,
            portraits=self._portraits.pictures,
        )

    def plot(self) -> list[Axes]:
        """Plot the smoothed scores of each person with Matplotlib, one chart per person."""
        return plot_history(self._history, title=self.name, labels=self.labels)


class VideoResults(Iterator[Result]):
    """Iterator of the results of a video's frames, with summaries of the whole video.

    It can be read once: `timeline`, `people`, `events` and `plot` read the remaining frames first.
    """

    def __init__(
        self,
        frames: Generator[AnalyzedFrame, None, None],
        overview: Overview,
        *,
        has_markers: bool,
    ) -> None:
        self._frames, self._overview, self._has_markers = frames, overview, has_markers
        self._ready: deque[Result] = deque()
        self._has_started = False

    def __next__(self) -> Result:
        """Return the result of the next analyzed frame."""
        self._has_started = True
        while not self._ready:
            analyzed = next(self._frames, None)
            if analyzed is None:
                self._ready.extend(self._overview.finish())
                break
            self._ready.extend(self._overview.add(analyzed))
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def close(self) -> None:
        """Close the video before its end."""
        self._frames.close()

    def people(self) -> list[Person]:
        """Return each person in the video with their episodes."""
        return self._read_all().summary.people()

    def events(self) -> list[dict[str, Any]]:
        """Return a row per marked event and person, as ``mien predict --events`` writes them.

        Rows contain mean scores, valence and shares of time, and the same after baseline correction
        if there was a baseline.

        Raises:
            UsageError: if no markers were given.
        """
        if not self._has_markers:
            raise UsageError("this video has no events: call analyze_video(..., markers=...)")
        return self._read_all().events()

    def timeline(self) -> Image.Image:
        """Draw the emotions of each person over time."""
        return self._read_all().timeline()

    def plot(self) -> list[Axes]:
        """Plot the smoothed scores of each person with Matplotlib, one chart per person.

        Raises:
            MissingExtra: if Matplotlib is not installed.
        """
        return self._read_all().plot()

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of all frames and faces, as `mien.to_pandas` does.

        Raises:
            UsageError: if frames have been read before.
            MissingExtra: if pandas is not installed.
        """
        if self._has_started:
            raise UsageError(
                "frames of this video have been read: call to_pandas() first, or "
                "mien.to_pandas(results) on the results you kept"
            )
        return to_pandas(self)

    def _read_all(self) -> Overview:
        deque(self, maxlen=0)
        return self._overview


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
    """Analyze a video; see `mien.Recognizer.analyze_video`."""
    window = Window(start, end, every)
    correction = None if baseline is None else _make_baseline(recognizer, baseline)
    events = () if markers is None else parse_markers(markers)
    smoother = Smoother(smooth_s)
    live = connect(source, allow_private=allow_private)
    frames = open_frames(source, live, window, allow_private=allow_private)
    name = redact_address(str(source))
    analyzed = analyze_frames(
        recognizer, frames, name, window=window, smoother=smoother, threads=analysis_threads(live)
    )
    gap_s = track_memory(window.every)
    overview = Overview(name, recognizer.labels, gap_s=gap_s, baseline=correction, markers=events)
    return VideoResults(analyzed, overview, has_markers=markers is not None)


def _make_baseline(recognizer: Recognizer, span: tuple[float, float]) -> Baseline:
    try:
        start, end = map(float, span)
    except (TypeError, ValueError, OverflowError):
        start, end = 0.0, 0.0
    if not 0 <= start < end:
        raise invalid("baseline", "(start, end) in seconds, the end after the start", span)
    return Baseline(recognizer.labels, start, end)
