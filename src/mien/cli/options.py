"""Options that several commands share, so that they mean and default to the same everywhere."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path

from mien.batch.loading import RecognizerOptions
from mien.core.file_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from mien.core.models import DEFAULT_MODEL, READINGS

ENGINES: tuple[str, ...] = ("local", "ray")
"""Where ``--engine`` lets the work be done: on this machine, or on a Ray cluster."""


MOST_THREADS = 1024
"""Of the network, and processes: more than the largest machines have cores."""

MOST_BATCH = 65536
"""Faces that go through the network at once: memory grows with them."""

_MOST = 2**31 - 1
_FILE_SUFFIXES: tuple[str, ...] = (
    *(".csv", ".json", ".jsonl", ".parquet", ".txt", ".md", ".html", ".pdf", ".svg", ".toml"),
    *(".xls", ".xlsx", ".ods", ".zip", ".onnx", ".tflite", ".keras", ".npz"),
)


# ---------------------------------------------------------------- kinds of values
def whole(least: int = 0, most: int = _MOST) -> Callable[[str], int]:
    """Return the ``type`` of an option that takes a whole number, both ends included."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:  # also where there are more digits than Python reads
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least} to {most}, got {shown_value(text)}"
            )
        return number

    return parse


def number(least: float, most: float, *, above: bool = False) -> Callable[[str], float]:
    """Return the ``type`` of an option that takes a number; ``above``: ``least`` is too little."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (above and value == least):
            words = f"above {least:g}, up to {most:g}" if above else f"from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"expected a number {words}, got {shown_value(text)}")
        return value

    return parse


def file_name(*suffixes: str) -> Callable[[str], Path]:
    """Return the ``type`` of an option that names a file to write, which ends in one of these."""

    def parse(text: str) -> Path:
        if Path(text).suffix.lower() not in suffixes:
            kinds = ", ".join(suffixes)
            raise argparse.ArgumentTypeError(
                f"expected a name ending in {kinds}, got {shown_value(text)}"
            )
        return Path(text)

    return parse


def file_or_folder_name(*suffixes: str) -> Callable[[str], Path]:
    """Return the ``type`` of an option that names such a file, or a folder for several."""

    def parse(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() in suffixes or (path.suffix == "" and text not in ("", "-")):
            return path
        kinds = ", ".join(suffixes)
        raise argparse.ArgumentTypeError(
            f"expected a name ending in {kinds}, or a folder's, got {shown_value(text)}"
        )

    return parse


def folder_name(text: str) -> Path:
    """Take the name of a folder to write to (a ``type``), unless it is that of a file."""
    path = Path(text)
    kinds = (*_FILE_SUFFIXES, *IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    is_file = path.suffix.lower() in kinds and not os.path.isdir(path)  # noqa: PTH112
    if text in ("", "-") or is_file:
        raise argparse.ArgumentTypeError(f"expected a folder's name, got {shown_value(text)}")
    return path


def shown_value(text: str) -> str:
    """Return a value as an error shows it."""
    return repr(text if len(text) <= 60 else text[:60] + "...")


def add_force_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--force``."""
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace files that are there already and that mien did not write",
    )


# ---------------------------------------------------------------- options


def add_labels_option(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add ``--labels``; ``default`` says what it is without it."""
    parser.add_argument(
        "--labels",
        choices=READINGS[:2],
        help="whose labels scores follow: people, the share of ten people who would name an "
        f"emotion, or fer2013, the data set's own ({default})",
    )


def add_recognizer_options(parser: argparse.ArgumentParser, *, crops: str) -> None:
    """Add ``--model``, ``--labels``, ``--detector`` and ``--threads``.

    Args:
        parser: the command's.
        crops: when ``--detector none`` fits, as "where the image is a face crop".
    """
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="a bundled model's name, or a model's folder (%(default)s)",
    )
    add_labels_option(parser, default="people, where the model has that")
    parser.add_argument(
        "--detector",
        default="auto",
        help=f"auto, yunet, libface, haar, or none {crops} (%(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=whole(1, MOST_THREADS),
        metavar="N",
        help="threads of the network (all cores)",
    )


def add_face_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--min-face``, ``--max-faces`` and ``--align``."""
    faces = parser.add_argument_group("faces")
    faces.add_argument(
        "--min-face",
        type=whole(),
        default=0,
        metavar="PX",
        help="leave out faces whose box has a smaller side (%(default)s: none)",
    )
    faces.add_argument(
        "--max-faces",
        type=whole(1),
        metavar="N",
        help="read the N largest faces of an image (all)",
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
    """Return what the options of the functions above say."""
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
        labels=args.labels,
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
        "--workers",
        type=whole(1, MOST_THREADS),
        metavar="N",
        help="processes that read images (one a core)",
    )
    many.add_argument(
        "--batch-size",
        type=whole(1, MOST_BATCH),
        default=64,
        metavar="N",
        help="faces that go through the network at once (%(default)s)",
    )
    many.add_argument(
        "--timeout",
        type=number(0, 86_400, above=True),
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
