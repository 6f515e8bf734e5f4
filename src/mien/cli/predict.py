"""``mien predict``: detect faces in images and classify their emotions."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.batch.inputs import Input
from mien.batch.journal import RunSummary, count_of
from mien.batch.tables import FORMATS as RESUMABLE_FORMATS
from mien.batch.tables import result_format
from mien.cli.options import (
    add_batch_options,
    add_command,
    add_face_options,
    add_force_option,
    add_recognizer_options,
    add_url_options,
    file_name,
    folder_name,
    number,
    path_name,
    recognizer_options,
)
from mien.cli.output import COMPAT_FORMATS, FORMATS, can_show_progress, note, result_writer
from mien.cli.paths import (
    Inputs,
    check_targets,
    find_inputs,
    find_videos,
    input_paths,
    is_single,
    stem_of,
    unique_names,
    url_reader,
)
from mien.cli.signals import interruptible
from mien.core.errors import EXIT_DONE, EXIT_PARTIAL, InputError, MienError, NoFaceError, UsageError
from mien.core.file_types import (
    IMAGE_SUFFIXES,
    OUTPUT_IMAGE_SUFFIXES,
    OUTPUT_VIDEO_SUFFIXES,
    VIDEO_SUFFIXES,
)
from mien.core.progress import Progress
from mien.core.results import Result, table_columns
from mien.core.web import is_web_address, redact_address

if TYPE_CHECKING:
    from mien.batch.analysis import Engine
    from mien.batch.inputs import RecognizerOptions
    from mien.core.results import Face
    from mien.inference.recognizer import Recognizer

_FORMAT_OF_SUFFIX = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
    ".txt": "table",
}
# With --format, --output may have any suffix but these, which stand for other formats.
_OTHER_SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, ".xls", ".ods", ".md", ".html", ".pdf")
_FILE_FORMATS = {"parquet": "Parquet", "xlsx": "Excel"}
"""Formats that are not written to stdout, and their names."""

_JPEG_LIKE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".mpo", ".webp", ".avif")
"""Suffixes of lossy images, which are annotated as JPEG."""

_GRACE_PERIOD_S = 8.0
"""Seconds after a signal in which finished results can still be written."""

_DETAILS = """\
Without --format, --output's suffix decides; else a terminal gets a table and a pipe gets JSON.
json is one object for a single image (a path, or -), and otherwise a list (several images, a
folder, a pattern), even if it has one element; jsonl is one object per line.
An image that cannot be read gets a result with the status "unreadable"; the others are still read.
With --output, jsonl and tables are first written in parts, in a folder next to FILE, so --resume
can continue the run, whatever interrupted it and however many images there are.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``predict``."""
    parser = add_command(
        commands,
        "predict",
        help="detect the faces in images and classify their emotions",
        description="Detect every face in images or videos and classify its emotion.",
        examples=(
            "mien predict photo.jpg",
            "mien predict photos --output emotions.csv",
            'mien predict "photos/*.jpg" --format jsonl --annotate annotated',
            "mien predict clip.mp4 --every 0.5s --timeline timeline.png",
        ),
        usage="[options] IMAGE [IMAGE ...]",
        details=_DETAILS,
    )
    add = parser.add_argument
    add(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a file; a folder (the images in it and below, or else the videos); a quoted pattern; "
        "an address (http or https); a camera's number; - for stdin",
    )
    add("--format", choices=FORMATS, help="format of the results; explained below")
    compat_help = "write each image's faces in the JSON format of this tool"
    add("--compat", choices=tuple(COMPAT_FORMATS), help=compat_help)
    output_help = "write the results to this file instead of stdout"
    add("--output", type=path_name, metavar="FILE", help=output_help)
    add(
        "--annotate",
        type=path_name,
        metavar="DIR",
        help="write each picture with its faces drawn in to this folder, as NAME.annotated.jpg or "
        ".png; a video as NAME.annotated.mp4, or to this file if it ends in .mp4, .mov or .mkv",
    )
    add_force_option(parser)
    add_recognizer_options(parser, crops="where each image is a face crop")
    tta_help = "average over ten shifted and mirrored views of each face; takes ten times as long"
    add("--tta", action="store_true", help=tta_help)
    add_face_options(parser)
    add_batch_options(parser)
    _add_video_options(parser)
    add_url_options(parser)
    parser.set_defaults(run=_run)


def _add_video_options(parser: argparse.ArgumentParser) -> None:
    about = "FILE.mp4, rtsp://..., http://.../clip.mp4, or a camera's 0"
    add = parser.add_argument_group("videos, streams and cameras", about).add_argument
    every_help = "seconds between analyzed frames, for example 0.5s (default: every frame)"
    add("--every", metavar="SECONDS", help=every_help)
    add("--start", metavar="TIME", help="start here: seconds, mm:ss or h:mm:ss")
    add("--end", metavar="TIME", help="end here")
    add(
        "--smooth",
        type=number(0, 1e6),
        default=0.5,
        metavar="SECONDS",
        help="time constant of each person's smoothed scores, 0 for none (default: %(default)s)",
    )
    add(
        "--timeline",
        type=file_name(*OUTPUT_IMAGE_SUFFIXES, or_folder=True),
        metavar="FILE.png",
        help="draw emotions over time, by person; or a folder for NAME.timeline.png",
    )
    episodes_help = "write the episodes of each person's emotions, with start and end"
    add("--episodes", type=file_name(".json"), metavar="FILE.json", help=episodes_help)
    add(
        "--baseline",
        metavar="FROM:TO",
        help="seconds in which everyone is neutral, for example 0:5; adds corrected scores",
    )
    markers_help = "events, one per line: start, end, label; for --events"
    add("--markers", type=path_name, metavar="FILE.csv", help=markers_help)
    events_help = "write each event's mean scores, valence and shares of time, by person"
    add("--events", type=file_name(".csv"), metavar="FILE.csv", help=events_help)
    add(
        "--compare",
        type=file_name(".csv", *OUTPUT_IMAGE_SUFFIXES),
        action="append",
        metavar="FILE.csv|.png",
        help="compare the videos, with one row or lane each; can be given twice",
    )
    add(
        "--reconnect",
        type=number(0, 1e6),
        default=30.0,
        metavar="SECONDS",
        help="how long to retry when a stream is lost (default: %(default)g)",
    )
    show_help = "show annotated frames in a window during analysis; q closes it"
    add("--show", action="store_true", help=show_help)
    video_help = "read inputs as videos, whatever their names; in a folder, read its videos"
    add("--video", action="store_true", help=video_help)


_VIDEO_OPTIONS = (
    *("every", "start", "end", "timeline", "episodes"),
    *("baseline", "markers", "events", "compare"),
)


def _run(args: argparse.Namespace) -> int:
    output_format = _choose_format(args.format, args.output, args.compat)
    videos = find_videos(args.images, all_videos=args.video, quiet=args.quiet)
    _check_video_options(args, videos)
    if args.annotate is not None:
        _check_annotate(args.annotate, videos=bool(videos))
    if videos:
        from mien.cli.predict_video import run_videos

        return run_videos(args, output_format, videos)
    if args.output is not None:
        check_targets([("--output", args.output)], reads=input_paths(args), force=args.force)
    resumable = _is_resumable(args, output_format)
    with interruptible(_GRACE_PERIOD_S, final=True):
        analyze = _analyze_resumably if resumable else _analyze_once
        summary = analyze(args, output_format)
    return _exit_code(summary, args.output)


# ---------------------------------------------------------------- checks of options
def _check_video_options(args: argparse.Namespace, videos: Sequence[Input]) -> None:
    """Check that video options come with videos, and ``--offline`` without addresses."""
    for option in () if videos else _VIDEO_OPTIONS:
        if getattr(args, option) is not None:
            raise UsageError(
                f"--{option} is for videos, but none is given: --video reads any file as a video"
            )
    if args.show and not videos:
        raise UsageError("--show is for videos and cameras: --annotate DIR draws faces in pictures")
    for video in videos if args.offline else ():
        if "://" in video.source:
            source = redact_address(video.source)
            raise InputError(f"{source} is on the web, but --offline is given: give a file")


def _choose_format(requested: str | None, output: Path | None, compat: str | None) -> str:
    if output is not None:
        output_format = _format_of_file(requested, output)
    elif requested is not None:
        output_format = requested
    else:
        output_format = "table" if sys.stdout.isatty() and compat is None else "json"
    if compat is not None and output_format not in ("json", "jsonl"):
        raise UsageError(f"--compat {compat} writes JSON: expected --format json or jsonl")
    if output is None and output_format in _FILE_FORMATS:
        name = _FILE_FORMATS[output_format]
        raise UsageError(f"{name} needs --output FILE.{output_format}")
    return output_format


def _format_of_file(requested: str | None, output: Path) -> str:
    """Return the requested format, or else the one that a file's suffix stands for.

    Raises:
        UsageError: if neither gives a format, or the two contradict each other.
    """
    suffix = output.suffix.lower()
    implied = _FORMAT_OF_SUFFIX.get(suffix)
    if str(output) == "-":
        raise UsageError("--output - would be a file named -: omit it to write to standard output")
    if requested is not None:
        if implied == requested or suffix not in (*_FORMAT_OF_SUFFIX, *_OTHER_SUFFIXES):
            return requested
        raise UsageError(
            f"--output {output} does not match --format {requested}: change one of them"
        )
    if implied is not None:
        return implied
    if os.path.exists(output) and not os.path.isfile(output):  # noqa: PTH110, PTH113 - never raise
        return "json"  # a device or a pipe
    hint = ""
    if suffix in IMAGE_SUFFIXES:
        hint = " (--annotate DIR writes pictures, --timeline FILE a video's timeline)"
    elif suffix in VIDEO_SUFFIXES:
        hint = " (--annotate FILE writes a video)"
    suffixes = ", ".join(_FORMAT_OF_SUFFIX)
    raise UsageError(f"expected --output to end in {suffixes}, or --format; got {output}{hint}")


def _check_annotate(annotate: Path, *, videos: bool) -> None:
    """Check that ``--annotate`` names a folder or, for a video, a video file."""
    if videos and annotate.suffix.lower() in OUTPUT_VIDEO_SUFFIXES:
        return
    try:
        folder_name(str(annotate))
    except argparse.ArgumentTypeError as error:
        alternative = f", or a name ending in {', '.join(OUTPUT_VIDEO_SUFFIXES)}" if videos else ""
        raise UsageError(f"--annotate: {error}{alternative}") from error
    if os.path.isfile(annotate):  # noqa: PTH113 - Path.is_file raises where a name is too long
        raise UsageError(f"--annotate: expected a folder's name, and {annotate} is a file")


def _is_resumable(args: argparse.Namespace, output_format: str) -> bool:
    """Return True if results are written in parts, which is the only way for Parquet and Excel."""
    to_file = args.output is not None and (not args.output.exists() or args.output.is_file())
    plain = args.annotate is None and args.compat is None
    resumable = to_file and plain and output_format in RESUMABLE_FORMATS
    if output_format in _FILE_FORMATS and not resumable:
        name = _FILE_FORMATS[output_format]
        raise UsageError(f"{name} needs --output FILE.{output_format}, without --annotate")
    if args.resume and not resumable:
        raise UsageError(
            "--resume continues a file: expected --output FILE.jsonl, .csv, .tsv, .parquet "
            "or .xlsx, without --annotate and --compat"
        )
    return resumable


# ---------------------------------------------------------------- to a file, in parts
def _analyze_resumably(args: argparse.Namespace, output_format: str) -> RunSummary:
    from mien.batch.run import run_batch

    inputs = _find_inputs(args)
    options = recognizer_options(args)
    recognizer = options.load()
    manifest = recognizer.classifier.manifest
    settings = {
        "model": recognizer.model.sha256,
        # These also change results and are not part of the hashed file.
        "temperature": manifest.temperature,
        "thresholds": dict(manifest.thresholds),
        "detector": recognizer.detector.name,
        **options.settings(),
        "format": output_format,
        "columns": len(table_columns(recognizer.labels)),
        **_describe_inputs(inputs, args.output),
    }
    summary = run_batch(
        inputs.unique(),
        _make_engine(args, options, recognizer),
        args.output,
        result_format(output_format, recognizer.labels, recognizer.model),
        settings,
        resume=args.resume,
        inputs_to_count=inputs.for_counting().unique(),
        notify=None if args.quiet else partial(note, quiet=False),
    )
    inputs.note_skipped(quiet=args.quiet)
    return summary


def _find_inputs(args: argparse.Namespace) -> Inputs:
    read_url = url_reader(
        allow_private=args.allow_private, offline=args.offline, max_megabytes=args.max_download
    )
    return find_inputs(args.images, read_url=read_url)


def _make_engine(
    args: argparse.Namespace, options: RecognizerOptions, recognizer: Recognizer
) -> Engine:
    settings = {name: getattr(args, name) for name in ("workers", "batch_size", "timeout")}
    if args.engine == "ray":
        from mien.batch.ray_engine import RayEngine

        return RayEngine(options, recognizer, address=args.address, **settings)
    if args.address is not None:
        raise UsageError("--address is for a Ray cluster: add --engine ray")
    from mien.batch.run import LocalEngine

    return LocalEngine(options, recognizer, **settings)


def _describe_inputs(inputs: Inputs, output: Path) -> dict[str, Any]:
    """Return what identifies the inputs, so that a run is not resumed with other images.

    Relative names depend on the working folder, and ``-`` on the content of standard input.
    """
    described: dict[str, Any] = {"inputs": inputs.public_arguments()}
    if not all(Path(name).is_absolute() or is_web_address(name) for name in inputs.arguments):
        try:
            described["working folder"] = os.path.relpath(Path.cwd(), output.resolve().parent)
        except ValueError:  # on another drive
            described["working folder"] = str(Path.cwd())
    if inputs.stdin is not None and isinstance(inputs.stdin.content, bytes):
        described["standard input"] = hashlib.sha256(inputs.stdin.content).hexdigest()
    return described


# ---------------------------------------------------------------- to stdout, or to a file at once
def _analyze_once(args: argparse.Namespace, output_format: str) -> RunSummary:
    inputs = _find_inputs(args)
    images = list(inputs)
    annotated_paths = _annotated_paths(args.annotate, [image.source for image in images])
    if annotated_paths:
        targets = [("--annotate", path) for path in annotated_paths]
        check_targets(targets, reads=input_paths(args), force=args.force)
    inputs.note_skipped(quiet=args.quiet)
    options = recognizer_options(args)
    recognizer = options.load()
    engine = _make_engine(args, options, recognizer)
    summary, annotated = RunSummary(), 0
    show_progress = len(images) > 1 and can_show_progress(args, output_format)
    with (
        result_writer(
            output_format,
            args.output,
            recognizer.labels,
            recognizer.model,
            single=is_single(args.images),
            convert=Result.to_dict if args.compat is None else COMPAT_FORMATS[args.compat],
        ) as writer,
        closing(engine(images)) as results,
        Progress("reading faces", len(images), unit="img", quiet=not show_progress) as progress,
    ):
        for index, result in enumerate(results):
            progress.advance()
            summary.count(result)
            content = images[index].content
            if annotated_paths and content is not None and result.error is None:
                _write_annotated(content, result.faces, annotated_paths[index])
                annotated += 1
            writer.add(result)
    if annotated:
        many = f"{count_of(annotated, 'picture')} in {args.annotate}"
        note(f"annotated: {annotated_paths[0] if len(images) == 1 else many}", quiet=args.quiet)
    if args.output is not None:
        note(f"{args.output}: {summary.text()}", quiet=args.quiet)
    return summary


def _annotated_paths(folder: Path | None, sources: Sequence[str]) -> list[Path]:
    """Return the path of each source's annotated picture, all distinct; none without a folder."""
    if folder is None:
        return []
    names = []
    for source in sources:
        is_jpeg_like = Path(source).suffix.lower() in _JPEG_LIKE_SUFFIXES
        names.append((stem_of(source), f".annotated{'.jpg' if is_jpeg_like else '.png'}"))
    return [folder / name for name in unique_names(names)]


def _write_annotated(content: str | bytes, faces: Sequence[Face], path: Path) -> None:
    from mien.core.display import annotate
    from mien.core.images import load_image, write_picture

    write_picture(annotate(load_image(content), faces), path)


def _exit_code(summary: RunSummary, output: Path | None) -> int:
    """Return 0 or 6, or raise the error of a run without any readable image or any face."""
    failed, first_problem = summary.failed, summary.first_problem
    where = "" if output is None else f"; {output} lists them by their status"
    if failed == summary.images:
        text = f"none of {failed:,} inputs could be read; first: {first_problem}{where}"
        text = str(first_problem) if failed == 1 else text
        raise MienError(text) if summary.statuses["error"] else InputError(text)
    if failed:
        counts = ", ".join(
            f"{summary.statuses[status]:,} {status}"
            for status in ("unreadable", "error")
            if summary.statuses[status]
        )
        failures = f"{failed:,} of {summary.images:,} inputs failed ({counts})"
        note(f"mien: {failures}; first: {first_problem}{where}", quiet=False)
        return EXIT_PARTIAL
    if not summary.faces:
        images = "the image" if summary.images == 1 else f"any of {summary.images:,} images"
        raise NoFaceError(
            f"no face found in {images}: try another --detector, "
            "or --detector none for images that are face crops"
        )
    return EXIT_DONE
