"""``mien bench``: time models on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mien.cli.options import MAX_THREADS, add_command, add_labels_option, integer, number
from mien.cli.output import write_answer
from mien.core.errors import EXIT_DONE
from mien.core.formats import table_text
from mien.core.process import usable_cores

if TYPE_CHECKING:
    from mien.inference.classifier import Timing

SCHEMA = "mien-bench/1"
"""Name and version of the JSON form."""

_HEADER = (
    "MODEL", "VERSION", "LABELS", "PRECISION", "MB", "THREADS", "BATCH", "MS A FACE", "QUARTILES",
    "FACES/S",
)  # fmt: skip


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``bench``."""
    parser = add_command(
        commands,
        "bench",
        help="time models on this machine, in milliseconds per face",
        description="Time models from standard faces to scores, on one thread and on all, one face "
        "at a time and in batches of 32. Face detection is not included. For reliable figures, run "
        "nothing else at the same time.",
        examples=("mien bench", "mien bench --model mien-nano outputs/mine/export --threads 1"),
    )
    add = parser.add_argument
    add(
        "--model",
        nargs="+",
        metavar="MODEL",
        help="bundled models' names or models' folders (default: all bundled ones)",
    )
    add_labels_option(parser, default="people, where the model has that")
    add(
        "--threads",
        type=integer(1, MAX_THREADS),
        nargs="+",
        metavar="N",
        help="threads of the network (default: 1, and one per core)",
    )
    add(
        "--seconds",
        type=number(0, 3600),
        default=1.0,
        metavar="S",
        help="duration of each measurement (default: %(default)g)",
    )
    add("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from mien import __version__
    from mien.core.models import bundled_models
    from mien.core.progress import track
    from mien.inference.classifier import TIMED_BATCH_SIZES, describe_machine, time_model

    models = args.model or bundled_models()
    counts = args.threads or sorted({1, usable_cores()})
    cases = [
        (model, threads, size)
        for model in models
        for threads in counts
        for size in TIMED_BATCH_SIZES
    ]
    timings = [
        time_model(
            model, threads=threads, batch_size=size, seconds=args.seconds, reading=args.labels
        )
        for model, threads, size in track(cases, "timing", unit="case", quiet=args.quiet)
    ]
    machine = {"mien": __version__, **describe_machine()}
    content = {
        "schema": SCHEMA,
        "machine": machine,
        "timings": [asdict(timing) for timing in timings],
    }
    write_answer(content, _table(timings, machine), as_json=args.json)
    return EXIT_DONE


def _table(timings: Sequence[Timing], machine: Mapping[str, Any]) -> str:
    rows = [
        (
            timing.model,
            timing.version,
            timing.labels,
            timing.precision,
            f"{timing.megabytes:.1f}",
            str(timing.threads),
            str(timing.batch_size),
            f"{timing.median:.3f}",
            f"{timing.low:.3f} to {timing.high:.3f}",
            f"{1000 / timing.median:,.0f}",
        )
        for timing in timings
    ]
    cores = "1 core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    versions = ", ".join(f"{name} {machine[name]}" for name in ("mien", "python", "onnxruntime"))
    table = table_text(_HEADER, rows, right=range(4, len(_HEADER)))
    return f"{table}\n{machine['processor']}, {cores}, {machine['system']}; {versions}\n"
