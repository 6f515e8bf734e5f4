"""``mien train``: train a network from a recipe, or go on with an interrupted run."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.options import folder_name
from mien.core.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError
from mien.core.progress import format_duration

if TYPE_CHECKING:
    from mien.training.run import RunFolder

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
    for option in ("--engine", "--workers", "--address"):  # of Ray, which trains no more
        parser.add_argument(option, help=argparse.SUPPRESS)
    parser.set_defaults(run=_run)


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
    if args.engine not in (None, "local") or args.workers or args.address:
        raise UsageError(
            "training has no workers on Ray any more: leave out --engine, --workers and --address; "
            "for several GPUs or machines, --set training.backend=jax (docs/training.md)"
        )


def _start(args: argparse.Namespace) -> RunFolder:
    from mien.training.recipe import load_config

    config = load_config(args.config, args.set)
    folder = args.folder or OUTPUTS / f"{args.config.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    from mien.training.trainer import train

    return train(config, folder, quiet=args.quiet)


def _resume(args: argparse.Namespace) -> RunFolder:
    if args.set or args.folder:
        raise UsageError("--resume goes on with the run's own recipe: leave out --set and --run")
    from mien.training.trainer import resume

    return resume(args.resume, quiet=args.quiet)


def _fill_cache(args: argparse.Namespace) -> int:
    from mien.training.distillation import cache_teacher_logits
    from mien.training.recipe import load_config

    if args.resume or args.folder:
        raise UsageError("--teacher-logits goes with --config and --set alone")
    filled = cache_teacher_logits(load_config(args.config, args.set), quiet=args.quiet)
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
