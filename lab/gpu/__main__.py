"""Training on one GPU: pack for an offline machine, run the kit, or train a single recipe."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mien.core.errors import EXIT_DONE, EXIT_INTERRUPTED, MienError

_CONFIGS = Path("lab/configs")
_TEACHERS = [_CONFIGS / f"{name}.toml" for name in ("vgg", "resnet18", "seresnet18")]
_STUDENTS = [_CONFIGS / f"{name}.toml" for name in ("student", "nano")]
_PACK = Path("build/lab-pack")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args = _parser().parse_args(arguments)
    try:
        args.run_command(args)
    except MienError as error:
        sys.stderr.write(f"lab: {error}\n")
        return error.exit_code
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"lab: {stop or 'interrupted'}\n")
        return EXIT_INTERRUPTED
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.gpu", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    pack = commands.add_parser("pack", help="pack everything that an offline machine needs")
    pack.add_argument("--data", default="archive", help="the data set (default: archive)")
    pack.add_argument("--votes", type=Path, help="a CSV of FER+ votes to include")
    pack.add_argument("--output", type=Path, default=_PACK, help=f"default: {_PACK}")
    pack.add_argument("--python", default="3.12", help="its Python (default: 3.12)")
    pack.set_defaults(run_command=_pack)
    kit = commands.add_parser("run", help="train teachers and students; repeat to continue")
    kit.add_argument("--pack", type=Path, default=_PACK, help=f"default: {_PACK}")
    kit.add_argument("--work", type=Path, default=Path("build/lab-work"), help="folder of the runs")
    kit.add_argument("--output", type=Path, help="folder of the results (default: WORK/results)")
    kit.add_argument("--minutes", type=float, default=9.0, help="then stop and save (default: 9)")
    kit.add_argument("--teachers", type=Path, nargs="*", default=_TEACHERS, metavar="RECIPE")
    kit.add_argument("--students", type=Path, nargs="+", default=_STUDENTS, metavar="RECIPE")
    kit.add_argument("--seeds", type=int, nargs="*", default=(), help="seeds of each student")
    kit.add_argument("--scale", type=float, default=1.0, help="factor of all epochs (default: 1)")
    kit.set_defaults(run_command=_kit)
    train = commands.add_parser("train", help="train one recipe")
    source = train.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", type=Path, help="the recipe")
    source.add_argument("--resume", type=Path, metavar="RUN", help="an interrupted run to continue")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    train.add_argument("--run", type=Path, default=Path("outputs/lab"), help="folder of the run")
    train.set_defaults(run_command=_train)
    return parser


def _pack(args: argparse.Namespace) -> None:
    from lab.gpu.pack import make_pack
    from mien.training.recipe import load_config

    start = load_config(_STUDENTS[0])
    size = make_pack(
        Path.cwd(), args.data, args.output, start=start, votes=args.votes, python=args.python
    )
    sys.stdout.write(f"{args.output}.zip: {size / 2**20:.1f} MiB\n")


def _kit(args: argparse.Namespace) -> None:
    from lab.gpu.kit import Plan, run_kit

    plan = Plan(tuple(args.teachers), tuple(args.students), tuple(args.seeds), args.scale)
    output = args.output or args.work / "results"
    run_kit(plan, args.pack, args.work, output, minutes=args.minutes)


def _train(args: argparse.Namespace) -> None:
    from lab.gpu.trainer import GpuTrainer
    from mien.training.recipe import load_config
    from mien.training.trainer import resume, train

    if args.resume:
        resume(args.resume, trainer_class=GpuTrainer)
    else:
        train(load_config(args.config, args.set), args.run, trainer_class=GpuTrainer)


if __name__ == "__main__":
    sys.exit(main())
