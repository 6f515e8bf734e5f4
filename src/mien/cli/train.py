"""``mien train``: train a network from a recipe, or resume a run."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.options import add_command, folder_name, path_name
from mien.cli.output import key_value_text, write_answer
from mien.core.errors import EXIT_DONE, UsageError
from mien.core.progress import format_duration

if TYPE_CHECKING:
    from mien.training.run_folder import RunFolder

OUTPUTS = Path("outputs")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``train``."""
    parser = add_command(
        commands,
        "train",
        help="train a network from a recipe, or resume a run",
        description="Train a network from a recipe in TOML. Ctrl-C saves, --resume continues.",
        examples=(
            "mien train --config reference --set data.source=archive",
            "mien train --resume outputs/mine",
        ),
        usage="[options] (--config RECIPE | --resume RUN)",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    recipe_help = "a recipe file, or the name of a bundled recipe, such as reference or tiny"
    source.add_argument("--config", type=path_name, metavar="RECIPE", help=recipe_help)
    source.add_argument(
        "--resume", type=path_name, metavar="RUN", help="folder of a run to continue"
    )
    add_run_options(parser, name="NAME", example="training.epochs=3")
    add = parser.add_argument
    add(
        "--teacher-logits",
        action="store_true",
        help="only compute the teachers' logits that are missing in the recipe's distill.cache",
    )
    add("--json", action="store_true", help="print the result as JSON")
    for option in ("--engine", "--workers", "--address"):  # of training on Ray, since removed
        add(option, help=argparse.SUPPRESS)
    parser.set_defaults(run=_run)


def add_run_options(parser: argparse.ArgumentParser, *, name: str, example: str) -> None:
    """Add ``--run``, whose default begins with ``name``, and ``--set``, with an example."""
    add = parser.add_argument
    run_help = f"folder of the new run (default: {OUTPUTS}/{name}-DATE-TIME)"
    add("--run", dest="folder", type=folder_name, metavar="DIR", help=run_help)
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help=f"change a key of the recipe, for example {example}; repeatable",
    )


def new_run_path(args: argparse.Namespace, name: str) -> Path:
    """Return the folder of ``--run``, or one named after ``name`` and the time."""
    path: Path = args.folder or OUTPUTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return path


def _run(args: argparse.Namespace) -> int:
    if args.engine not in (None, "local") or args.workers or args.address:
        raise UsageError(
            "training has no workers on Ray any more: leave out --engine, --workers and --address; "
            "for several GPUs, --set training.backend=jax (docs/howto/training.md)"
        )
    if args.teacher_logits:
        return _cache_teacher_logits(args)
    run = _train(args)
    draw_curves(run)
    summary = json.loads(run.summary.read_text(encoding="utf-8"))
    content = {**summary, "folder": str(run.path)}
    write_answer(content, _summary_text(run, summary), as_json=args.json)
    return EXIT_DONE


def _train(args: argparse.Namespace) -> RunFolder:
    from mien.training.recipe import load_config
    from mien.training.trainer import resume, train

    if args.resume is not None:
        if args.set or args.folder:
            raise UsageError("--resume takes the run's own recipe: leave out --set and --run")
        return resume(args.resume, quiet=args.quiet)
    config = load_config(args.config, args.set)
    return train(config, new_run_path(args, args.config.stem), quiet=args.quiet)


def draw_curves(run: RunFolder) -> None:
    """Draw the training curves of a run into its folder; raises OutputError."""
    from mien.evaluation.figures import read_history, training_curves

    training_curves(read_history(run.history), run.curves)


def _cache_teacher_logits(args: argparse.Namespace) -> int:
    from mien.training.distillation import cache_teacher_logits
    from mien.training.recipe import load_config

    if args.resume or args.folder:
        raise UsageError("--teacher-logits goes with --config and --set alone")
    cache = cache_teacher_logits(load_config(args.config, args.set), quiet=args.quiet)
    rows = [
        ("cache", cache["folder"]),
        ("teachers", ", ".join(cache["teachers"])),
        ("views", str(cache["views"])),
        ("files", f"{cache['files']}, {cache['computed']} of them computed now"),
        ("size", f"{cache['size_bytes'] / 1e6:.1f} MB"),
    ]
    write_answer(cache, key_value_text(rows, 13), as_json=args.json)
    return EXIT_DONE


def _summary_text(run: RunFolder, summary: dict[str, Any]) -> str:
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
    return f"{key_value_text(rows, 13)}\nnext: mien export {run.path}\n"
