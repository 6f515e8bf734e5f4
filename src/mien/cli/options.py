"""Options that several commands share, so that they mean and default to the same everywhere."""

from __future__ import annotations

import argparse
import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.batch.inputs import RecognizerOptions
from mien.core.errors import ModelError
from mien.core.file_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from mien.core.models import DEFAULT_MODEL, READINGS, find_model

if TYPE_CHECKING:
    from mien.data.class_folder import FaceDecoder

ENGINES: tuple[str, ...] = ("local", "ray")
"""Where ``--engine`` lets the work be done: on this machine, or on a Ray cluster."""

MAX_THREADS = 1024
"""Of the network, and processes: more than the largest machines have cores."""

THREADS_HELP = "threads of the network (default: all cores)"

MAX_BATCH_SIZE = 65536
"""Faces that go through the network at once: memory grows with them."""

DETECTORS: tuple[str, ...] = ("auto", "yunet", "libface", "haar", "none")
"""As `mien.inference.detectors` has them, which is heavy to import."""

ENVIRONMENT_VARIABLES: Mapping[str, str] = {
    "MIEN_MODEL": "--model of predict, explain, serve, evaluate and doctor",
    "MIEN_LABELS": "--labels of predict, explain and serve",
    "MIEN_DETECTOR": "--detector of predict, explain and serve",
    "MIEN_THREADS": "--threads of predict, explain and serve",
    "MIEN_BATCH_SIZE": "--batch-size of predict",
    "MIEN_WORKERS": "--workers of predict",
    "MIEN_OFFLINE": "--offline, by 1 or true",
    "MIEN_HOME": "the folder of downloads, in place of the platform's cache",
}
"""Environment variables and what they stand for; an option that is given wins."""

_MOST = 2**31 - 1
_MOST_MEGABYTES = 1000
_FILE_SUFFIXES: tuple[str, ...] = (
    *(".csv", ".json", ".jsonl", ".parquet", ".txt", ".md", ".html", ".pdf", ".svg", ".toml"),
    *(".tsv", ".xls", ".xlsx", ".ods", ".zip", ".onnx", ".tflite", ".keras", ".npz"),
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
        commands: where to.
        name: the command's.
        help: a line for the list of commands.
        description: the paragraph above the options.
        examples: whole command lines, shown below the options.
        usage: what stands after "usage: mien NAME"; made of all options unless given.
        details: paragraphs below the options, as they are.
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
class _Variable(str):
    """The text of an environment variable, where it is an option's default."""


class _Flag(argparse.Action):
    """An option without a value, whose default may be an environment variable's text."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,  # noqa: ARG002
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """See `argparse.Action`."""
        setattr(namespace, self.dest, True)


def add_env_option(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    flag: str,
    *,
    help: str,  # noqa: A002 - argparse's own word
    type: Callable[[str], Any] = str,  # noqa: A002 - argparse's own word
    default: Any = None,
    choices: Sequence[str] | None = None,
    check: Callable[[str], object] | None = None,
    **settings: Any,
) -> None:
    """Add an option whose default is its environment variable's value, checked if it is needed.

    Args:
        parser: where to.
        flag: the option; ``--batch-size`` has the variable ``MIEN_BATCH_SIZE``.
        help: its help, which the variable's name is added to.
        type: what makes a value of a text.
        default: where neither the option nor the variable is given.
        choices: what the option may be.
        check: raises unless the variable's text can be used; the option's is checked later.
        settings: further ones of ``add_argument``.
    """
    name = f"MIEN_{flag[2:].upper().replace('-', '_')}"

    def parse(text: str) -> Any:
        if not isinstance(text, _Variable):
            return type(text)
        try:
            if choices is not None and text not in choices:
                raise _refusal(f"one of {', '.join(choices)}", text)
            if check is not None:
                check(text)
            return type(str(text))
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{name}: {error}") from error
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error

    given = os.environ.get(name)
    parser.add_argument(
        flag,
        type=parse,
        default=_Variable(given) if given else default,
        choices=choices,
        help=f"{help} [{name}]",
        **settings,
    )


def add_model_option(
    parser: argparse.ArgumentParser, *, check: Callable[[str], object] | None = find_model
) -> None:
    """Add ``--model``; ``check`` as `add_env_option` takes it."""
    text = "a bundled model's name, a model's folder, or a run's (default: %(default)s)"
    add_env_option(parser, "--model", default=DEFAULT_MODEL, check=check, help=text)


def _known_detector(text: str) -> None:
    if text not in DETECTORS:
        raise _refusal(f"one of {', '.join(DETECTORS)}", text)


def _truth(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise _refusal("1 or 0, true or false", text)


# ---------------------------------------------------------------- kinds of values
def integer(least: int = 0, most: int = _MOST) -> Callable[[str], int]:
    """Return the ``type`` of an option that takes a whole number, both ends included."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:  # also where there are more digits than Python reads
            number = least - 1
        if not least <= number <= most:
            raise _refusal(f"a whole number from {least} to {most}", text)
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
            raise _refusal(f"a number {words}", text)
        return value

    return parse


def file_name(*suffixes: str) -> Callable[[str], Path]:
    """Return the ``type`` of an option that names a file to write, which ends in one of these."""

    def parse(text: str) -> Path:
        if Path(text).suffix.lower() in suffixes:
            return Path(text)
        raise _refusal(f"a name ending in {', '.join(suffixes)}", text)

    return parse


def file_or_folder_name(*suffixes: str) -> Callable[[str], Path]:
    """Return the ``type`` of an option that names such a file, or a folder for several."""

    def parse(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() in suffixes or (path.suffix == "" and text not in ("", "-")):
            return path
        raise _refusal(f"a name ending in {', '.join(suffixes)}, or a folder's", text)

    return parse


def folder_name(text: str) -> Path:
    """Take the name of a folder to write to (a ``type``), unless it is that of a file."""
    path = Path(text)
    kinds = (*_FILE_SUFFIXES, *IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    is_file = path.suffix.lower() in kinds and not os.path.isdir(path)  # noqa: PTH112
    if text in ("", "-") or is_file:
        raise _refusal("a folder's name", text)
    return path


def _refusal(expected: str, text: str) -> argparse.ArgumentTypeError:
    shown = repr(text if len(text) <= 60 else text[:60] + "...")
    return argparse.ArgumentTypeError(f"expected {expected}, got {shown}")


# ---------------------------------------------------------------- options
def add_force_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--force``."""
    help_text = "replace files that are there already and that mien did not write"
    parser.add_argument("--force", action="store_true", help=help_text)


def add_labels_option(
    parser: argparse.ArgumentParser, *, default: str, variable: bool = False
) -> None:
    """Add ``--labels``; ``default`` says what it is without it, or without its variable."""
    text = (
        "whose labels scores follow: people, the share of ten people who would name an "
        f"emotion, or fer2013, the data set's own (default: {default})"
    )
    if variable:
        add_env_option(parser, "--labels", choices=READINGS[:2], help=text)
    else:
        parser.add_argument("--labels", choices=READINGS[:2], help=text)


def add_recognizer_options(parser: argparse.ArgumentParser, *, crops: str) -> None:
    """Add ``--model``, ``--labels``, ``--detector`` and ``--threads``.

    Args:
        parser: the command's.
        crops: when ``--detector none`` fits, as "where the image is a face crop".
    """
    add_model_option(parser)
    add_labels_option(parser, default="people, where the model has that", variable=True)
    detector_help = f"auto, yunet, libface, haar, or none {crops} (default: %(default)s)"
    add_env_option(
        parser,
        "--detector",
        default="auto",
        check=_known_detector,
        metavar="NAME",
        help=detector_help,
    )
    threads = integer(1, MAX_THREADS)
    add_env_option(parser, "--threads", type=threads, metavar="N", help=THREADS_HELP)


def add_face_options(parser: argparse.ArgumentParser) -> None:
    """Add how faces are found, and which of them are read."""
    add = parser.add_argument
    add("--detector-weights", type=Path, metavar="FILE", help="weights of --detector yunet")
    offline = "never use the network"
    add_env_option(
        parser, "--offline", action=_Flag, nargs=0, type=_truth, default=False, help=offline
    )
    add(
        "--thorough",
        action="store_true",
        help="search for small faces, too, in a large picture down to its own pixels: many times "
        "the time of the default, which looks at 320 and, if need be, 640 pixels",
    )
    add = parser.add_argument_group("faces").add_argument
    min_help = "leave out faces whose box has a smaller side (default: %(default)s)"
    add("--min-face", type=integer(), default=0, metavar="PX", help=min_help)
    add(
        "--max-faces",
        type=integer(1),
        metavar="N",
        help="read an image's N largest faces (default: all)",
    )
    add(
        "--align",
        choices=("auto", "on", "off"),
        default="auto",
        help="level the eyes of faces before reading them: of those that lean far, of all, or of "
        "none; yunet and libface find eyes (default: %(default)s)",
    )


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
        tta=vars(args).get("tta", False),
    )


def face_cropper(options: RecognizerOptions) -> FaceDecoder | None:
    """Return what crops the largest face of a photo, or None where images are face crops.

    Raises:
        UsageError: if there is no such detector, it is not installed, or an option is wrong.
    """
    from mien.inference.preprocess import largest_face

    if options.detector == "none":
        return None
    return partial(largest_face, detector=options.load_detector(), choice=options.choice())


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--resume``, ``--workers``, ``--batch-size``, ``--timeout`` and the engine's."""
    group = parser.add_argument_group("many images")
    add = group.add_argument
    resume_help = "go on with an --output that was interrupted; start it if it was not"
    add("--resume", action="store_true", help=resume_help)
    workers_help = "processes that read images (default: one a core)"
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
        help="give up an image that takes longer (default: %(default)s)",
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
        type=number(0, _MOST_MEGABYTES, above=True),
        default=20,
        metavar="MB",
        help="refuse larger images from the web (default: %(default)s)",
    )
