"""``mien predict`` of videos, streams and cameras, one after the other."""

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
from mien.cli.live_window import LiveWindow, require_windows
from mien.cli.options import recognizer_options
from mien.cli.output import can_show_progress, note, write_output
from mien.cli.paths import check_targets, input_paths, is_single, unique_names
from mien.cli.result_writers import Writer, episode_table, video_writer
from mien.cli.signals import Stop, interruptible
from mien.core.errors import EXIT_DONE, EXIT_PARTIAL, InputError, NoFaceError, UsageError
from mien.core.file_types import OUTPUT_IMAGE_SUFFIXES, OUTPUT_VIDEO_SUFFIXES, VIDEO_SUFFIXES
from mien.core.formats import csv_text, json_text
from mien.core.images import write_picture
from mien.core.progress import Progress
from mien.core.results import Result
from mien.core.web import redact_address
from mien.inference.recognizer import Recognizer
from mien.video.analysis import Moment, Overview, follow, frames_of, readers_for
from mien.video.baseline import Baseline, neutral_scores
from mien.video.charts import draw_comparison
from mien.video.live import LiveStream, connected, is_camera, is_stream
from mien.video.reader import VideoInfo, probe
from mien.video.summary import EventTable, Marker, comparison_columns, event_columns, read_markers
from mien.video.times import Window, parse_span, parse_time
from mien.video.tracker import Smoother, memory_for
from mien.video.writer import AnnotatedVideo, write_annotated

EPISODES_SCHEMA = "mien-episodes/1"
"""Name and version of the JSON form that ``--episodes`` writes."""

_PATIENCE_S, _PATIENCE_ADDRESS_S = 5.0, 15.0


# ---------------------------------------------------------------- all videos
@dataclass
class _Run:
    """What holds for all videos of a run, and what has come out of them so far."""

    args: argparse.Namespace
    window: Window
    recognizer: Recognizer
    writer: Writer
    stop: Stop
    draws: bool
    span: tuple[float, float] | None
    markers: Sequence[Marker]
    frames: int = 0
    faces: int = 0
    problems: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    compared: list[dict[str, Any]] = field(default_factory=list)
    summaries: list[dict[str, Any]] = field(default_factory=list)


def run_videos(args: argparse.Namespace, shape: str, videos: Sequence[Input]) -> int:
    """Read the videos one after the other, write what is asked for; return the exit code."""
    single = is_single(args.images)
    _check(args, shape, single=single)
    names = unique_names([(_stem(one.source), "") for one in videos])
    reads = [*input_paths(args), args.markers, *(one.source for one in videos)]
    check_targets(_targets(args, names), reads=reads, suffixes=VIDEO_SUFFIXES, force=args.force)
    start, end, every = (
        None if text is None else parse_time(text) for text in (args.start, args.end, args.every)
    )
    window = Window(start or 0.0, end, every)
    span = None if args.baseline is None else parse_span(args.baseline)
    markers = [] if args.markers is None else read_markers(args.markers)
    # What comes over a network is waited for longer: its results so far are kept.
    patience_s = _PATIENCE_ADDRESS_S if any("://" in one.source for one in videos) else _PATIENCE_S
    with interruptible(patience_s) as stop:
        options = recognizer_options(args)
        if options.threads is None and not any(_may_be_live(one.source) for one in videos):
            options = replace(options, threads=1)  # frames are read side by side
        recognizer = options.load()
        labels, corrected = recognizer.labels, span is not None
        if corrected:
            neutral_scores(labels)
        form = video_writer(
            shape, args.output, labels, recognizer.model, single=single, corrected=corrected
        )
        with form as writer:
            draws = can_show_progress(args, shape)
            run = _Run(args, window, recognizer, writer, stop, draws, span, markers)
            for one, name in zip(videos, names, strict=True):
                _read(run, one, name)
    if args.output is not None:
        frames = "1 frame" if run.frames == 1 else f"{run.frames:,} frames"
        note(f"{args.output}: {frames}", quiet=args.quiet)
    if args.episodes is not None:
        value = run.summaries[0] if single else run.summaries
        write_output(args.episodes, json_text(value) + "\n")
        note(f"episodes: {args.episodes}", quiet=args.quiet)
    _write_tables(run, labels)
    return _exit_code(run, len(videos))


def _write_tables(run: _Run, labels: Sequence[str]) -> None:
    """Write the tables of events, and the videos beside one another."""
    args, corrected = run.args, run.span is not None
    if args.events is not None:
        columns = event_columns(labels, corrected=corrected)
        write_output(args.events, csv_text(run.events, columns))
        note(f"events: {args.events}", quiet=args.quiet)
    for path in args.compare or ():
        if path.suffix.lower() == ".csv":
            columns = comparison_columns(labels, corrected=corrected)
            write_output(path, csv_text(run.compared, columns))
        else:
            write_picture(draw_comparison(run.compared, labels), path)
        note(f"compared: {path}", quiet=args.quiet)


def _check(args: argparse.Namespace, shape: str, *, single: bool) -> None:
    for option, is_given in (
        ("--compat", args.compat is not None),
        ("--resume", args.resume),
        ("--engine ray", args.engine != "local"),
    ):
        if is_given:
            raise UsageError(f"{option} is for images: leave it out for a video")
    if args.show:
        require_windows()
    if (args.markers is None) != (args.events is None):
        raise UsageError("--markers FILE.csv and --events FILE.csv go together: give both")
    if shape in ("parquet", "xlsx") and args.output is None:
        name = "Excel" if shape == "xlsx" else "Parquet"
        raise UsageError(f"{name} needs a file: expected --output FILE.{shape}")
    for option, path, suffixes in (
        ("--annotate", args.annotate, OUTPUT_VIDEO_SUFFIXES),
        ("--timeline", args.timeline, OUTPUT_IMAGE_SUFFIXES),
    ):
        if not single and path is not None and path.suffix.lower() in suffixes:
            raise UsageError(f"expected {option} as a folder, since there may be several videos")


def _targets(args: argparse.Namespace, names: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield the files that will be written, each with its option."""
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
    return _file_in(args.annotate, f"{name}.annotated.mp4", OUTPUT_VIDEO_SUFFIXES)


def _timeline_path(args: argparse.Namespace, name: str) -> Path:
    return _file_in(args.timeline, f"{name}.timeline.png", OUTPUT_IMAGE_SUFFIXES)


def _file_in(asked: Path, name: str, suffixes: Sequence[str]) -> Path:
    """Return the file that is asked for, or one in the folder that is."""
    return asked if asked.suffix.lower() in suffixes else asked / name


def _may_be_live(source: str) -> bool:
    return is_camera(source) or is_stream(source)


def _stem(source: str) -> str:
    """Return what a video's own files are called by."""
    if is_camera(source):
        return f"camera-{source}"
    if is_stream(source):
        return re.sub(r"[^\w.-]+", "-", redact_address(source).partition("://")[2]).strip("-.")
    return Path(source).stem


def _exit_code(run: _Run, videos: int) -> int:
    """Return 0 or 6, or raise what says that nothing was found or could be read."""
    first = run.problems[0] if run.problems else ""
    if not run.frames:
        text = first if videos == 1 else f"none of {videos} videos could be read; first: {first}"
        raise InputError(text or "no frame was read: the window holds none")
    if run.problems:
        note(f"mien: {first}", quiet=False)
        return EXIT_PARTIAL
    if not run.faces:
        frames = "the frame" if run.frames == 1 else f"any of {run.frames:,} frames"
        raise NoFaceError(f"no face found in {frames}: try another --detector")
    return EXIT_DONE


# ---------------------------------------------------------------- one video
def _read(run: _Run, one: Input, file_name: str) -> None:
    """Read one video; one that cannot be opened gets a result that says so."""
    args, name, labels = run.args, redact_address(one.source), run.recognizer.labels
    gap_s = memory_for(run.window.every)
    overview = Overview(
        name,
        labels,
        gap_s=gap_s,
        baseline=None if run.span is None else Baseline(labels, *run.span),
        markers=run.markers,
        draws=args.timeline is not None,
    )
    whole = EventTable([Marker(0.0, math.inf, "")], labels, gap_s=gap_s, by_person=False)

    def write(results: Sequence[Result]) -> None:
        for result in results:
            run.writer.add(result)
            whole.add(result)

    def take(moment: Moment) -> None:
        write(overview.take(moment))
        if moment.result is not None and moment.result.error is not None:
            run.problems.append(moment.result.error)

    try:
        if one.problem is not None:
            raise InputError(one.problem)
        _follow(run, one.source, file_name, take)
    except InputError as error:
        run.stop.check()
        take(Moment(None, Result(name, "unreadable", run.recognizer.model, error=str(error))))
    write(overview.finish())
    if overview.baseline is not None:
        _note_without_baseline(overview.baseline, name, quiet=args.quiet)
    people, frames = overview.summary.people(), overview.summary.frames
    run.events += overview.events()
    (row,) = whole.rows(corrected=run.span is not None)
    run.compared.append({**row, "source": name, "people": len(people), "frames": frames})
    run.writer.end_video(name, people)
    run.frames += frames
    run.faces += overview.summary.faces
    listed = [person.to_dict() for person in people]
    run.summaries.append({"schema": EPISODES_SCHEMA, "source": name, "people": listed})
    if args.output is not None and people and not args.quiet:
        sys.stderr.write(episode_table(people))
    if args.timeline is not None and frames:
        path = _timeline_path(args, file_name)
        write_picture(overview.timeline(), path)
        note(f"timeline: {path}", quiet=args.quiet)


def _note_without_baseline(baseline: Baseline, name: str, *, quiet: bool) -> None:
    people = baseline.people_without()
    if people:
        shown = ", ".join(f"#{number}" for number in people[:8])
        more = f" and {len(people) - 8} others" if len(people) > 8 else ""
        when = f"{baseline.start_s:g} to {baseline.end_s:g} s"
        text = f"not seen in the baseline ({when}), scores stay raw: {shown}{more}"
        note(f"mien: {name}: {text}", quiet=quiet)


def _moments(
    run: _Run, source: str, live: LiveStream | int | None
) -> Generator[Moment, None, None]:
    args = run.args
    frames = frames_of(
        source, live, run.window, patience_s=args.reconnect, allow_private=args.allow_private
    )
    return follow(
        run.recognizer,
        frames,
        redact_address(source),
        window=run.window,
        smoother=Smoother(args.smooth),
        readers=readers_for(live),
    )


def _follow(run: _Run, source: str, file_name: str, take: Callable[[Moment], None]) -> None:
    """Go through a video's frames: take, annotate and draw each as it comes."""
    allow_private, name = run.args.allow_private, redact_address(source)
    live = connected(source, allow_private=allow_private)
    with ExitStack() as stack:
        if isinstance(live, LiveStream):
            stack.callback(live.close)
        info = probe(source, allow_private=allow_private) if live is None else None
        video = bars = None
        if run.args.annotate is not None:
            video = stack.enter_context(_annotating(run, source, file_name, info))
        if info is None and run.draws:
            from mien.cli.live_bars import LiveBars  # brings rich with it

            title = f"camera {source}" if is_camera(source) else name
            bars = stack.enter_context(LiveBars(title, run.recognizer.labels))
        window = None
        if run.args.show:
            window = stack.enter_context(LiveWindow(f"mien: {name}"))
        moments = stack.enter_context(closing(_moments(run, source, live)))
        quiet = not run.draws or bars is not None
        total = _frames_in(info, run.window)
        progress = stack.enter_context(Progress("reading video", total, unit="frames", quiet=quiet))
        last: Result | None = None
        try:
            for moment in moments:
                run.stop.check()
                last = moment.result or last
                take(moment)
                if video is not None and moment.frame is not None:
                    video.write(moment.frame, () if last is None else last.faces)
                if bars is not None and moment.result is not None and not moment.result.error:
                    bars.show(moment.result)
                progress.advance()
                if window is not None and moment.frame is not None:
                    faces = () if last is None else last.faces
                    if not window.show(moment.frame.pixels, faces):
                        break
        except KeyboardInterrupt:
            # What is live has no end of its own: this is how people end it.
            if info is not None:
                raise
            run.stop.heard.clear()


def _frames_in(info: VideoInfo | None, window: Window) -> int | None:
    """Return about how many frames of a file lie in the window, or None if that is not known."""
    if info is None or info.duration_s is None or info.frames is None:
        return None
    end = info.duration_s if window.end is None else min(window.end, info.duration_s)
    share = max(0.0, end - window.start) / max(info.duration_s, 1e-6)
    return round(info.frames * share) or None


@contextmanager
def _annotating(
    run: _Run, source: str, file_name: str, info: VideoInfo | None
) -> Iterator[AnnotatedVideo]:
    path = _annotated_path(run.args, file_name)
    with write_annotated(
        path,
        info,
        window=run.window,
        sound_of=source if info is not None and info.has_sound else None,
        allow_private=run.args.allow_private,
    ) as video:
        yield video
        if not video.frames:
            raise InputError(f"{redact_address(source)}: no frame to annotate")
    note(f"annotated: {path}", quiet=run.args.quiet)
