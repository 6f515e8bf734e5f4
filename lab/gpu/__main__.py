"""``python -m lab.gpu``: make the pack, run the kit, and the kit's own small steps."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mien.core.errors import EXIT_DONE, EXIT_INTERNAL, MienError, UsageError
from mien.core.files import write_atomically
from mien.core.process import open_closed_streams

_PLAN = Path("lab/configs/plan.toml")
_PACK = Path("build/gpu-pack")
_WORK = Path("build/gpu-work")


def main(words: Sequence[str] | None = None) -> int:
    """Run one of the commands; return its exit code."""
    open_closed_streams()
    args = _parser().parse_args(words)
    try:
        return int(args.run(args))
    except MienError as error:
        sys.stderr.write(f"mien: {error}\n")
        return error.exit_code
    except Exception as error:  # out of memory, say: one line in the log, and the kit goes on
        sys.stderr.write(f"mien: internal error: {type(error).__name__}: {error}\n")
        return EXIT_INTERNAL


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.gpu", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    pack = commands.add_parser("pack", help="pack what a machine without a network lacks")
    pack.add_argument("--data", default="archive", help="the data set (default: archive)")
    pack.add_argument("--votes", type=Path, help="a CSV of FER+ votes to take along")
    pack.add_argument("--output", type=Path, default=_PACK, help=f"default: {_PACK}")
    pack.add_argument("--limit", type=float, default=60, help="megabytes (default: 60)")
    pack.add_argument("--python", default="3.12", help="of that machine (default: 3.12)")
    pack.set_defaults(run=_pack)
    train = commands.add_parser("run", help="train all; call again to go on")
    train.add_argument("--plan", type=Path, default=_PLAN, help=f"default: {_PLAN}")
    train.add_argument("--pack", type=Path, default=_PACK, help=f"default: {_PACK}")
    train.add_argument("--work", type=Path, default=_WORK, help=f"default: {_WORK}")
    train.add_argument("--output", type=Path, help="of the results (default: WORK/results)")
    train.add_argument("--workers", type=int, default=_workers(), help="threads that make batches")
    train.set_defaults(run=_kit)
    one = commands.add_parser("train", help="train one recipe on the GPU")
    what = one.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, help="the recipe")
    what.add_argument("--resume", type=Path, metavar="RUN", help="go on with a run that stopped")
    one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    one.add_argument("--run", type=Path, dest="folder", help="the run's folder")
    one.set_defaults(run=_train)
    for name, run, places in (
        ("start", _start, ("pack", "target", "recipe")),
        ("trial", _trial, ("recipe", "target", "turn")),
        ("probabilities", _probabilities, ("data", "target", "runs")),
    ):
        step = commands.add_parser(name, help="a step of the kit's own")
        for place in places:
            step.add_argument(place, type=Path, nargs="+" if place == "runs" else None)
        step.set_defaults(run=run)
    return parser


def _workers() -> int:
    return max(1, min(4, (os.cpu_count() or 1) // 2))


def _pack(args: argparse.Namespace) -> int:
    from lab.gpu.pack import MEGABYTE, make_pack

    packed = make_pack(
        Path.cwd(),
        args.data,
        args.output,
        limit=int(args.limit * MEGABYTE),
        votes=args.votes,
        python=args.python,
    )
    for name, size in sorted(packed.sizes.items()):
        sys.stdout.write(f"{name:<16} {size / MEGABYTE:6.2f} MB\n")
    sys.stdout.write(f"{args.output}: {packed.total / MEGABYTE:.1f} MB, faces {packed.quality}\n")
    return EXIT_DONE


def _kit(args: argparse.Namespace) -> int:
    from lab.gpu.kit import run_kit
    from lab.gpu.plan import load_plan

    work = args.work.resolve()
    output = args.output or work / "results"
    return run_kit(load_plan(args.plan), args.pack, work, output, workers=args.workers)


def _train(args: argparse.Namespace) -> int:
    from lab.gpu.trainer import resume, train
    from mien.training.recipe import load_config

    if args.resume:
        resume(args.resume)
        return EXIT_DONE
    if args.folder is None:
        raise UsageError("--config needs --run: the folder of the run")
    train(load_config(args.config, args.set), args.folder)
    return EXIT_DONE


def _start(args: argparse.Namespace) -> int:
    from lab.gpu.setup import make_start
    from mien.training.backend import prepare_keras

    prepare_keras(os.environ["KERAS_BACKEND"])
    make_start(args.pack, args.target, args.recipe)
    return EXIT_DONE


def _trial(args: argparse.Namespace) -> int:
    from lab.gpu.trial import try_network
    from mien.training.data import load_training_data
    from mien.training.recipe import load_config

    config = load_config(args.recipe)
    pace = try_network(config, load_training_data(config, quiet=True), turn=args.turn)
    write_atomically(args.target, json.dumps(pace.to_dict()).encode())
    return EXIT_DONE


def _probabilities(args: argparse.Namespace) -> int:
    from lab.gpu.probabilities import write_probabilities
    from mien.training.backend import prepare_keras

    prepare_keras(os.environ["KERAS_BACKEND"])
    write_probabilities(args.data, args.target, args.runs)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
