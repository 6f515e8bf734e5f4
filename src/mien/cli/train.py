"""``mien train``: train a network from a recipe, or go on with an interrupted run."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.options import MOST_THREADS, add_engine_options, folder_name, whole
from mien.core.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError
from mien.core.progress import format_duration

if TYPE_CHECKING:
    from mien.training.config import Config
    from mien.training.run_folder import RunFolder

OUTPUTS = Path("outputs")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "train",
        help="train a network from a recipe, or resume a run",
        description="Train a network from a recipe in TOML. Ctrl-C saves, --resume goes on.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", type=Path, metavar="FILE", help="the recipe, configs/NAME.toml")
    source.add_argument("--resume", type=Path, metavar="RUN", help="folder of a run to go on with")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a key of the recipe, as training.epochs=3 (may be given again)",
    )
    parser.add_argument(
        "--run",
        dest="folder",
        type=folder_name,
        metavar="DIR",
        help="folder of the new run (default: outputs/NAME-DATE-TIME)",
    )
    parser.add_argument(
        "--teacher-logits",
        action="store_true",
        help="compute the teachers' logits that the recipe's distill.cache lacks, and no more",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_engine_options(parser)
    parser.set_defaults(run=_run)


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    several = parser.add_argument_group("several processes or machines")
    add_engine_options(several, on_ray="each batch split over the workers of a Ray cluster")
    several.add_argument(
        "--workers",
        type=whole(1, MOST_THREADS),
        metavar="N",
        help="processes of --engine ray (one for each machine of the cluster)",
    )


def _run(args: argparse.Namespace) -> int:
    _check_engine(args)
    if args.teacher_logits:
        return _fill_cache(args)
    try:
        run = _resume(args) if args.resume else _start(args)
    except KeyboardInterrupt as stop:
        if not stop.args:
            raise
        # The trainer says what is saved and how to go on.
        sys.stderr.write(f"mien: {stop}\n")
        return EXIT_INTERRUPTED
    summary = json.loads(run.summary.read_text(encoding="utf-8"))
    if args.json:
        json.dump({**summary, "folder": str(run.path)}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(_describe(run, summary))
    return EXIT_DONE


def _check_engine(args: argparse.Namespace) -> None:
    if args.engine == "ray":
        if args.teacher_logits:
            raise UsageError("--teacher-logits are computed here: leave out --engine")
        return
    if args.workers is not None or args.address is not None:
        option = "--workers" if args.workers is not None else "--address"
        raise UsageError(f"{option} is of training on Ray: add --engine ray")


def _start(args: argparse.Namespace) -> RunFolder:
    from mien.training.config import load_config

    config = load_config(args.config, args.set)
    folder = args.folder or OUTPUTS / f"{args.config.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    if args.engine == "ray":
        return _start_on_ray(args, config, folder)
    from mien.training.trainer import train

    return train(config, folder, quiet=args.quiet)


def _start_on_ray(args: argparse.Namespace, config: Config, folder: Path) -> RunFolder:
    from mien.batch.ray_engine import cluster
    from mien.training.backend import check_installed
    from mien.training.ray_training import on_torch, train_on_ray
    from mien.training.run_folder import new_run

    given, config = config.training.backend, on_torch(config)
    # Before a cluster is started, which takes seconds.
    new_run(folder)
    check_installed(config.training)
    if given != config.training.backend and not args.quiet:
        sys.stderr.write(f"mien: --engine ray trains on Keras' torch backend, not on {given}\n")
    with cluster(args.address, cores=args.workers or 1):
        return train_on_ray(config, folder, workers=args.workers, quiet=args.quiet)


def _resume(args: argparse.Namespace) -> RunFolder:
    if args.set or args.folder:
        raise UsageError("--resume goes on with the run's own recipe: leave out --set and --run")
    if args.engine == "ray":
        from mien.batch.ray_engine import cluster
        from mien.training.ray_training import resume_on_ray
        from mien.training.run_folder import open_run

        open_run(args.resume)
        with cluster(args.address, cores=args.workers or 1):
            return resume_on_ray(args.resume, workers=args.workers, quiet=args.quiet)
    from mien.training.trainer import resume

    return resume(args.resume, quiet=args.quiet)


def _fill_cache(args: argparse.Namespace) -> int:
    from mien.training.config import load_config
    from mien.training.filling import fill_cache

    if args.resume or args.folder:
        raise UsageError("--teacher-logits goes with --config and --set alone")
    filled = fill_cache(load_config(args.config, args.set), quiet=args.quiet)
    if args.json:
        json.dump(filled.as_dict(), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return EXIT_DONE
    rows = [
        ("cache", filled.folder),
        ("teachers", ", ".join(filled.teachers)),
        ("views", str(filled.views)),
        ("files", f"{filled.files}, {filled.computed} of them computed now"),
        ("size", f"{filled.size_bytes / 1e6:.1f} MB"),
    ]
    sys.stdout.write("".join(f"{name:<13} {value}\n" for name, value in rows))
    return EXIT_DONE


def _describe(run: RunFolder, summary: dict[str, Any]) -> str:
    best = summary["best"]
    rows = [
        ("run", str(run.path)),
        ("epochs", f"{summary['epochs']}" + (" (early stop)" if summary["stopped_early"] else "")),
        ("time", format_duration(summary["seconds"])),
        ("best epoch", str(best["epoch"])),
        ("val accuracy", f"{best['val_accuracy']:.2%}"),
        ("val macro-F1", f"{best['val_macro_f1']:.2%}"),
        ("val loss", f"{best['val_loss']:.4f}"),
        ("network", str(run.best)),
    ]
    lines = [f"{name:<13} {value}" for name, value in rows]
    return "\n".join([*lines, f"\nnext: mien export {run.path}"]) + "\n"
