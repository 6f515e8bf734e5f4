"""Options that several commands share, so that they mean and default to the same everywhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from mien.core.errors import UsageError
from mien.core.models import DEFAULT_MODEL
from mien.interfaces.batch.loading import RecognizerOptions

ENGINES: tuple[str, ...] = ("local", "ray")
"""Where ``--engine`` lets the work be done: on this machine, or on a Ray cluster."""


def add_recognizer_options(parser: argparse.ArgumentParser, *, crops: str) -> None:
    """Add ``--model``, ``--detector`` and ``--threads``.

    Args:
        parser: the command's.
        crops: when ``--detector none`` fits, as "where the image is a face crop".
    """
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="a bundled model's name, or a model's folder (%(default)s)",
    )
    parser.add_argument(
        "--detector",
        default="auto",
        help=f"auto, yunet, libface, haar, or none {crops} (%(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of the network (all cores)"
    )


def add_face_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--min-face``, ``--max-faces`` and ``--align``."""
    faces = parser.add_argument_group("faces")
    faces.add_argument(
        "--min-face",
        type=int,
        default=0,
        metavar="PX",
        help="leave out faces whose box has a smaller side (%(default)s: none)",
    )
    faces.add_argument(
        "--max-faces", type=int, metavar="N", help="read the N largest faces of an image (all)"
    )
    faces.add_argument(
        "--align",
        choices=("auto", "on", "off"),
        default="auto",
        help="level the eyes of faces before reading them: of those that lean far, of all, or of "
        "none; yunet and libface find eyes (%(default)s)",
    )


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--detector-weights``, ``--offline`` and ``--thorough``."""
    parser.add_argument(
        "--detector-weights", type=Path, metavar="FILE", help="weights of --detector yunet"
    )
    parser.add_argument("--offline", action="store_true", help="never use the network")
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="search for small faces, too, in a large picture down to its own pixels: many times "
        "the time of the default, which looks at 320 and, if need be, 640 pixels",
    )


def add_finding_options(parser: argparse.ArgumentParser) -> None:
    """Add how faces are found and which are read: the options of the two functions above."""
    add_detector_options(parser)
    add_face_options(parser)


def recognizer_options(args: argparse.Namespace) -> RecognizerOptions:
    """Return what the options of the functions above say.

    Raises:
        UsageError: if ``--min-face`` or ``--max-faces`` is too small.
    """
    if args.min_face < 0:
        raise UsageError(f"expected --min-face of 0 pixels or more, got {args.min_face}")
    if args.max_faces is not None and args.max_faces < 1:
        raise UsageError(f"expected --max-faces of 1 or more, got {args.max_faces}")
    return RecognizerOptions(
        model=args.model,
        detector=args.detector or "auto",
        detector_weights=args.detector_weights,
        offline=args.offline,
        threads=args.threads,
        min_face=args.min_face,
        max_faces=args.max_faces,
        align=args.align,
        thorough=args.thorough,
    )


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--resume``, ``--workers``, ``--batch-size``, ``--timeout`` and the engine's."""
    many = parser.add_argument_group("many images")
    many.add_argument(
        "--resume",
        action="store_true",
        help="go on with an --output that was interrupted; start it if it was not",
    )
    many.add_argument(
        "--workers", type=int, metavar="N", help="processes that read images (one a core)"
    )
    many.add_argument(
        "--batch-size",
        type=int,
        default=64,
        metavar="N",
        help="faces that go through the network at once (%(default)s)",
    )
    many.add_argument(
        "--timeout",
        type=float,
        default=120,
        metavar="SECONDS",
        help="give up an image that takes longer (%(default)s)",
    )
    add_engine_options(many, on_ray="over the machines of a Ray cluster")


def add_engine_options(group: argparse._ArgumentGroup, *, on_ray: str) -> None:
    """Add ``--engine`` and ``--address``.

    Args:
        group: of the command's options.
        on_ray: what ``--engine ray`` does, as "over the machines of a Ray cluster".
    """
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help=f"local, or ray: {on_ray} (%(default)s)",
    )
    group.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="the cluster of --engine ray; without it, one is started on this machine",
    )
