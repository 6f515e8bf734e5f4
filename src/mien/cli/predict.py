"""``mien predict``: find every face in images and read its emotion."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.batch.inputs import Input
from mien.batch.journal import Tally
from mien.cli.options import (
    add_batch_options,
    add_command,
    add_face_options,
    add_force_option,
    add_recognizer_options,
    add_url_options,
    file_name,
    file_or_folder_name,
    folder_name,
    number,
    recognizer_options,
)
from mien.cli.output import can_show_progress, note
from mien.cli.paths import (
    STDIN,
    Inputs,
    check_targets,
    find_inputs,
    find_videos,
    input_paths,
    is_single,
    unique_names,
    url_reader,
)
from mien.cli.result_writers import FORMATS, image_writer
from mien.cli.signals import interruptible
from mien.core.errors import EXIT_DONE, EXIT_PARTIAL, InputError, MienError, NoFaceError, UsageError
from mien.core.file_types import (
    IMAGE_SUFFIXES,
    OUTPUT_IMAGE_SUFFIXES,
    OUTPUT_VIDEO_SUFFIXES,
    VIDEO_SUFFIXES,
)
from mien.core.progress import Progress
from mien.core.results import COMPAT_FORMATS, table_columns
from mien.core.web import is_web_address, redact_address

if TYPE_CHECKING:
    from mien.batch.engines import Engine
    from mien.batch.inputs import RecognizerOptions
    from mien.core.results import Face, Result
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
_OTHER_KINDS = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, ".xls", ".ods", ".md", ".html", ".pdf")
_IN_PARTS = ("jsonl", "csv", "tsv", "parquet", "xlsx")
_FILES_ALONE = {"parquet": "Parquet", "xlsx": "Excel"}
_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".mpo", ".webp", ".avif")

_PATIENCE_S = 8.0
"""After a stop the command has so long to tidy up."""

_DETAILS = """\
Without --format, --output's suffix decides; else a terminal gets a table and a pipe gets JSON.
As json, one image named by its path (or -) gives one object, and anything else (several images, a
folder, a pattern) a list of them, however many there are; jsonl always gives one object a line.
An image that cannot be read has its own result, with status "unreadable"; the others still run.
With --output, jsonl and tables are written part by part, in a folder beside FILE until all is
done: however many images there are, and whatever ends the run, --resume goes on where it was.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``predict``."""
    parser = add_command(
        commands,
        "predict",
        help="find every face in images and read its emotion",
        description="Find every face in images or videos and read its emotion.",
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
    add("--format", choices=FORMATS, help="what the results look like; see below")
    compat_help = "give each image's faces as the JSON list that this tool gives"
    add("--compat", choices=tuple(COMPAT_FORMATS), help=compat_help)
    add("--output", type=Path, metavar="FILE", help="write the results there, not to stdout")
    add(
        "--annotate",
        type=Path,
        metavar="DIR",
        help="write each picture there with its faces drawn in, as NAME.annotated.jpg or .png; "
        "a video as NAME.annotated.mp4, or with this name if it ends in .mp4, .mov or .mkv",
    )
    add_force_option(parser)
    add_recognizer_options(parser, crops="where each image is a face crop")
    tta_help = "average over ten shifted and mirrored views of each face, in ten times the time"
    add("--tta", action="store_true", help=tta_help)
    add_face_options(parser)
    add_batch_options(parser)
    _add_video_options(parser)
    add_url_options(parser)
    parser.set_defaults(run=_run)


def _add_video_options(parser: argparse.ArgumentParser) -> None:
    about = "FILE.mp4, rtsp://..., http://.../clip.mp4, or a camera's 0"
    add = parser.add_argument_group("videos, streams and cameras", about).add_argument
    every_help = "look at one frame in each so many seconds, as 0.5s (default: all frames)"
    add("--every", metavar="SECONDS", help=every_help)
    add("--start", metavar="TIME", help="from here on: seconds, mm:ss or h:mm:ss")
    add("--end", metavar="TIME", help="up to here")
    add(
        "--smooth",
        type=number(0, 1e6),
        default=0.5,
        metavar="SECONDS",
        help="time constant of each person's smoothed scores, 0 for none (default: %(default)s)",
    )
    add(
        "--timeline",
        type=file_or_folder_name(*OUTPUT_IMAGE_SUFFIXES),
        metavar="FILE.png",
        help="draw emotions over time, by person; or a folder for NAME.timeline.png",
    )
    episodes_help = "write who felt what from when to when"
    add("--episodes", type=file_name(".json"), metavar="FILE.json", help=episodes_help)
    add(
        "--baseline",
        metavar="FROM:TO",
        help="seconds in which each person is neutral, as 0:5: scores are corrected by them, too",
    )
    markers_help = "events, a line each: start, end, label; for --events"
    add("--markers", type=Path, metavar="FILE.csv", help=markers_help)
    events_help = "write each event's mean scores, valence and shares of time, by person"
    add("--events", type=file_name(".csv"), metavar="FILE.csv", help=events_help)
    add(
        "--compare",
        type=file_name(".csv", *OUTPUT_IMAGE_SUFFIXES),
        action="append",
        metavar="FILE.csv|.png",
        help="write the videos beside one another, a row or a lane each; may be given twice",
    )
    add(
        "--reconnect",
        type=number(0, 1e6),
        default=30.0,
        metavar="SECONDS",
        help="how long to try again when a stream is lost (default: %(default)g)",
    )
    show_help = "show each frame in a window while it is read, its faces drawn in; q ends it"
    add("--show", action="store_true", help=show_help)
    video_help = "take the inputs as videos, whatever their names; of a folder, the videos in it"
    add("--video", action="store_true", help=video_help)


_VIDEO_OPTIONS = (
    *("every", "start", "end", "timeline", "episodes"),
    *("baseline", "markers", "events", "compare"),
)


def _run(args: argparse.Namespace) -> int:
    shape = _chosen_format(args.format, args.output, args.compat)
    videos = find_videos(args.images, all_videos=args.video, quiet=args.quiet)
    _check_video_options(args, videos)
    if args.annotate is not None:
        _check_annotate(args.annotate, videos=bool(videos))
    if videos:
        from mien.cli.predict_video import run_videos

        return run_videos(args, shape, videos)
    if args.output is not None:
        check_targets([("--output", args.output)], reads=input_paths(args), force=args.force)
    in_parts = _is_in_parts(args, shape)
    with interruptible(_PATIENCE_S, for_good=True):
        tally = _in_parts(args, shape) if in_parts else _at_once(args, shape)
    return _exit_code(tally, args.output)


def _check_video_options(args: argparse.Namespace, videos: Sequence[Input]) -> None:
    """Refuse options for videos where none is given, and addresses where ``--offline`` is."""
    for option in () if videos else _VIDEO_OPTIONS:
        if getattr(args, option) is not None:
            raise UsageError(f"--{option} is for videos: none is given (--video takes any file)")
    if args.show and not videos:
        raise UsageError("--show is for videos and cameras: --annotate DIR draws faces in pictures")
    for one in videos if args.offline else ():
        if "://" in one.source:
            source = redact_address(one.source)
            raise InputError(f"{source} is on the web and this is offline: give a file")


# ---------------------------------------------------------------- formats
def _chosen_format(asked: str | None, output: Path | None, compat: str | None) -> str:
    if output is not None:
        shape = _format_of_file(asked, output)
    elif asked is not None:
        shape = asked
    else:
        shape = "table" if sys.stdout.isatty() and compat is None else "json"
    if compat is not None and shape not in ("json", "jsonl"):
        raise UsageError(f"--compat {compat} gives JSON: expected --format json or jsonl")
    return shape


def _format_of_file(asked: str | None, output: Path) -> str:
    """Return the format that is asked for or that a file's name ends in.

    Raises:
        UsageError: if it ends in neither, or in what the format that is asked for is not.
    """
    suffix = output.suffix.lower()
    told = _FORMAT_OF_SUFFIX.get(suffix)
    if str(output) == "-":
        raise UsageError("--output - would be a file called -: leave it out for standard output")
    if asked is not None:
        if told == asked or suffix not in (*_FORMAT_OF_SUFFIX, *_OTHER_KINDS):
            return asked
        raise UsageError(f"--output {output} does not end as --format {asked} does: change one")
    if told is not None:
        return told
    if os.path.exists(output) and not os.path.isfile(output):  # noqa: PTH110, PTH113 - never raise
        return "json"  # a device or a pipe, whose names end in nothing
    hint = ""
    if suffix in IMAGE_SUFFIXES:
        hint = " (--annotate DIR writes pictures, --timeline FILE one of a video)"
    elif suffix in VIDEO_SUFFIXES:
        hint = " (--annotate FILE writes a video)"
    kinds = ", ".join(_FORMAT_OF_SUFFIX)
    raise UsageError(f"expected --output to end in {kinds}, or --format; got {output}{hint}")


def _check_annotate(annotate: Path, *, videos: bool) -> None:
    """Refuse what is neither a folder nor, of a video, a file that can be written."""
    if videos and annotate.suffix.lower() in OUTPUT_VIDEO_SUFFIXES:
        return
    try:
        folder_name(str(annotate))
    except argparse.ArgumentTypeError as error:
        also = f", or a name ending in {', '.join(OUTPUT_VIDEO_SUFFIXES)}" if videos else ""
        raise UsageError(f"--annotate: {error}{also}") from error
    if os.path.isfile(annotate):  # noqa: PTH113 - Path.is_file raises where a name is too long
        raise UsageError(f"--annotate: expected a folder's name, and {annotate} is a file")


def _is_in_parts(args: argparse.Namespace, shape: str) -> bool:
    """Say whether results go to a file part by part; Parquet and Excel go nowhere else."""
    to_file = args.output is not None and (not args.output.exists() or args.output.is_file())
    plain = args.annotate is None and args.compat is None
    in_parts = to_file and plain and shape in _IN_PARTS
    if shape in _FILES_ALONE and not in_parts:
        raise UsageError(
            f"{_FILES_ALONE[shape]} needs --output FILE, and goes without --annotate and --compat"
        )
    if args.resume and not in_parts:
        raise UsageError(
            "--resume goes on with a file: expected --output FILE.jsonl, .csv, .tsv, .parquet "
            "or .xlsx, without --annotate and --compat"
        )
    return in_parts


# ---------------------------------------------------------------- into a file, part by part
def _in_parts(args: argparse.Namespace, shape: str) -> Tally:
    from mien.batch.run import run_batch
    from mien.batch.tables import part_format

    inputs = _inputs(args)
    options = recognizer_options(args)
    recognizer = options.load()
    form = part_format(shape, recognizer.labels, recognizer.model)
    run = {
        "model": recognizer.model.sha256,
        # They are beside the file that the hash is of, and change results too.
        "temperature": recognizer.classifier.manifest.temperature,
        "thresholds": dict(recognizer.classifier.manifest.thresholds),
        "detector": recognizer.detector.name,
        **options.settings(),
        "format": shape,
        "columns": len(table_columns(recognizer.labels)),
        **_origin(inputs, args.output),
    }
    tally = run_batch(
        inputs.unique(),
        _engine(args, options, recognizer),
        args.output,
        form,
        run,
        resume=args.resume,
        counted=inputs.for_counting().unique(),
        say=None if args.quiet else partial(note, quiet=False),
    )
    inputs.note_skipped(quiet=args.quiet)
    return tally


def _engine(args: argparse.Namespace, options: RecognizerOptions, recognizer: Recognizer) -> Engine:
    from mien.batch.engines import make_engine

    return make_engine(
        args.engine,
        options,
        recognizer,
        address=args.address,
        workers=args.workers,
        batch_size=args.batch_size,
        timeout=args.timeout,
    )


def _inputs(args: argparse.Namespace) -> Inputs:
    read_url = url_reader(
        allow_private=args.allow_private, offline=args.offline, max_megabytes=args.max_download
    )
    return find_inputs(args.images, read_url=read_url)


def _origin(inputs: Inputs, output: Path) -> dict[str, Any]:
    """Return where the images of a run are from: other ones may have the same names elsewhere."""
    origin: dict[str, Any] = {"inputs": inputs.public_arguments()}
    if not all(Path(word).is_absolute() or is_web_address(word) for word in inputs.arguments):
        try:
            origin["working folder"] = os.path.relpath(Path.cwd(), output.resolve().parent)
        except ValueError:  # on another drive
            origin["working folder"] = str(Path.cwd())
    if inputs.stdin is not None and isinstance(inputs.stdin.content, bytes):
        origin["standard input"] = hashlib.sha256(inputs.stdin.content).hexdigest()
    return origin


# ---------------------------------------------------------------- to stdout, or to a file at once
def _at_once(args: argparse.Namespace, shape: str) -> Tally:
    found = _inputs(args)
    inputs = list(found)
    pictures = _picture_paths(args.annotate, [one.source for one in inputs])
    if pictures:
        targets = [("--annotate", path) for path in pictures]
        check_targets(targets, reads=input_paths(args), force=args.force)
    found.note_skipped(quiet=args.quiet)
    options = recognizer_options(args)
    recognizer = options.load()
    engine = _engine(args, options, recognizer)
    tally, drawn = Tally(), 0
    shows = len(inputs) > 1 and can_show_progress(args, shape)
    with image_writer(
        shape,
        args.output,
        recognizer.labels,
        single=is_single(args.images),
        convert=None if args.compat is None else COMPAT_FORMATS[args.compat],
    ) as writer:
        for number, result in enumerate(_analyzed(engine, inputs, shows=shows)):
            tally.count(result)
            content = inputs[number].content
            if pictures and content is not None and result.error is None:
                _draw(content, result.faces, pictures[number])
                drawn += 1
            writer.add(result)
    if drawn:
        what = pictures[0] if len(inputs) == 1 else f"{drawn} pictures in {args.annotate}"
        note(f"annotated: {what}", quiet=args.quiet)
    if args.output is not None:
        note(f"{args.output}: {tally.summary()}", quiet=args.quiet)
    return tally


def _analyzed(engine: Engine, inputs: Sequence[Input], *, shows: bool) -> Iterator[Result]:
    """Yield one result an input, in order, as batches of images are done."""
    with (
        closing(engine(inputs)) as results,
        Progress("reading faces", len(inputs), unit="img", quiet=not shows) as progress,
    ):
        for result in results:
            progress.advance()
            yield result


def _picture_paths(folder: Path | None, sources: Sequence[str]) -> list[Path]:
    """Return the annotated picture of each source, none twice; none at all without a folder."""
    if folder is None:
        return []
    paths = [Path("stdin.png" if source == STDIN else source) for source in sources]
    kinds = [".jpg" if path.suffix.lower() in _PHOTO_SUFFIXES else ".png" for path in paths]
    names = [(path.stem, f".annotated{kind}") for path, kind in zip(paths, kinds, strict=True)]
    return [folder / name for name in unique_names(names)]


def _draw(content: str | bytes, faces: Sequence[Face], path: Path) -> None:
    from mien.core.display import annotate
    from mien.core.images import load_image, write_picture

    write_picture(annotate(load_image(content), faces), path)


def _exit_code(tally: Tally, output: Path | None) -> int:
    """Return 0 or 6, or raise what says that nothing was found or could be read."""
    failed, first = tally.failed, tally.first_problem
    listed = "" if output is None else f"; {output} lists them by their status"
    if failed == tally.images:
        text = f"none of {failed:,} inputs could be read; first: {first}{listed}"
        text = str(first) if failed == 1 else text
        raise MienError(text) if tally.statuses["error"] else InputError(text)
    if failed:
        kinds = ("unreadable", "error")
        counts = ", ".join(
            f"{tally.statuses[kind]:,} {kind}" for kind in kinds if tally.statuses[kind]
        )
        text = f"{failed:,} of {tally.images:,} inputs failed ({counts}); first: {first}{listed}"
        note(f"mien: {text}", quiet=False)
        return EXIT_PARTIAL
    if not tally.faces:
        where = "the image" if tally.images == 1 else f"any of {tally.images:,} images"
        raise NoFaceError(
            f"no face found in {where}: try another --detector, "
            "or --detector none for images that are face crops"
        )
    return EXIT_DONE
