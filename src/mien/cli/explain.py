"""``mien explain``: heat maps of the face regions behind an emotion."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mien.batch.inputs import Input
from mien.cli.options import (
    add_command,
    add_face_options,
    add_force_option,
    add_recognizer_options,
    file_name,
    integer,
    recognizer_options,
)
from mien.cli.output import note, use_utf8_stdout, write_stdout
from mien.cli.paths import (
    STDIN,
    check_targets,
    find_inputs,
    input_paths,
    is_single,
    stem_of,
    unique_names,
)
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
from mien.core.models import EXPLANATION_METHODS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mien.core.results import ModelInfo
    from mien.inference.explain import ExplainedFace
    from mien.inference.recognizer import Recognizer

SCHEMA = "mien-explanation/1"
"""Name and version of the JSON."""

_SUFFIXES = (".png", ".jpg", ".jpeg")

# Lists of numbers in indented JSON, put on one line to keep heat maps readable. Newlines inside
# strings are escaped, so all others are between values.
_NUMBERS = re.compile(r"\[\n\s*([-\d.,\s]+?)\n\s*\]")

_DETAILS = """\
occlusion covers the face patch by patch and shows how much of the emotion's score is lost where.
gradcam weighs the network's last feature map: fast but coarse. See docs/howto/explain.md.
"""


class _Explained(NamedTuple):
    """An image with its explained faces, and the picture that was written, if any."""

    source: str
    picture: Path | None
    faces: list[ExplainedFace]


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``explain``."""
    parser = add_command(
        commands,
        "explain",
        help="show which parts of a face its emotion was read from",
        description="Draw a heat map over each face that shows what its emotion was read from.",
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
        type=file_name(*_SUFFIXES, or_folder=True),
        metavar="FILE",
        help="the picture to write, .png or .jpg; or a folder for NAME.explained.png of each "
        "(default: this folder; none with --json)",
    )
    add_force_option(parser)
    add(
        "--method",
        choices=EXPLANATION_METHODS,
        default=EXPLANATION_METHODS[0],
        help="explained below (default: %(default)s)",
    )
    add(
        "--emotion",
        metavar="NAME",
        help="explain this emotion instead of each face's most likely one",
    )
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
    explained: list[_Explained] = []
    errors: list[MienError] = []
    for image, picture in zip(inputs, pictures, strict=True):
        try:
            faces = _explain(args, image, recognizer, picture)
        except (InputError, NoFaceError) as error:
            errors.append(error)
        else:
            explained.append(_Explained(image.source, picture, faces))
    if not explained:
        raise errors[0]
    if args.json:
        use_utf8_stdout()
        records = [_to_dict(image, recognizer.model) for image in explained]
        write_stdout(_json(records[0] if single else records))
    else:
        write_stdout(_table(explained, single=single))
    for _, path, _ in explained:
        if path is not None:
            note(f"picture: {path}", quiet=args.quiet)
    for problem in errors:
        note(f"mien: {problem}", quiet=False)
    return EXIT_PARTIAL if any(isinstance(item, InputError) for item in errors) else EXIT_DONE


def _picture_paths(
    args: argparse.Namespace, inputs: Sequence[Input], *, single: bool
) -> list[Path | None]:
    """Return the path of each input's picture; None for each if only JSON is printed."""
    output: Path | None = args.output
    if output is None and args.json:
        return [None] * len(inputs)
    if output is not None and output.suffix.lower() in _SUFFIXES:
        if not single:
            raise UsageError("expected --output as a folder, since there may be several images")
        return [output]
    names = unique_names([(stem_of(image.source), ".explained.png") for image in inputs])
    return [(output or Path()) / name for name in names]


def _explain(
    args: argparse.Namespace, image: Input, recognizer: Recognizer, picture: Path | None
) -> list[ExplainedFace]:
    """Explain the faces of an image and write its picture; raises InputError or NoFaceError."""
    from mien.core.images import write_picture
    from mien.inference.explain import explain
    from mien.inference.explain_picture import explanation_picture

    if image.content is None:
        raise InputError(image.problem)
    try:
        faces = explain(
            recognizer,
            image.content,
            emotion=args.emotion,
            face_id=args.face,
            method=args.method,
            quiet=args.quiet,
        )
    except UnreadableImage as error:
        if image.source != STDIN:
            raise
        raise UnreadableImage("standard input" + str(error).removeprefix("image")) from error
    if not faces:
        raise NoFaceError(
            f"no face found in {image.source}: try another --detector, "
            "or --detector none for an image that is a face crop"
        )
    if picture is not None:
        write_picture(explanation_picture(faces), picture)
    return faces


def _to_dict(image: _Explained, model: ModelInfo) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "source": image.source,
        "picture": None if image.picture is None else str(image.picture),
        "faces": [
            {**face.face.to_dict(), "explanation": face.explanation.to_dict()}
            for face in image.faces
        ],
        "model": model.to_dict(),
    }


def _json(content: object) -> str:
    text = _NUMBERS.sub(lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]", json_text(content))
    return text + "\n"


def _table(images: Sequence[_Explained], *, single: bool) -> str:
    """Return a table with one row per face; without the image's name if there is only one."""
    header = ["IMAGE", "FACE", "EMOTION", "CONFIDENCE", "WHY", "PEAK", "WHERE"]
    rows = [[image.source, *_row(face)] for image in images for face in image.faces]
    start = int(single)
    return table_text(header[start:], [row[start:] for row in rows], right=(3 - start, 5 - start))


def _row(explained: ExplainedFace) -> tuple[str, ...]:
    face, explanation = explained.face, explained.explanation
    points = 100 * explanation.peak
    peak = f"-{points:.0f} points" if points >= 1 else "under 1 point"
    if explanation.method == "gradcam":
        peak = f"+{explanation.peak:.2f} logit"
    return (
        str(face.face_id),
        face.emotion + (" ?" if face.uncertain else ""),
        f"{face.confidence:.0%}",
        explanation.emotion,
        peak if explanation.peak > 0 else "-",
        f"{explanation.part} face" if explanation.part else "nowhere",
    )
