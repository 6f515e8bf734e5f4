"""Options that several commands share, with the same meaning and defaults everywhere."""

from __future__ import annotations

import argparse
import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.batch.inputs import RecognizerOptions
from mien.core.errors import ModelError
from mien.core.file_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from mien.core.models import DEFAULT_MODEL, DETECTORS, READINGS, find_model

if TYPE_CHECKING:
    from mien.data.class_folder import FaceDecoder

ENGINES: tuple[str, ...] = ("local", "ray")
"""Values of ``--engine``: this machine, or a Ray cluster."""

MAX_THREADS = 1024
"""Upper limit of threads and processes, above the core count of the largest machines."""

MAX_BATCH_SIZE = 65536
"""Upper limit of faces per batch; memory grows with the batch."""

THREADS_HELP = "threads of the network (default: all cores)"

ENVIRONMENT_VARIABLES: Mapping[str, str] = {
    "MIEN_MODEL": "--model of predict, explain, serve, evaluate and doctor",
    "MIEN_LABELS": "--labels of predict, explain and serve",
    "MIEN_DETECTOR": "--detector of predict, explain and serve",
    "MIEN_THREADS": "--threads of predict, explain and serve",
    "MIEN_BATCH_SIZE": "--batch-size of predict",
    "MIEN_WORKERS": "--workers of predict",
    "MIEN_OFFLINE": "--offline, if 1 or true",
    "MIEN_HOME": "the folder for downloads, instead of the platform's cache",
}
"""Environment variables and the options that they are defaults of."""

_MAX_INTEGER = 2**31 - 1
_MAX_MEGABYTES = 1000
_FILE_SUFFIXES: tuple[str, ...] = (
    *(".csv", ".json", ".jsonl", ".parquet", ".txt", ".md", ".html", ".pdf", ".svg", ".toml"),
    *(".tsv", ".xls", ".xlsx", ".ods", ".zip", ".onnx", ".tflite", ".keras", ".npz"),
    *IMAGE_SUFFIXES,
    *VIDEO_SUFFIXES,
)


# ---------------------------------------------------------------- commands
def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    *,
    help: str,  # noqa: A002 - argparse's own word
    description: str,
    examples: Sequence[str],
    usage: str | None = None,
    details: str = "",
) -> argparse.ArgumentParser:
    """Add a command's parser.

    Args:
        commands: the subparsers of ``mien`` or of a group of commands.
        name: name of the command.
        help: one line for the list of commands.
        description: paragraph above the options.
        examples: complete command lines, shown below the options.
        usage: text after "usage: mien NAME"; argparse's own unless given.
        details: preformatted paragraphs below the options.
    """
    shown = "examples:\n" + "".join(f"  {line}\n" for line in examples)
    return commands.add_parser(
        name,
        usage=None if usage is None else f"%(prog)s {usage}",
        help=help,
        description=textwrap.fill(description, 80),
        epilog=f"{details}\n{shown}" if details else shown,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


# ---------------------------------------------------------------- environment variables
class _EnvDefault(str):
    """An option's default that is the text of an environment variable."""


def add_env_option(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    flag: str,
    *,
    help: str,  # noqa: A002 - argparse's own word
    type: Callable[[str], Any] = str,  # noqa: A002 - argparse's own word
    default: Any = None,
    check: Callable[[str], object] | None = None,
    **settings: Any,
) -> None:
    """Add an option whose default is an environment variable, which is checked only if used.

    Args:
        parser: the parser to add it to.
        flag: the option; ``--batch-size`` has the variable ``MIEN_BATCH_SIZE``.
        help: help text; the name of the variable is appended.
        type: converts a text to a value.
        default: value if neither the option nor the variable is given.
        check: raises an error if the variable's text is invalid; the option itself is checked
            later, by the command.
        settings: other arguments of ``add_argument``.
    """
    name = f"MIEN_{flag[2:].upper().replace('-', '_')}"
    choices = settings.get("choices")

    def parse(text: str) -> Any:
        if not isinstance(text, _EnvDefault):
            return type(text)
        try:
            if choices is not None:
                _check_choice(text, choices)
            if check is not None:
                check(text)
            return type(str(text))
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{name}: {error}") from error
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error

    value = os.environ.get(name)
    default = _EnvDefault(value) if value else default
    action = parser.add_argument(flag, default=default, help=f"{help} [{name}]", **settings)
    action.type = parse  # set here, since flags without a value take no type


def add_model_option(
    parser: argparse.ArgumentParser, *, check: Callable[[str], object] | None = find_model
) -> None:
    """Add ``--model``; ``check`` as in `add_env_option`."""
    text = "name of a bundled model, or folder of a model or a run (default: %(default)s)"
    add_env_option(parser, "--model", default=DEFAULT_MODEL, check=check, help=text)


# ---------------------------------------------------------------- types of values
def integer(minimum: int = 0, maximum: int = _MAX_INTEGER) -> Callable[[str], int]:
    """Return an argparse ``type`` for integers from ``minimum`` to ``maximum``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:  # also for more digits than Python reads
            value = minimum - 1
        if not minimum <= value <= maximum:
            raise _argument_error(f"a whole number from {minimum} to {maximum}", text)
        return value

    return parse


def number(minimum: float, maximum: float, *, above: bool = False) -> Callable[[str], float]:
    """Return an argparse ``type`` for numbers in a range; ``above`` excludes ``minimum``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not minimum <= value <= maximum or (above and value == minimum):
            start = f"above {minimum:g}, up to" if above else f"from {minimum:g} to"
            raise _argument_error(f"a number {start} {maximum:g}", text)
        return value

    return parse


def boolean(text: str) -> bool:
    """Convert "1", "true", "yes", "on" or their opposites (an argparse ``type``)."""
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise _argument_error("1 or 0, true or false", text)


def path_text(text: str) -> str:
    """Return a path as given (an argparse ``type``); an empty one would be the current folder."""
    if not text:
        raise _argument_error("a file's or folder's name", text)
    return text


def path_name(text: str) -> Path:
    """Convert a path (an argparse ``type``); an empty one is rejected."""
    return Path(path_text(text))


def file_name(*suffixes: str, or_folder: bool = False) -> Callable[[str], Path]:
    """Return an argparse ``type`` for the name of an output file with one of some suffixes.

    ``or_folder`` also accepts names without a suffix, for a folder of several files.
    """

    def parse(text: str) -> Path:
        path = Path(text)
        is_folder = or_folder and path.suffix == "" and text not in ("", "-")
        if path.suffix.lower() in suffixes or is_folder:
            return path
        expected = f"a name ending in {', '.join(suffixes)}"
        raise _argument_error(f"{expected}, or a folder's" if or_folder else expected, text)

    return parse


def folder_name(text: str) -> Path:
    """Convert the name of an output folder (an argparse ``type``); file names are rejected."""
    path = Path(text)
    is_file = path.suffix.lower() in _FILE_SUFFIXES and not os.path.isdir(path)  # noqa: PTH112
    if text in ("", "-") or is_file:
        raise _argument_error("a folder's name", text)
    return path


def _check_choice(text: str, choices: Sequence[str]) -> None:
    if text not in choices:
        raise _argument_error(f"one of {', '.join(choices)}", text)


def _argument_error(expected: str, text: str) -> argparse.ArgumentTypeError:
    shown = repr(text if len(text) <= 60 else text[:60] + "...")
    return argparse.ArgumentTypeError(f"expected {expected}, got {shown}")


# ---------------------------------------------------------------- groups of options
def add_force_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--force``."""
    help_text = "replace existing files that mien did not write"
    parser.add_argument("--force", action="store_true", help=help_text)


def add_labels_option(
    parser: argparse.ArgumentParser, *, default: str, from_env: bool = False
) -> None:
    """Add ``--labels``; ``default`` describes its default, ``from_env`` adds its variable."""
    text = (
        "labels that scores follow: people (the share of people who would name an emotion) or "
        f"fer2013 (the labels of the data set) (default: {default})"
    )
    if from_env:
        add_env_option(parser, "--labels", choices=READINGS[:2], help=text)
    else:
        parser.add_argument("--labels", choices=READINGS[:2], help=text)


def add_recognizer_options(parser: argparse.ArgumentParser, *, crops: str) -> None:
    """Add ``--model``, ``--labels``, ``--detector`` and ``--threads``.

    Args:
        parser: the command's parser.
        crops: when to use ``--detector none``, as in "where the image is a face crop".
    """
    add_model_option(parser)
    add_labels_option(parser, default="people, if the model has it", from_env=True)
    add_env_option(
        parser,
        "--detector",
        default="auto",
        check=partial(_check_choice, choices=DETECTORS),
        metavar="NAME",
        help=f"auto, yunet, libface, haar, or none {crops} (default: %(default)s)",
    )
    threads = integer(1, MAX_THREADS)
    add_env_option(parser, "--threads", type=threads, metavar="N", help=THREADS_HELP)


def add_face_options(parser: argparse.ArgumentParser) -> None:
    """Add options for how faces are detected, filtered and aligned."""
    add = parser.add_argument
    add("--detector-weights", type=path_name, metavar="FILE", help="weights of --detector yunet")
    offline_help = "never use the network"
    add_env_option(
        parser, "--offline", action="store_true", type=boolean, default=False, help=offline_help
    )
    add(
        "--thorough",
        action="store_true",
        help="also search large pictures at full resolution for small faces; takes many times as "
        "long as the default, which searches at 320 and, if needed, 640 pixels",
    )
    add = parser.add_argument_group("faces").add_argument
    min_help = "ignore faces whose box is smaller than this on a side (default: %(default)s)"
    add("--min-face", type=integer(), default=0, metavar="PX", help=min_help)
    max_help = "read only the N largest faces of an image (default: all)"
    add("--max-faces", type=integer(1), metavar="N", help=max_help)
    add(
        "--align",
        choices=("auto", "on", "off"),
        default="auto",
        help="level the eyes of strongly tilted faces (auto), of all (on), or of none (off); needs "
        "a detector that finds eyes: yunet or libface (default: %(default)s)",
    )


def recognizer_options(args: argparse.Namespace) -> RecognizerOptions:
    """Build `RecognizerOptions` from the options that the functions above add."""
    names = {item.name for item in fields(RecognizerOptions)}
    values = {name: value for name, value in vars(args).items() if name in names}
    return RecognizerOptions(**{**values, "detector": args.detector or "auto"})


def face_cropper(options: RecognizerOptions) -> FaceDecoder | None:
    """Return a function that crops the largest face of a photo; None for the detector "none".

    Raises:
        UsageError: if the detector is unknown or not installed, or an option is invalid.
    """
    from mien.inference.preprocess import largest_face

    if options.detector == "none":
        return None
    return partial(largest_face, detector=options.load_detector(), choice=options.choice())


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Add options for many images: resuming, workers, batches, time limits, and the engine."""
    group = parser.add_argument_group("many images")
    add = group.add_argument
    resume_help = "continue an --output that was interrupted; start it if there is none"
    add("--resume", action="store_true", help=resume_help)
    workers_help = "processes that read images (default: one per core)"
    workers = integer(1, MAX_THREADS)
    add_env_option(group, "--workers", type=workers, metavar="N", help=workers_help)
    add_env_option(
        group,
        "--batch-size",
        type=integer(1, MAX_BATCH_SIZE),
        default=64,
        metavar="N",
        help="faces that go through the network at once (default: %(default)s)",
    )
    add(
        "--timeout",
        type=number(0, 86_400, above=True),
        default=120,
        metavar="SECONDS",
        help="give up on an image that takes longer (default: %(default)s)",
    )
    ray_help = "local, or ray: over the machines of a Ray cluster (default: %(default)s)"
    add("--engine", choices=ENGINES, default=ENGINES[0], help=ray_help)
    address_help = "the cluster of --engine ray; without it, one is started on this machine"
    add("--address", metavar="HOST:PORT", help=address_help)


def add_url_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-private`` and ``--max-download``."""
    add = parser.add_argument_group("addresses").add_argument
    private_help = "allow addresses of hosts that are not on the public internet (localhost, a LAN)"
    add("--allow-private", action="store_true", help=private_help)
    add(
        "--max-download",
        type=number(0, _MAX_MEGABYTES, above=True),
        default=20,
        metavar="MB",
        help="refuse larger images from the web (default: %(default)s)",
    )
