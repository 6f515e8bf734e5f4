"""``mien predict``: find every face in images and read its emotion."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mien.core.errors import (
    EXIT_DONE,
    EXIT_PARTIAL,
    InputError,
    MienError,
    NoFaceError,
    UsageError,
)
from mien.core.progress import Progress
from mien.interfaces.cli.inputs import STDIN, Input, find_inputs, is_single
from mien.interfaces.cli.options import add_recognizer_options
from mien.interfaces.cli.output import note, use_utf8_stdout, write_output, write_stdout
from mien.interfaces.cli.result_text import RENDERERS, compat_chunks
from mien.interfaces.compat import COMPAT

if TYPE_CHECKING:
    from mien.core.results import Face, Result
    from mien.inference.recognizer import Recognizer

FORMATS: tuple[str, ...] = tuple(RENDERERS)

_FORMAT_OF_SUFFIX = {".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".txt": "table"}
_IMAGES_AT_ONCE = 16
_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".mpo", ".webp", ".avif")

_EPILOG = """\
Without --format, --output's suffix decides; else a terminal gets a table and a pipe gets JSON.
As json, one image named by its path (or -) gives one object, and anything else (several images, a
folder, a pattern) a list of them, however many there are; jsonl always gives one object a line.
An image that cannot be read has its own result, with status "unreadable"; the others still run.
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
        help="a file; a folder (the images in it and below); a quoted pattern; - for stdin",
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
        help="write each picture there with its faces drawn in, as NAME.annotated.jpg or .png",
    )
    add_recognizer_options(parser, crops="where each image is a face crop")
    parser.add_argument(
        "--detector-weights", type=Path, metavar="FILE", help="weights of --detector yunet"
    )
    parser.add_argument(
        "--offline", action="store_true", help="never download a detector's weights"
    )
    parser.set_defaults(run=_run)


@dataclass
class _Tally:
    """What has come out so far, for the exit code and the closing line."""

    images: int = 0
    faces: int = 0
    problems: list[str] = field(default_factory=list)
    only_unreadable: bool = True

    def count(self, result: Result) -> None:
        self.images += 1
        self.faces += len(result.faces)
        if result.error is not None:
            self.problems.append(result.error)
            self.only_unreadable &= result.status == "unreadable"


def _run(args: argparse.Namespace) -> int:
    shape = _chosen_format(args.format, args.output, args.compat)
    inputs = find_inputs(args.images)
    recognizer = _load(args)
    tally = _Tally()
    results = _analyzed(recognizer, inputs, shows=_may_draw(args, shape, len(inputs)))
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
        note(f"{args.output}: {_counts(tally)}", quiet=args.quiet)
    return _exit_code(tally)


def _chosen_format(asked: str | None, output: Path | None, compat: str | None) -> str:
    if asked is not None:
        shape = asked
    elif output is not None:
        shape = _FORMAT_OF_SUFFIX.get(output.suffix.lower(), "json")
    else:
        shape = "table" if sys.stdout.isatty() and compat is None else "json"
    if compat is not None and shape not in ("json", "jsonl"):
        raise UsageError(f"--compat {compat} gives JSON: expected --format json or jsonl")
    return shape


def _load(args: argparse.Namespace) -> Recognizer:
    from mien.inference.detectors import load_detector
    from mien.inference.recognizer import load

    detector = load_detector(args.detector, weights=args.detector_weights, offline=args.offline)
    return load(args.model, detector=detector, threads=args.threads)


def _may_draw(args: argparse.Namespace, shape: str, images: int) -> bool:
    """Say whether a progress line is worth it and does not mix with results on the terminal."""
    streams = args.output is None and shape != "table" and sys.stdout.isatty()
    return not args.quiet and not streams and images > 1


def _analyzed(recognizer: Recognizer, inputs: Sequence[Input], *, shows: bool) -> Iterator[Result]:
    """Yield one result an input, in order, as batches of images are done."""
    with Progress("reading faces", len(inputs), unit="img", quiet=not shows) as progress:
        for start in range(0, len(inputs), _IMAGES_AT_ONCE):
            batch = inputs[start : start + _IMAGES_AT_ONCE]
            yield from _analyzed_batch(recognizer, batch, progress)


def _analyzed_batch(
    recognizer: Recognizer, batch: Sequence[Input], progress: Progress
) -> Iterator[Result]:
    from mien.core.results import Result

    def contents() -> Iterator[str | bytes]:
        for one in batch:
            if one.content is not None:
                yield one.content
            progress.advance()

    found = iter(recognizer.analyze_many(contents()))
    for one in batch:
        if one.content is None:
            yield Result(one.source, "unreadable", recognizer.model, error=one.problem)
            continue
        result = next(found)
        if result.error is not None and one.source == STDIN:
            error = "standard input" + result.error.removeprefix("image")
            yield replace(result, source=STDIN, error=error)
        else:
            yield replace(result, source=one.source)


def _counted(results: Iterable[Result], tally: _Tally) -> Iterator[Result]:
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
    import io

    from mien.core.files import write_atomically
    from mien.core.images import load_image
    from mien.inference.annotate import annotate

    buffer = io.BytesIO()
    picture = annotate(load_image(content), faces)
    if path.suffix == ".jpg":
        picture.save(buffer, "JPEG", quality=92)
    else:
        picture.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def _exit_code(tally: _Tally) -> int:
    """Return 0 or 6, or raise what says that nothing was found or could be read."""
    failed = len(tally.problems)
    first = tally.problems[0] if failed else ""
    if failed == tally.images:
        text = first if failed == 1 else f"none of {failed} inputs could be read; first: {first}"
        raise InputError(text) if tally.only_unreadable else MienError(text)
    if failed:
        text = f"{failed} of {tally.images} inputs failed; first: {first}"
        note(f"mien: {text}", quiet=False)
        return EXIT_PARTIAL
    if not tally.faces:
        where = "the image" if tally.images == 1 else f"any of {tally.images} images"
        raise NoFaceError(
            f"no face found in {where}: try another --detector, "
            "or --detector none for images that are face crops"
        )
    return EXIT_DONE


def _counts(tally: _Tally) -> str:
    faces = "1 face" if tally.faces == 1 else f"{tally.faces} faces"
    return f"{faces} in " + ("1 image" if tally.images == 1 else f"{tally.images} images")
