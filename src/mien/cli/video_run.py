"""Runs ``mien predict`` over videos, streams and cameras, one after the other."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mien.cli.inputs import Input, is_single
from mien.cli.live_bars import LiveBars
from mien.cli.options import recognizer_options
from mien.cli.output import json_text, note, write_output
from mien.cli.stopping import Stop
from mien.cli.targets import check_targets, read_files
from mien.cli.video_text import Sink, episode_table, sink_for
from mien.core.errors import EXIT_DONE, EXIT_PARTIAL, InputError, NoFaceError, UsageError
from mien.core.file_types import PICTURE_SUFFIXES, VIDEO_SUFFIXES, WRITTEN_SUFFIXES
from mien.core.images import write_picture
from mien.core.progress import Progress
from mien.core.results import Result
from mien.inference.recognizer import Recognizer
from mien.video.analysis import Moment, follow, frames_of, source_of
from mien.video.episodes import Summary
from mien.video.history import History
from mien.video.live import LiveStream, connected, is_camera, is_stream
from mien.video.reading import VideoInfo, probe
from mien.video.smoothing import Smoother
from mien.video.timeline import Portraits, draw_timeline
from mien.video.times import Window, parse_time
from mien.video.tracking import memory_for
from mien.video.writing import AnnotatedVideo, writing

EPISODES_SCHEMA = "mien-episodes/1"
"""Name and version of the JSON form that ``--episodes`` writes."""


@dataclass
class _Run:
    """What holds for all videos of a run, and what has come out of them so far."""

    args: argparse.Namespace
    shape: str
    window: Window
    recognizer: Recognizer
    sink: Sink
    stop: Stop
    frames: int = 0
    faces: int = 0
    problems: list[str] = field(default_factory=list)
    summaries: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class _Outputs:
    """Where the results of one video go, beside the sink of all."""

    summary: Summary
    history: History | None = None
    portraits: Portraits = field(default_factory=Portraits)
    video: AnnotatedVideo | None = None
    bars: LiveBars | None = None

    def take(self, moment: Moment, faces: Result | None) -> None:
        """Take a frame: its result if it was looked at, else the last one's faces."""
        frame, result = moment.frame, moment.result
        if self.video is not None and frame is not None:
            self.video.write(frame, () if faces is None else faces.faces)
        if result is None:
            return
        self.summary.add(result)
        if self.bars is not None and result.error is None:
            self.bars.show(result)
        if self.history is None:
            return
        self.history.add(result)
        for face in result.faces:
            if frame is not None and face.track_id is not None:
                worth = face.face_confidence * face.quality.size_px
                self.portraits.add(frame.pixels, face.box, face.track_id, worth)


def run(args: argparse.Namespace, shape: str, videos: Sequence[Input], stop: Stop) -> int:
    """Read the videos, write what the command asks for; return the exit code."""
    single = is_single(args.images)
    _check(args, shape, single=single)
    names = _file_names(videos)
    reads = [*read_files(args), *(one.source for one in videos)]
    check_targets(_targets(args, names), reads=reads, kinds=VIDEO_SUFFIXES, force=args.force)
    window = _window(args)
    recognizer = recognizer_options(args).load()
    with sink_for(shape, args.output, recognizer.labels, recognizer.model, single=single) as sink:
        state = _Run(args, shape, window, recognizer, sink, stop)
        for one, name in zip(videos, names, strict=True):
            _run_one(state, one, name)
    if args.output is not None:
        frames = "1 frame" if state.frames == 1 else f"{state.frames:,} frames"
        note(f"{args.output}: {frames}", quiet=args.quiet)
    if args.episodes is not None:
        value = state.summaries[0] if single else state.summaries
        write_output(args.episodes, json_text(value) + "\n")
        note(f"episodes: {args.episodes}", quiet=args.quiet)
    return _exit_code(state, len(videos))


# ---------------------------------------------------------------- before the first frame
def _check(args: argparse.Namespace, shape: str, *, single: bool) -> None:
    for option, is_given in (
        ("--compat", args.compat is not None),
        ("--resume", args.resume),
        ("--engine ray", args.engine != "local"),
    ):
        if is_given:
            raise UsageError(f"{option} is for images: leave it out for a video")
    if shape == "parquet" and args.output is None:
        raise UsageError("Parquet needs a file: expected --output FILE.parquet")
    for option, path, suffixes in (
        ("--annotate", args.annotate, WRITTEN_SUFFIXES),
        ("--timeline", args.timeline, PICTURE_SUFFIXES),
    ):
        if not single and path is not None and path.suffix.lower() in suffixes:
            raise UsageError(f"expected {option} as a folder, since there may be several videos")


def _targets(args: argparse.Namespace, names: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield the files that will be written, each with its option."""
    for option in ("output", "episodes"):
        if getattr(args, option) is not None:
            yield f"--{option}", getattr(args, option)
    for name in names:
        if args.annotate is not None:
            yield "--annotate", _annotated_path(args, name)
        if args.timeline is not None:
            yield "--timeline", _timeline_path(args, name)


def _annotated_path(args: argparse.Namespace, name: str) -> Path:
    return _file_in(args.annotate, f"{name}.annotated.mp4", WRITTEN_SUFFIXES)


def _timeline_path(args: argparse.Namespace, name: str) -> Path:
    return _file_in(args.timeline, f"{name}.timeline.png", PICTURE_SUFFIXES)


def _window(args: argparse.Namespace) -> Window:
    def seconds(text: str | None) -> float | None:
        return None if text is None else parse_time(text)

    return Window(seconds(args.start) or 0.0, seconds(args.end), seconds(args.every))


def _file_names(videos: Sequence[Input]) -> list[str]:
    """Return what each video's own files are called by, none twice."""
    names: list[str] = []
    taken: set[str] = set()
    for one in videos:
        stem = name = _stem(one.source)
        number = 1
        # Some file systems take upper and lower case for the same.
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _stem(source: str) -> str:
    if is_camera(source):
        return f"camera-{source}"
    if is_stream(source):
        return re.sub(r"[^\w.-]+", "-", source_of(source).partition("://")[2]).strip("-.")
    return Path(source).stem


def _file_in(asked: Path, name: str, suffixes: Sequence[str]) -> Path:
    """Return the file that is asked for, or one in the folder that is."""
    return asked if asked.suffix.lower() in suffixes else asked / name


# ---------------------------------------------------------------- one video
def _run_one(state: _Run, one: Input, file_name: str) -> None:
    """Read one video; one that cannot be opened gets a result that says so."""
    args, source = state.args, one.source
    name = source_of(source)
    history = None if args.timeline is None else History()
    outputs = _Outputs(Summary(gap_s=memory_for(state.window.every)), history)
    try:
        if one.problem is not None:
            raise InputError(one.problem)
        live = connected(source, allow_private=args.allow_private)
        with ExitStack() as stack:
            if isinstance(live, LiveStream):
                stack.callback(live.close)
            info = probe(source, allow_private=args.allow_private) if live is None else None
            if args.annotate is not None:
                outputs.video = stack.enter_context(_annotating(state, source, file_name, info))
            if info is None and _draws(state):
                title = f"camera {source}" if is_camera(source) else name
                bars = LiveBars(title, state.recognizer.labels)
                outputs.bars = stack.enter_context(bars)
            moments = stack.enter_context(closing(_moments(state, source, live)))
            progress = stack.enter_context(_progress(state, info, is_shown=outputs.bars is None))
            _pass_on(state, moments, outputs, progress, live=info is None)
    except InputError as error:
        state.stop.check()
        state.problems.append(str(error))
        model = state.recognizer.model
        state.sink.add(Result(name, "unreadable", model, error=str(error)))
    _close(state, name, file_name, outputs)


def _moments(
    state: _Run, source: str, live: LiveStream | int | None
) -> Generator[Moment, None, None]:
    args = state.args
    frames = frames_of(
        source,
        live,
        state.window,
        patience_s=args.reconnect,
        allow_private=args.allow_private,
    )
    smoother = Smoother(state.args.smooth)
    name = source_of(source)
    yield from follow(state.recognizer, frames, name, window=state.window, smoother=smoother)


def _pass_on(
    state: _Run,
    moments: Generator[Moment, None, None],
    outputs: _Outputs,
    progress: Progress,
    *,
    live: bool,
) -> None:
    """Give every moment to every output."""
    last: Result | None = None
    try:
        for moment in moments:
            state.stop.check()
            last = moment.result or last
            outputs.take(moment, last)
            if moment.result is not None:
                state.sink.add(moment.result)
                if moment.result.error is not None:
                    state.problems.append(moment.result.error)
            progress.advance()
    except KeyboardInterrupt:
        # What is live has no end of its own: this is how people end it.
        if not live:
            raise
        state.stop.heard.clear()


def _close(state: _Run, name: str, file_name: str, outputs: _Outputs) -> None:
    """Write what a whole video tells."""
    args, summary = state.args, outputs.summary
    people = summary.people()
    state.sink.end(name, people)
    state.frames += summary.frames
    state.faces += summary.faces
    listed = [person.to_dict() for person in people]
    state.summaries.append({"schema": EPISODES_SCHEMA, "source": name, "people": listed})
    if args.output is not None and people and not args.quiet:
        sys.stderr.write(episode_table(people))
    if outputs.history is None or not summary.frames:
        return
    picture = draw_timeline(
        outputs.history,
        people,
        title=name,
        labels=state.recognizer.labels,
        portraits=outputs.portraits.pictures,
    )
    path = _timeline_path(args, file_name)
    write_picture(picture, path)
    note(f"timeline: {path}", quiet=args.quiet)


@contextmanager
def _annotating(
    state: _Run, source: str, file_name: str, info: VideoInfo | None
) -> Iterator[AnnotatedVideo]:
    path = _annotated_path(state.args, file_name)
    sound_of = source if info is not None and info.has_sound else None
    kept = writing(
        path,
        info,
        window=state.window,
        sound_of=sound_of,
        allow_private=state.args.allow_private,
    )
    with kept as video:
        yield video
        if not video.frames:
            raise InputError(f"{source_of(source)}: no frame to annotate")
    note(f"annotated: {path}", quiet=state.args.quiet)


def _draws(state: _Run) -> bool:
    """Say whether something may be drawn on the terminal while results come."""
    streams = state.args.output is None and state.shape != "table" and sys.stdout.isatty()
    return not state.args.quiet and not streams and sys.stderr.isatty()


def _progress(state: _Run, info: VideoInfo | None, *, is_shown: bool) -> Progress:
    total = None
    if info is not None and info.duration_s is not None and info.frames is not None:
        window = state.window
        end = info.duration_s if window.end is None else min(window.end, info.duration_s)
        share = max(0.0, end - window.start) / max(info.duration_s, 1e-6)
        total = round(info.frames * share) or None
    quiet = not (is_shown and _draws(state))
    return Progress("reading video", total, unit="frames", quiet=quiet)


def _exit_code(state: _Run, videos: int) -> int:
    """Return 0 or 6, or raise what says that nothing was found or could be read."""
    first = state.problems[0] if state.problems else ""
    if not state.frames:
        text = first if videos == 1 else f"none of {videos} videos could be read; first: {first}"
        raise InputError(text or "no frame was read: the window holds none")
    if state.problems:
        note(f"mien: {first}", quiet=False)
        return EXIT_PARTIAL
    if not state.faces:
        frames = "the frame" if state.frames == 1 else f"any of {state.frames:,} frames"
        raise NoFaceError(f"no face found in {frames}: try another --detector")
    return EXIT_DONE
