"""``mien bench``: milliseconds a face of each model, on this machine."""

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
        help="milliseconds a face of each model, on this machine",
        description="Time models from standard faces to scores, on one thread and on all, one face "
        "at a time and 32. Finding faces is not part of it. Let nothing else run meanwhile.",
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
        help="threads that a call may use (default: 1, and as many as there are cores)",
    )
    add(
        "--seconds",
        type=number(0, 3600),
        default=1.0,
        metavar="S",
        help="for how long each is timed (default: %(default)g)",
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
    where = {"mien": __version__, **describe_machine()}
    listed = [asdict(timing) for timing in timings]
    content = {"schema": SCHEMA, "machine": where, "timings": listed}
    write_answer(content, _described(timings, where), as_json=args.json)
    return EXIT_DONE


def _described(timings: Sequence[Timing], where: Mapping[str, Any]) -> str:
    rows = [
        (
            each.model,
            each.version,
            each.labels,
            each.precision,
            f"{each.megabytes:.1f}",
            str(each.threads),
            str(each.batch_size),
            f"{each.median:.3f}",
            f"{each.low:.3f} to {each.high:.3f}",
            f"{1000 / each.median:,.0f}",
        )
        for each in timings
    ]
    cores = "1 core" if where["cores"] == 1 else f"{where['cores']} cores"
    versions = ", ".join(f"{name} {where[name]}" for name in ("mien", "python", "onnxruntime"))
    table = table_text(_HEADER, rows, right=range(4, len(_HEADER)))
    return f"{table}\n{where['processor']}, {cores}, {where['system']}; {versions}\n"
