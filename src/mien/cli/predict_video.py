"""``mien predict`` for videos, streams and cameras, one after another."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mien.batch.inputs import Input
from mien.cli.options import recognizer_options
from mien.cli.output import (
    ResultWriter,
    can_show_progress,
    episode_table,
    note,
    result_writer,
    write_output,
)
from mien.cli.paths import check_targets, input_paths, is_single, unique_names
from mien.cli.signals import StopRequest, interruptible
from mien.core.errors import (
    EXIT_DONE,
    EXIT_PARTIAL,
    InputError,
    NoFaceError,
    UsageError,
    printable,
)
from mien.core.file_types import OUTPUT_IMAGE_SUFFIXES, OUTPUT_VIDEO_SUFFIXES, VIDEO_SUFFIXES
from mien.core.formats import csv_text, json_text
from mien.core.images import write_picture
from mien.core.progress import Progress
from mien.core.results import Result
from mien.core.web import is_camera, is_stream, redact_address
from mien.inference.recognizer import Recognizer
from mien.video.analysis import (
    AnalyzedFrame,
    Overview,
    analysis_threads,
    analyze_frames,
    open_frames,
)
from mien.video.charts import draw_comparison
from mien.video.frames import Window, parse_span, parse_time
from mien.video.live import LiveStream, connect
from mien.video.reader import VideoInfo, probe
from mien.video.summary import EventTable, Marker, comparison_columns, event_columns, read_markers
from mien.video.tracker import Baseline, Smoother, neutral_scores, track_memory
from mien.video.writer import AnnotatedVideo, write_annotated

EPISODES_SCHEMA = "mien-episodes/1"
"""Name and version of the JSON that ``--episodes`` writes."""

_GRACE_PERIOD_S = 5.0
_GRACE_PERIOD_NETWORK_S = 15.0
"""Longer, since the network has to answer before the results so far are written."""

_MAX_LISTED_PEOPLE = 8


def run_videos(args: argparse.Namespace, output_format: str, videos: Sequence[Input]) -> int:
    """Analyze videos, write the requested files, and return the exit code."""
    single = is_single(args.images)
    _check_options(args, single=single)
    names = unique_names([(_stem(video.source), "") for video in videos])
    reads = [*input_paths(args), args.markers, *(video.source for video in videos)]
    targets = _targets(args, names)
    check_targets(targets, reads=reads, suffixes=VIDEO_SUFFIXES, force=args.force)
    start, end, every = (
        None if text is None else parse_time(text) for text in (args.start, args.end, args.every)
    )
    window = Window(start or 0.0, end, every)
    baseline_span = None if args.baseline is None else parse_span(args.baseline)
    markers = [] if args.markers is None else read_markers(args.markers)
    is_remote = any("://" in video.source for video in videos)
    with interruptible(_GRACE_PERIOD_NETWORK_S if is_remote else _GRACE_PERIOD_S) as stop:
        options = recognizer_options(args)
        if options.threads is None and not any(_is_live(video.source) for video in videos):
            options = replace(options, threads=1)  # frames of files are analyzed in parallel
        recognizer = options.load()
        if baseline_span is not None:
            neutral_scores(recognizer.labels)  # raises UsageError without a class neutral
        with result_writer(
            output_format,
            args.output,
            recognizer.labels,
            recognizer.model,
            single=single,
            videos=True,
            corrected=baseline_span is not None,
        ) as writer:
            show_progress = can_show_progress(args, output_format)
            run = _Run(
                args, window, recognizer, writer, stop, show_progress, baseline_span, markers
            )
            for video, name in zip(videos, names, strict=True):
                run.analyze(video, name)
    run.write_tables(single=single)
    return run.exit_code(len(videos))


# ---------------------------------------------------------------- options and file names
def _check_options(args: argparse.Namespace, *, single: bool) -> None:
    for option, is_given in (
        ("--compat", args.compat is not None),
        ("--resume", args.resume),
        ("--engine ray", args.engine != "local"),
    ):
        if is_given:
            raise UsageError(f"{option} is for images: leave it out for a video")
    if args.show:
        from mien.cli.live_view import check_window_support  # imports rich

        check_window_support()
    if (args.markers is None) != (args.events is None):
        raise UsageError("--markers FILE.csv and --events FILE.csv go together: give both")
    for option, path, suffixes in (
        ("--annotate", args.annotate, OUTPUT_VIDEO_SUFFIXES),
        ("--timeline", args.timeline, OUTPUT_IMAGE_SUFFIXES),
    ):
        if not single and path is not None and path.suffix.lower() in suffixes:
            raise UsageError(f"expected {option} as a folder, since there may be several videos")


def _targets(args: argparse.Namespace, names: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield the options that write files, each with its file."""
    for option in ("output", "episodes", "events"):
        if getattr(args, option) is not None:
            yield f"--{option}", getattr(args, option)
    for number, path in enumerate(args.compare or (), 1):
        yield "--compare" if number == 1 else f"--compare ({number})", path
    for name in names:
        if args.annotate is not None:
            yield "--annotate", _annotated_path(args, name)
        if args.timeline is not None:
            yield "--timeline", _timeline_path(args, name)


def _annotated_path(args: argparse.Namespace, name: str) -> Path:
    path: Path = args.annotate
    is_file = path.suffix.lower() in OUTPUT_VIDEO_SUFFIXES
    return path if is_file else path / f"{name}.annotated.mp4"


def _timeline_path(args: argparse.Namespace, name: str) -> Path:
    path: Path = args.timeline
    is_file = path.suffix.lower() in OUTPUT_IMAGE_SUFFIXES
    return path if is_file else path / f"{name}.timeline.png"


def _is_live(source: str) -> bool:
    return is_camera(source) or is_stream(source)


def _stem(source: str) -> str:
    """Return the stem for files named after a video."""
    if is_camera(source):
        return f"camera-{source}"
    if is_stream(source):
        return re.sub(r"[^\w.-]+", "-", redact_address(source).partition("://")[2]).strip("-.")
    return Path(source).stem


# ---------------------------------------------------------------- analysis
@dataclass
class _Run:
    """Settings of a run over several videos, and what it has found so far."""

    args: argparse.Namespace
    window: Window
    recognizer: Recognizer
    writer: ResultWriter
    stop: StopRequest
    show_progress: bool
    baseline_span: tuple[float, float] | None
    markers: Sequence[Marker]
    frames: int = 0
    faces: int = 0
    problems: list[str] = field(default_factory=list)
    event_rows: list[dict[str, Any]] = field(default_factory=list)
    comparison_rows: list[dict[str, Any]] = field(default_factory=list)
    episodes: list[dict[str, Any]] = field(default_factory=list)

    def analyze(self, video: Input, file_name: str) -> None:
        """Analyze one video; one that cannot be opened gets a result "unreadable"."""
        args, name, labels = self.args, redact_address(video.source), self.recognizer.labels
        gap_s = track_memory(self.window.every)
        overview = Overview(
            name,
            labels,
            gap_s=gap_s,
            baseline=None if self.baseline_span is None else Baseline(labels, *self.baseline_span),
            markers=self.markers,
            draws=args.timeline is not None,
        )
        whole_video = Marker(0.0, math.inf, "")
        totals = EventTable([whole_video], labels, gap_s=gap_s, by_person=False)

        def write(results: Sequence[Result]) -> None:
            for result in results:
                self.writer.add(result)
                totals.add(result)

        def handle(analyzed: AnalyzedFrame) -> None:
            write(overview.add(analyzed))
            if analyzed.result is not None and analyzed.result.error is not None:
                self.problems.append(analyzed.result.error)

        try:
            if video.problem is not None:
                raise InputError(video.problem)
            self._follow(video.source, file_name, handle)
        except InputError as error:
            self.stop.check()
            model = self.recognizer.model
            handle(AnalyzedFrame(None, Result(name, "unreadable", model, error=str(error))))
        write(overview.finish())
        if overview.baseline is not None:
            _note_people_without(overview.baseline, name, quiet=args.quiet)
        self._collect(overview, totals)
        if args.timeline is not None and overview.summary.frames:
            path = _timeline_path(args, file_name)
            write_picture(overview.timeline(), path)
            note(f"timeline: {path}", quiet=args.quiet)

    def _collect(self, overview: Overview, totals: EventTable) -> None:
        """Write the people of a video, and keep its rows of the tables of all videos."""
        people, frames = overview.summary.people(), overview.summary.frames
        self.writer.end_video(overview.name, people)
        self.frames += frames
        self.faces += overview.summary.faces
        self.event_rows += overview.events()
        (row,) = totals.rows(corrected=self.baseline_span is not None)
        counts = {"source": overview.name, "people": len(people), "frames": frames}
        self.comparison_rows.append({**row, **counts})
        self.episodes.append(
            {
                "schema": EPISODES_SCHEMA,
                "source": overview.name,
                "people": [person.to_dict() for person in people],
            }
        )
        if self.args.output is not None and people and not self.args.quiet:
            title = "" if is_single(self.args.images) else f"{printable(overview.name)}\n"
            sys.stderr.write(title + episode_table(people))

    def _follow(self, source: str, file_name: str, handle: Callable[[AnalyzedFrame], None]) -> None:
        """Analyze the frames of a video; annotate and show each as it comes."""
        args, name = self.args, redact_address(source)
        live = connect(source, allow_private=args.allow_private)
        info = probe(source, allow_private=args.allow_private) if live is None else None
        with ExitStack() as stack:
            if isinstance(live, LiveStream):
                stack.callback(live.close)
            annotated = bars = window = None
            if args.annotate is not None:
                annotated = stack.enter_context(self._annotate(source, file_name, info))
            if info is None and self.show_progress:
                from mien.cli.live_view import LiveBars

                title = f"camera {source}" if is_camera(source) else name
                bars = stack.enter_context(LiveBars(title, self.recognizer.labels))
            if args.show:
                from mien.cli.live_view import LiveWindow

                window = stack.enter_context(LiveWindow(f"mien: {name}"))
            frames = stack.enter_context(closing(self._analyze(source, live)))
            quiet = not self.show_progress or bars is not None
            total = _expected_frames(info, self.window)
            progress = stack.enter_context(
                Progress("reading video", total, unit="frames", quiet=quiet)
            )
            last: Result | None = None
            try:
                for analyzed in frames:
                    self.stop.check()
                    last = analyzed.result or last
                    handle(analyzed)
                    progress.advance()
                    if (
                        bars is not None
                        and analyzed.result is not None
                        and not analyzed.result.error
                    ):
                        bars.show(analyzed.result)
                    if analyzed.frame is None:
                        continue
                    faces = () if last is None else last.faces
                    if annotated is not None:
                        annotated.write(analyzed.frame, faces)
                    if window is not None and not window.show(analyzed.frame.pixels, faces):
                        break
            except KeyboardInterrupt:
                # Ctrl-C is how people end a stream or a camera.
                if info is not None:
                    raise
                self.stop.received.clear()

    def _analyze(
        self, source: str, live: LiveStream | int | None
    ) -> Generator[AnalyzedFrame, None, None]:
        allow_private, retry_s = self.args.allow_private, self.args.reconnect
        frames = open_frames(
            source, live, self.window, reconnect_s=retry_s, allow_private=allow_private
        )
        return analyze_frames(
            self.recognizer,
            frames,
            redact_address(source),
            window=self.window,
            smoother=Smoother(self.args.smooth),
            threads=analysis_threads(live),
        )

    @contextmanager
    def _annotate(
        self, source: str, file_name: str, info: VideoInfo | None
    ) -> Iterator[AnnotatedVideo]:
        path = _annotated_path(self.args, file_name)
        with write_annotated(
            path,
            info,
            window=self.window,
            sound_of=source if info is not None and info.has_sound else None,
            allow_private=self.args.allow_private,
        ) as video:
            yield video
            if not video.frames:
                raise InputError(f"{redact_address(source)}: no frame to annotate")
        note(f"annotated: {path}", quiet=self.args.quiet)

    def write_tables(self, *, single: bool) -> None:
        """Write the files on all videos: episodes, events and comparisons."""
        args, labels = self.args, self.recognizer.labels
        corrected = self.baseline_span is not None
        if args.output is not None:
            frames = "1 frame" if self.frames == 1 else f"{self.frames:,} frames"
            note(f"{args.output}: {frames}", quiet=args.quiet)
        if args.episodes is not None:
            episodes = self.episodes[0] if single else self.episodes
            write_output(args.episodes, json_text(episodes) + "\n")
            note(f"episodes: {args.episodes}", quiet=args.quiet)
        if args.events is not None:
            columns = event_columns(labels, corrected=corrected)
            write_output(args.events, csv_text(self.event_rows, columns))
            note(f"events: {args.events}", quiet=args.quiet)
        for path in args.compare or ():
            if path.suffix.lower() == ".csv":
                columns = comparison_columns(labels, corrected=corrected)
                write_output(path, csv_text(self.comparison_rows, columns))
            else:
                write_picture(draw_comparison(self.comparison_rows, labels), path)
            note(f"compared: {path}", quiet=args.quiet)

    def exit_code(self, videos: int) -> int:
        """Return 0 or 6, or raise the error of a run without any frame or any face."""
        first = self.problems[0] if self.problems else ""
        if not self.frames:
            many = f"none of {videos} videos could be read; first: {first}"
            raise InputError((first if videos == 1 else many) or "no frame lies between the times")
        if self.problems:
            note(f"mien: {first}", quiet=False)
            return EXIT_PARTIAL
        if not self.faces:
            frames = "the frame" if self.frames == 1 else f"any of {self.frames:,} frames"
            raise NoFaceError(f"no face found in {frames}: try another --detector")
        return EXIT_DONE


def _note_people_without(baseline: Baseline, name: str, *, quiet: bool) -> None:
    """Report the people who have no baseline, and so no corrected scores."""
    people = baseline.people_without()
    if people:
        shown = ", ".join(f"#{track_id}" for track_id in people[:_MAX_LISTED_PEOPLE])
        others = len(people) - _MAX_LISTED_PEOPLE
        more = f" and {others} others" if others > 0 else ""
        span = f"{baseline.start_s:g} to {baseline.end_s:g} s"
        text = f"not seen in the baseline ({span}), scores stay raw: {shown}{more}"
        note(f"mien: {name}: {text}", quiet=quiet)


def _expected_frames(info: VideoInfo | None, window: Window) -> int | None:
    """Estimate how many frames of a file lie in the window; None if its length is unknown."""
    if info is None or info.duration_s is None or info.frames is None:
        return None
    end = info.duration_s if window.end is None else min(window.end, info.duration_s)
    share = max(0.0, end - window.start) / max(info.duration_s, 1e-6)
    return round(info.frames * share) or None
