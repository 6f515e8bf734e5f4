"""``mien predict``: find every face in images and read its emotion."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.batch.tally import Tally
from mien.cli.inputs import STDIN, Input, Inputs, find_inputs, is_single
from mien.cli.options import (
    add_batch_options,
    add_finding_options,
    add_force_option,
    add_recognizer_options,
    folder_name,
    recognizer_options,
)
from mien.cli.output import note, use_utf8_stdout, write_output, write_stdout
from mien.cli.predict_video import add_video_options, run_videos, videos_in
from mien.cli.result_text import RENDERERS, compat_chunks
from mien.cli.stopping import stopping_in_time
from mien.cli.targets import check_targets, read_files
from mien.cli.urls import add_url_options, is_web_address, url_reader
from mien.core.errors import (
    EXIT_DONE,
    EXIT_PARTIAL,
    InputError,
    MienError,
    NoFaceError,
    UsageError,
)
from mien.core.file_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES, WRITTEN_SUFFIXES
from mien.core.progress import Progress
from mien.core.results import COMPAT, table_columns

if TYPE_CHECKING:
    from mien.batch.engines import Engine
    from mien.core.results import Face, Result

FORMATS: tuple[str, ...] = (*RENDERERS, "parquet")

_FORMAT_OF_SUFFIX = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "table",
}
_OTHER_KINDS = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, ".xls", ".xlsx", ".ods", ".md", ".html", ".pdf")
_IN_PARTS = ("jsonl", "csv", "parquet")
_PATIENCE_S = 8.0
"""After a stop the command has so long to tidy up."""

_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".mpo", ".webp", ".avif")

_EPILOG = """\
Without --format, --output's suffix decides; else a terminal gets a table and a pipe gets JSON.
As json, one image named by its path (or -) gives one object, and anything else (several images, a
folder, a pattern) a list of them, however many there are; jsonl always gives one object a line.
An image that cannot be read has its own result, with status "unreadable"; the others still run.
With --output, jsonl, csv and parquet are written part by part, in a folder beside FILE until all is
done: however many images there are, and whatever ends the run, --resume goes on where it was.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``predict``."""
    parser = commands.add_parser(
        "predict",
        help="find every face in images and read its emotion",
        description="Find every face in images and read its emotion.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a file; a folder (the images in it and below, or else the videos); a quoted pattern; "
        "an address (http or https); - for stdin",
    )
    parser.add_argument("--format", choices=FORMATS, help="what the results look like; see below")
    parser.add_argument(
        "--compat",
        choices=tuple(COMPAT),
        help="give each image's faces as the JSON list that this tool gives",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the results there, not to stdout"
    )
    parser.add_argument(
        "--annotate",
        type=Path,
        metavar="DIR",
        help="write each picture there with its faces drawn in, as NAME.annotated.jpg or .png; "
        "a video as NAME.annotated.mp4, or with this name if it ends in .mp4, .mov or .mkv",
    )
    add_force_option(parser)
    add_recognizer_options(parser, crops="where each image is a face crop")
    add_finding_options(parser)
    add_batch_options(parser)
    add_video_options(parser)
    add_url_options(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    shape = _chosen_format(args.format, args.output, args.compat)
    videos = videos_in(args)
    if args.annotate is not None:
        _check_annotate(args.annotate, videos=bool(videos))
    if videos:
        return run_videos(args, shape, videos)
    if args.output is not None:
        check_targets([("--output", args.output)], reads=read_files(args), force=args.force)
    in_parts = _is_in_parts(args, shape)
    if args.resume and not in_parts:
        raise UsageError(
            "--resume goes on with a file: expected --output FILE.jsonl, .csv or .parquet, "
            "without --annotate and --compat"
        )
    with stopping_in_time(_PATIENCE_S, for_good=True):
        tally = _in_parts(args, shape) if in_parts else _at_once(args, shape)
    return _exit_code(tally)


def _is_in_parts(args: argparse.Namespace, shape: str) -> bool:
    """Say whether results go to a file part by part; Parquet goes nowhere else."""
    to_file = args.output is not None and (not args.output.exists() or args.output.is_file())
    plain = args.annotate is None and args.compat is None
    if shape == "parquet" and not (to_file and plain):
        raise UsageError("Parquet needs --output FILE, and goes without --annotate and --compat")
    return to_file and plain and shape in _IN_PARTS


def _in_parts(args: argparse.Namespace, shape: str) -> Tally:
    """Write a file part by part."""
    from mien.batch.engines import make_engine
    from mien.batch.formats import part_format
    from mien.batch.running import Reading, Target, run_batch

    inputs = find_inputs(args.images, read_url=url_reader(args))
    options = recognizer_options(args)
    recognizer = options.load()
    form = part_format(shape, recognizer.labels, recognizer.model)
    target = Target(args.output, form, resume=args.resume, quiet=args.quiet)
    reading = Reading(inputs.unique(), inputs.unread().unique())
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
    tally = run_batch(reading, make_engine(args, options, recognizer), target, run)
    inputs.note_left_out(quiet=args.quiet)
    return tally


def _origin(inputs: Inputs, output: Path) -> dict[str, Any]:
    """Return where the images of a run are from: other ones may have the same names elsewhere."""
    origin: dict[str, Any] = {"inputs": inputs.shown_words()}
    if not all(Path(word).is_absolute() or is_web_address(word) for word in inputs.words):
        try:
            origin["working folder"] = os.path.relpath(Path.cwd(), output.resolve().parent)
        except ValueError:  # on another drive
            origin["working folder"] = str(Path.cwd())
    if inputs.stdin is not None and isinstance(inputs.stdin.content, bytes):
        origin["standard input"] = hashlib.sha256(inputs.stdin.content).hexdigest()
    return origin


def _at_once(args: argparse.Namespace, shape: str) -> Tally:
    """Write to stdout as results come, or to a file at the end."""
    from mien.batch.engines import make_engine

    found = find_inputs(args.images, read_url=url_reader(args))
    inputs = list(found)
    if args.annotate is not None:
        names = _picture_names([one.source for one in inputs])
        pictures = [("--annotate", args.annotate / name) for name in names]
        check_targets(pictures, reads=read_files(args), force=args.force)
    found.note_left_out(quiet=args.quiet)
    options = recognizer_options(args)
    recognizer = options.load()
    engine = make_engine(args, options, recognizer)
    tally = Tally()
    results = _analyzed(engine, inputs, shows=_may_draw(args, shape, len(inputs)))
    results = _counted(results, tally)
    if args.annotate is not None:
        results = _annotated(results, inputs, args.annotate, quiet=args.quiet)
    single = is_single(args.images)
    if args.compat is None:
        chunks = RENDERERS[shape](results, recognizer.labels, single)
    else:
        chunks = compat_chunks(results, COMPAT[args.compat], shape, single)
    if args.output is None:
        if shape != "table":
            use_utf8_stdout()
        for chunk in chunks:
            write_stdout(chunk)
    else:
        write_output(args.output, "".join(chunks))
        note(f"{args.output}: {tally.summary()}", quiet=args.quiet)
    return tally


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
    kinds = ", ".join(_FORMAT_OF_SUFFIX)
    if str(output) == "-":
        raise UsageError("--output - would be a file called -: leave it out for standard output")
    if asked is not None and (told == asked or suffix not in (*_FORMAT_OF_SUFFIX, *_OTHER_KINDS)):
        return asked
    if asked is not None:
        raise UsageError(f"--output {output} does not end as --format {asked} does: change one")
    if told is not None:
        return told
    if _is_special(output):
        return "json"
    hint = ""
    if suffix in IMAGE_SUFFIXES:
        hint = " (--annotate DIR writes pictures, --timeline FILE one of a video)"
    elif suffix in VIDEO_SUFFIXES:
        hint = " (--annotate FILE writes a video)"
    raise UsageError(f"expected --output to end in {kinds}, or --format; got {output}{hint}")


def _is_special(path: Path) -> bool:
    """Say whether a path leads to a device, a pipe or a folder, whose names end in nothing."""
    return os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113 - never raise


def _check_annotate(annotate: Path, *, videos: bool) -> None:
    """Refuse what is neither a folder nor, of a video, a file that can be written."""
    suffix = annotate.suffix.lower()
    if videos and suffix in WRITTEN_SUFFIXES:
        return
    try:
        folder_name(str(annotate))
    except argparse.ArgumentTypeError as error:
        also = f", or a name ending in {', '.join(WRITTEN_SUFFIXES)}" if videos else ""
        raise UsageError(f"--annotate: {error}{also}") from error
    if os.path.isfile(annotate):  # noqa: PTH113 - Path.is_file raises where a name is too long
        raise UsageError(f"--annotate: expected a folder's name, and {annotate} is a file")


def _may_draw(args: argparse.Namespace, shape: str, images: int) -> bool:
    """Say whether a progress line is worth it and does not mix with results on the terminal."""
    streams = args.output is None and shape != "table" and sys.stdout.isatty()
    return not args.quiet and not streams and images > 1


def _analyzed(engine: Engine, inputs: Sequence[Input], *, shows: bool) -> Iterator[Result]:
    """Yield one result an input, in order, as batches of images are done."""
    with (
        closing(engine(inputs)) as results,
        Progress("reading faces", len(inputs), unit="img", quiet=not shows) as progress,
    ):
        for result in results:
            progress.advance()
            yield result


def _counted(results: Iterable[Result], tally: Tally) -> Iterator[Result]:
    for result in results:
        tally.count(result)
        yield result


def _annotated(
    results: Iterable[Result], inputs: Sequence[Input], folder: Path, *, quiet: bool
) -> Iterator[Result]:
    """Write a picture for each image that could be read, as its result passes."""
    names = _picture_names([one.source for one in inputs])
    written = 0
    for one, name, result in zip(inputs, names, results, strict=True):
        if one.content is not None and result.error is None:
            _write_picture(one.content, result.faces, folder / name)
            written += 1
        yield result
    what = str(folder / names[0]) if len(inputs) == 1 else f"{written} pictures in {folder}"
    if written:
        note(f"annotated: {what}", quiet=quiet)


def _picture_names(sources: Sequence[str]) -> list[str]:
    """Return a file name for each picture, none twice, however alike the sources' names are."""
    taken: set[str] = set()
    names = []
    for source in sources:
        path = Path("stdin.png" if source == STDIN else source)
        suffix = ".jpg" if path.suffix.lower() in _PHOTO_SUFFIXES else ".png"
        name, number = f"{path.stem}.annotated{suffix}", 1
        # Some file systems take upper and lower case for the same.
        while name.casefold() in taken:
            number += 1
            name = f"{path.stem}-{number}.annotated{suffix}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _write_picture(content: str | bytes, faces: Sequence[Face], path: Path) -> None:
    from mien.core.images import load_image, write_picture
    from mien.inference.annotate import annotate

    write_picture(annotate(load_image(content), faces), path)


def _exit_code(tally: Tally) -> int:
    """Return 0 or 6, or raise what says that nothing was found or could be read."""
    failed, first = tally.failed, tally.first_problem
    if failed == tally.images:
        text = f"none of {failed:,} inputs could be read; first: {first}"
        text = str(first) if failed == 1 else text
        raise MienError(text) if tally.statuses["error"] else InputError(text)
    if failed:
        text = f"{failed:,} of {tally.images:,} inputs failed; first: {first}"
        note(f"mien: {text}", quiet=False)
        return EXIT_PARTIAL
    if not tally.faces:
        where = "the image" if tally.images == 1 else f"any of {tally.images:,} images"
        raise NoFaceError(
            f"no face found in {where}: try another --detector, "
            "or --detector none for images that are face crops"
        )
    return EXIT_DONE
