"""``mien explain``: show which parts of a face speak for its emotion."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mien.batch.inputs import Input
from mien.cli.inputs import STDIN, find_inputs, is_single
from mien.cli.options import (
    add_command,
    add_finding_options,
    add_force_option,
    add_recognizer_options,
    file_name,
    recognizer_options,
    whole,
)
from mien.cli.output import note, use_utf8_stdout, write_stdout
from mien.cli.targets import check_targets, read_files
from mien.core.errors import EXIT_DONE, InputError, NoFaceError, UnreadableImage, UsageError
from mien.core.formats import json_text, table_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mien.core.results import ModelInfo
    from mien.inference.explain import ExplainedFace

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
        ),
        usage="[options] IMAGE",
        details=_DETAILS,
    )
    add = parser.add_argument
    add("image", metavar="IMAGE", help="a file, or - for stdin")
    add(
        "--output",
        type=file_name(*_SUFFIXES),
        metavar="FILE",
        help="the picture to write, .png or .jpg (NAME.explained.png here; none with --json)",
    )
    add_force_option(parser)
    add("--method", choices=_METHODS, default=_METHODS[0], help="see below (default: %(default)s)")
    add("--emotion", metavar="NAME", help="explain this emotion, not each face's likeliest")
    add("--face", type=whole(), metavar="N", help="this face alone, counted from 0, left to right")
    add_recognizer_options(parser, crops="where the image is a face crop")
    add_finding_options(parser)
    add("--json", action="store_true", help="print heat maps and figures as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from mien.core.images import write_picture
    from mien.inference.explain import explain
    from mien.inference.explain_picture import explanation_picture

    one = _only_input(args.image)
    picture: Path | None = args.output
    if picture is None and not args.json:
        is_data = args.image[:5].lower() == "data:"  # an image, not the name of one
        name = "stdin" if args.image == STDIN else "data" if is_data else Path(args.image).stem
        picture = Path(f"{name}.explained.png")
    if picture is not None:
        reads = [args.image, *read_files(args)]
        check_targets([("--output", picture)], reads=reads, force=args.force)
    recognizer = recognizer_options(args).load()
    try:
        faces = explain(
            recognizer,
            one.content or b"",
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
    if args.json:
        use_utf8_stdout()
        write_stdout(_json(one.source, picture, faces, recognizer.model))
    else:
        write_stdout(_table(faces))
    if picture is not None:
        note(f"picture: {picture}", quiet=args.quiet)
    return EXIT_DONE


def _only_input(word: str) -> Input:
    if not is_single([word]):
        raise UsageError(f"expected one image, got {word}, a folder or pattern")
    (one,) = find_inputs([word])
    if one.content is None:
        raise InputError(one.problem)
    return one


def _json(
    source: str, picture: Path | None, faces: Sequence[ExplainedFace], model: ModelInfo
) -> str:
    listed = [{**each.face.to_dict(), "explanation": each.explanation.to_dict()} for each in faces]
    content = {
        "schema": SCHEMA,
        "source": source,
        "picture": None if picture is None else str(picture),
        "faces": listed,
        "model": model.to_dict(),
    }
    text = _NUMBERS.sub(lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", json_text(content))
    return text + "\n"


def _table(faces: Sequence[ExplainedFace]) -> str:
    rows = []
    for each in faces:
        face, why = each.face, each.explanation
        points = 100 * why.peak
        peak = f"-{points:.0f} points" if points >= 1 else "under 1 point"
        if why.method == "gradcam":
            peak = f"+{why.peak:.2f} logit"
        row = (
            str(face.face_id),
            face.emotion + (" ?" if face.uncertain else ""),
            f"{face.confidence:.0%}",
            why.emotion,
            peak if why.peak > 0 else "-",
            f"{why.part} face" if why.part else "nowhere",
        )
        rows.append(row)
    header = ("FACE", "EMOTION", "CONFIDENCE", "WHY", "PEAK", "WHERE")
    return table_text(header, rows, right=(2, 4))
