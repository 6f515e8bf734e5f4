"""``mien explain``: show which parts of a face speak for its emotion."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.batch.inputs import Input
from mien.cli.options import (
    add_command,
    add_face_options,
    add_force_option,
    add_recognizer_options,
    file_or_folder_name,
    integer,
    recognizer_options,
)
from mien.cli.output import note, use_utf8_stdout, write_stdout
from mien.cli.paths import STDIN, check_targets, find_inputs, input_paths, is_single, unique_names
from mien.core.errors import (
    EXIT_DONE,
    EXIT_PARTIAL,
    InputError,
    MienError,
    NoFaceError,
    UnreadableImage,
    UsageError,
)
from mien.core.formats import json_text, table_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mien.core.results import ModelInfo
    from mien.inference.explain import ExplainedFace
    from mien.inference.recognizer import Recognizer

SCHEMA = "mien-explanation/1"
"""Name and version of the JSON form."""

_METHODS = ("occlusion", "gradcam")  # as in mien.inference.explain, which is heavy to import
_SUFFIXES = (".png", ".jpg", ".jpeg")

# In indented JSON, a list of numbers; one line each keeps a heat map readable. Line ends inside
# strings are escaped, so the real ones stand between values.
_NUMBERS = re.compile(r"\[\n\s*([-\d.,\s]+?)\n\s*\]")

_DETAILS = """\
occlusion covers the face bit by bit and shows how much of the emotion's score is lost where.
gradcam weighs the network's last feature map, which is fast but coarse. See docs/howto/explain.md.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``explain``."""
    parser = add_command(
        commands,
        "explain",
        help="show which parts of a face speak for its emotion",
        description="Draw a heat map over each face: what in it speaks for its emotion.",
        examples=(
            "mien explain photo.jpg",
            "mien explain photo.jpg --face 0 --emotion sad --output why.png",
            "mien explain photos --output explained",
        ),
        usage="[options] IMAGE [IMAGE ...]",
        details=_DETAILS,
    )
    add = parser.add_argument
    images_help = "a file, a folder, a quoted pattern, or - for stdin"
    add("images", nargs="+", metavar="IMAGE", help=images_help)
    add(
        "--output",
        type=file_or_folder_name(*_SUFFIXES),
        metavar="FILE",
        help="the picture to write, .png or .jpg; or a folder for NAME.explained.png of each "
        "(default: this folder; none with --json)",
    )
    add_force_option(parser)
    add("--method", choices=_METHODS, default=_METHODS[0], help="see below (default: %(default)s)")
    add("--emotion", metavar="NAME", help="explain this emotion, not each face's likeliest")
    add("--face", type=integer(), metavar="N", help="only this face, counted from 0, left to right")
    add_recognizer_options(parser, crops="where the image is a face crop")
    add_face_options(parser)
    add("--json", action="store_true", help="print heat maps and figures as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    single = is_single(args.images)
    inputs = list(find_inputs(args.images).unique())
    pictures = _picture_paths(args, inputs, single=single)
    targets = [("--output", picture) for picture in pictures if picture is not None]
    check_targets(targets, reads=input_paths(args), force=args.force)
    recognizer = recognizer_options(args).load()
    done: list[tuple[str, Path | None, list[ExplainedFace]]] = []
    missed: list[MienError] = []
    for one, picture in zip(inputs, pictures, strict=True):
        try:
            faces = _explained(args, one, recognizer, picture)
        except (InputError, NoFaceError) as error:
            missed.append(error)
        else:
            done.append((one.source, picture, faces))
    if not done:
        raise missed[0]
    if args.json:
        use_utf8_stdout()
        listed = [_record(*each, recognizer.model) for each in done]
        write_stdout(_json(listed[0] if single else listed))
    else:
        write_stdout(_table(done, single=single))
    for _, picture, _ in done:
        if picture is not None:
            note(f"picture: {picture}", quiet=args.quiet)
    for miss in missed:
        note(f"mien: {miss}", quiet=False)
    return EXIT_PARTIAL if any(isinstance(each, InputError) for each in missed) else EXIT_DONE


def _picture_paths(
    args: argparse.Namespace, inputs: Sequence[Input], *, single: bool
) -> list[Path | None]:
    """Return the picture of each input; None for all where there is only JSON."""
    output: Path | None = args.output
    if output is None and args.json:
        return [None] * len(inputs)
    if output is not None and output.suffix.lower() in _SUFFIXES:
        if not single:
            raise UsageError("expected --output as a folder, since there may be several images")
        return [output]
    names = unique_names([(_stem(one.source), ".explained.png") for one in inputs])
    return [(output or Path()) / name for name in names]


def _stem(source: str) -> str:
    if source[:5].lower() == "data:":  # an image, not the name of one
        return "data"
    return "stdin" if source == STDIN else Path(source).stem


def _explained(
    args: argparse.Namespace, one: Input, recognizer: Recognizer, picture: Path | None
) -> list[ExplainedFace]:
    """Explain an image and draw it; raises InputError or NoFaceError."""
    from mien.core.images import write_picture
    from mien.inference.explain import explain
    from mien.inference.explain_picture import explanation_picture

    if one.content is None:
        raise InputError(one.problem)
    try:
        faces = explain(
            recognizer,
            one.content,
            emotion=args.emotion,
            face_id=args.face,
            method=args.method,
            quiet=args.quiet,
        )
    except UnreadableImage as error:
        if one.source != STDIN:
            raise
        raise UnreadableImage("standard input" + str(error).removeprefix("image")) from error
    if not faces:
        raise NoFaceError(
            f"no face found in {one.source}: try another --detector, "
            "or --detector none for an image that is a face crop"
        )
    if picture is not None:
        write_picture(explanation_picture(faces), picture)
    return faces


def _record(
    source: str, picture: Path | None, faces: Sequence[ExplainedFace], model: ModelInfo
) -> dict[str, Any]:
    listed = [{**each.face.to_dict(), "explanation": each.explanation.to_dict()} for each in faces]
    return {
        "schema": SCHEMA,
        "source": source,
        "picture": None if picture is None else str(picture),
        "faces": listed,
        "model": model.to_dict(),
    }


def _json(content: object) -> str:
    text = _NUMBERS.sub(lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", json_text(content))
    return text + "\n"


def _table(
    done: Sequence[tuple[str, Path | None, Sequence[ExplainedFace]]], *, single: bool
) -> str:
    """Return a row for each face; a single image's name is not said again."""
    rows = [[source, *_row(each)] for source, _, faces in done for each in faces]
    header = ["IMAGE", "FACE", "EMOTION", "CONFIDENCE", "WHY", "PEAK", "WHERE"]
    first = int(single)
    shown = [row[first:] for row in rows]
    return table_text(header[first:], shown, right=(3 - first, 5 - first))


def _row(explained: ExplainedFace) -> tuple[str, ...]:
    face, why = explained.face, explained.explanation
    points = 100 * why.peak
    peak = f"-{points:.0f} points" if points >= 1 else "under 1 point"
    if why.method == "gradcam":
        peak = f"+{why.peak:.2f} logit"
    return (
        str(face.face_id),
        face.emotion + (" ?" if face.uncertain else ""),
        f"{face.confidence:.0%}",
        why.emotion,
        peak if why.peak > 0 else "-",
        f"{why.part} face" if why.part else "nowhere",
    )
