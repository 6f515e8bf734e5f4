"""``mien finetune``: fine-tune a model on your own classes."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.batch.inputs import RecognizerOptions
from mien.cli.options import (
    MAX_THREADS,
    THREADS_HELP,
    add_command,
    face_cropper,
    integer,
    number,
    path_name,
    path_text,
)
from mien.cli.output import key_value_text, note, write_answer
from mien.cli.paths import check_targets
from mien.cli.train import add_run_options, draw_curves, new_run_path
from mien.core.errors import EXIT_DONE, UsageError, require_extra
from mien.core.models import DEFAULT_MODEL, bundled_models
from mien.core.progress import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mien.data.class_folder import ClassFolder
    from mien.data.dataset import Skipped, Split, TrainedOn
    from mien.evaluation.evaluate import Comparison
    from mien.training.run_folder import RunFolder

CALIBRATION_IMAGES = 100
"""Fewest held-out images that temperature and thresholds are fitted on."""

_MOST_NOTED = 10
_DETAILS = """\
FOLDER/CLASS/IMAGE or FOLDER/train|val|test/CLASS/IMAGE, with any class names. Without val, a
fifth of each class is held out. Figures are for test if there is one, else for the held-out images.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``finetune``."""
    parser = add_command(
        commands,
        "finetune",
        help="fine-tune the released model on your own classes",
        description="Fine-tune a model on the classes of a folder, show its confusion matrix "
        "before and after, and export it.",
        examples=(
            "mien finetune faces --run outputs/own",
            "mien finetune photos --detector auto --model mien-nano",
            "mien finetune --resume outputs/own",
        ),
        usage="[options] (FOLDER | --resume DIR)",
        details=_DETAILS,
    )
    add = parser.add_argument
    images_help = "folder with one subfolder per class"
    add("images", nargs="?", type=path_name, metavar="FOLDER", help=images_help)
    add_run_options(parser, name="FOLDER", example="training.learning_rate=1e-4")
    add("--resume", type=path_name, metavar="DIR", help="continue an interrupted run")
    model_help = (
        f"name of a bundled model, or folder of a model or a run (default: {DEFAULT_MODEL})"
    )
    add("--model", type=path_text, metavar="MODEL", help=model_help)
    _add_data_options(parser)
    _add_training_options(parser)
    add("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_run)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--map",
        type=path_text,
        metavar="MAP",
        help="rename or merge classes: a=b,c=d or a file of such lines; a= leaves a out",
    )
    add(
        "--detector",
        metavar="NAME",
        help="find the largest face of each photo with auto, yunet, libface or haar "
        "(default: none, the images are face crops)",
    )
    add(
        "--val-fraction",
        type=number(0, 1, above=True),
        metavar="SHARE",
        help="share of each class to hold out if there is no val (default: 0.2)",
    )


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    epochs_help = "epochs of the second phase (default: by the number of images)"
    add("--epochs", type=integer(), metavar="N", help=epochs_help)
    seed_help = "seed of weights, data order, augmentation and held-out images (default: 0)"
    add("--seed", type=integer(), metavar="N", help=seed_help)
    add("--threads", type=integer(1, MAX_THREADS), metavar="N", help=THREADS_HELP)


def _run(args: argparse.Namespace) -> int:
    _check_options(args)
    packages = ("keras", "onnx", "sklearn", "matplotlib", "seaborn")
    require_extra("train", *packages, needed_for="mien finetune")
    from mien.training.finetune import read_notes
    from mien.training.trainer import resume

    try:
        if args.resume is None:
            run = _start(args)
        else:
            read_notes(args.resume)  # raises InputError unless the run is a fine-tuning
            run = resume(args.resume, quiet=args.quiet)
    except KeyboardInterrupt as stop:  # the trainer's message names its own command
        messages = [str(message).replace("mien train", "mien finetune") for message in stop.args]
        raise KeyboardInterrupt(*messages) from stop
    draw_curves(run)
    write_answer(*finish(run, quiet=args.quiet), as_json=args.json)
    return EXIT_DONE


def _check_options(args: argparse.Namespace) -> None:
    if (args.images is None) == (args.resume is None):
        raise UsageError("expected a FOLDER of classes, or --resume RUN")
    names = ("folder", "model", "map", "detector", "epochs", "val_fraction", "seed", "threads")
    given = [name for name in (*names, "set") if getattr(args, name) not in (None, [])]
    if args.resume is not None and given:
        option = "run" if given[0] == "folder" else given[0].replace("_", "-")
        raise UsageError(f"--resume uses the run's own options: leave out --{option}")
    if args.val_fraction == 1:
        raise UsageError("expected --val-fraction between 0 and 1, got 1: nothing to train on")


# ---------------------------------------------------------------- training
def _start(args: argparse.Namespace) -> RunFolder:
    from mien.data import class_folder
    from mien.data.dataset import find_record
    from mien.evaluation.evaluate import find_exported
    from mien.training.finetune import finetune
    from mien.training.run_folder import new_run

    source = folder_basename(args.images)
    folder = new_run_path(args, source)
    run = new_run(folder)  # refuses an existing run before minutes of face detection
    # A run inside the image folder would become a class of the next run.
    check_targets([("--run", run.curves)], reads=[args.images])
    listed = class_folder.list_class_folder(args.images)
    for text in listed.notes:
        note(text, quiet=args.quiet)
    mapping = {} if args.map is None else class_folder.parse_mapping(args.map)
    classes = class_folder.resolve_mapping(listed.classes, mapping)
    splits, skipped = _load_splits(args, listed, classes)
    _note_skipped([*listed.skipped, *skipped], quiet=args.quiet)
    splits = _without_copies(splits, quiet=args.quiet)
    model, _ = find_exported(args.model or DEFAULT_MODEL)
    _note_trained_before(splits, find_record(model), args.images, quiet=args.quiet)
    return finetune(
        splits,
        folder,
        model=model,
        meanings=class_folder.merged_classes(classes),
        notes={"source": source, "detector": args.detector or "none", "map": args.map},
        files=args.images,
        epochs=args.epochs,
        seed=args.seed or 0,
        threads=args.threads or 0,
        overrides=args.set,
        quiet=args.quiet,
    )


def folder_basename(folder: Path) -> str:
    """Return a folder's own name, also for "." and "faces/.."; links are not resolved."""
    return Path(os.path.abspath(folder)).name  # noqa: PTH100 - keeps links


def _load_splits(
    args: argparse.Namespace, listed: ClassFolder, classes: Mapping[str, str]
) -> tuple[dict[str, Split], list[Skipped]]:
    """Return the splits train, val and, if there is one, test; and the unreadable files."""
    from mien.core.errors import DataError
    from mien.data.class_folder import UNSPLIT, hold_out, read_class_folder, rename_split
    from mien.data.loading import decode_face

    if not listed.splits:
        raise DataError(f"no images in the class folders of {args.images}")
    source = UNSPLIT if UNSPLIT in listed.splits else "train"
    if source not in listed.splits:
        raise DataError(f"{args.images} has no images to train on: expected train/CLASS/IMAGE")
    options = RecognizerOptions(args.model or DEFAULT_MODEL, args.detector or "none")
    loaded = read_class_folder(
        listed,
        splits=listed.splits,
        classes=classes,
        decoder=face_cropper(options) or decode_face,
        quiet=args.quiet,
    )
    skipped = [file for split in loaded.values() for file in split.skipped]
    splits = {name: rename_split(split, name) for name, split in loaded.items()}
    if "val" not in splits:
        fraction = 0.2 if args.val_fraction is None else args.val_fraction
        train, val = hold_out(splits.pop(source), fraction=fraction, seed=args.seed or 0)
        splits = {"train": train, "val": val, **splits}
    return splits, skipped


def _note_skipped(skipped: Sequence[Skipped], *, quiet: bool) -> None:
    for file in skipped[:_MOST_NOTED]:
        note(f"skipped {file.file}: {file.reason}", quiet=quiet)
    if len(skipped) > _MOST_NOTED:
        note(f"skipped {len(skipped) - _MOST_NOTED} more files", quiet=quiet)


def _note_trained_before(
    splits: Mapping[str, Split], record: TrainedOn | None, folder: Path, *, quiet: bool
) -> None:
    """Note how many images of val and test the model has been trained on already."""
    from mien.data.dataset import seen_masks

    if record is None:
        return
    for name in ("val", "test"):
        seen = int(seen_masks(splits[name], record, folder)[0].sum()) if name in splits else 0
        if seen:
            count = f"{seen:,} of the {len(splits[name]):,} images of {name}"
            text = f"the model was trained on {count} before: its figures will be too good"
            note(text, quiet=quiet)


def _without_copies(splits: Mapping[str, Split], *, quiet: bool) -> dict[str, Split]:
    """Remove the images from val that are in train too, and from test those in either."""
    from mien.data.dataset import clean_mask

    kept = dict(splits)
    for name, other in (("val", "train"), ("test", "train"), ("test", "val")):
        if name not in kept:
            continue
        clean = clean_mask(kept[name], kept[other])
        if not clean.all():
            first = kept[name].files[int(clean.argmin())]
            note(
                f"{(~clean).sum()} images of {name} are in {other} too, the first: {first}; "
                f"they are left out of {name}",
                quiet=quiet,
            )
            kept[name] = kept[name].take(clean)
    if "test" in kept and len(kept["test"]) == 0:
        del kept["test"]
    return kept


# ---------------------------------------------------------------- the result
def finish(run: RunFolder, *, quiet: bool) -> tuple[dict[str, Any], str]:
    """Export a run, calibrate the model, compare it with the one before, and write the reports.

    Returns:
        The result as JSON and as text.

    Raises:
        InputError: if the run is not a fine-tuning.
        ModelError: if a network cannot be exported, opened or run.
        OutputError: if a file cannot be written.
        MissingExtra: if the extra [train] is not installed.
    """
    from mien.data.dataset import load_splits
    from mien.evaluation.calibration import calibrate_model
    from mien.evaluation.evaluate import compare, evaluate_model, write_comparison
    from mien.evaluation.figures import read_history
    from mien.evaluation.report import write_report
    from mien.inference.classifier import Classifier
    from mien.training.finetune import FACES, export_finetuned, read_notes
    from mien.training.run_folder import starting_directory

    notes = read_notes(run.path)
    splits = load_splits(run.path / FACES)
    folder = export_finetuned(run)
    val = splits["val"]
    calibration = None
    if len(val) >= CALIBRATION_IMAGES:
        calibration = calibrate_model(folder, val, quiet=quiet)
    new = Classifier.open(folder, labels=None)
    base = notes["model"]
    if base not in bundled_models():
        base = starting_directory(run) / base
    old = Classifier.open(base, labels=None)
    measured = splits["test"] if len(splits.get("test", ())) else val
    compared = compare(old, new, measured, meanings=notes["classes"], quiet=quiet)
    report_folder = run.path / "report"
    report, samples = evaluate_model(new, measured, quiet=quiet)
    report = replace(report, data=str(notes.get("source", "")), command=f"mien finetune {run.name}")
    write_report(report, report_folder, samples=samples, history=read_history(run.history))
    write_comparison(compared, report_folder)
    content = {
        "run": str(run.path),
        "model": str(folder),
        "images": {name: split.class_counts() for name, split in splits.items()},
        "comparison": compared.to_dict(),
        "calibration": calibration,
        "summary": json.loads(run.summary.read_text(encoding="utf-8")),
    }
    return content, result_text(content, compared)


def result_text(content: Mapping[str, Any], compared: Comparison) -> str:
    """Return the result as text: facts, both confusion matrices, and the next command."""
    from mien.evaluation.evaluate import comparison_text

    calibration, summary = content["calibration"], content["summary"]
    calibrated = f"no, fewer than {CALIBRATION_IMAGES} images are held out"
    if calibration is not None:
        before, after = calibration["error_before"], calibration["error_after"]
        count = f"{calibration['images']:,} images of val"
        calibrated = f"on {count}, error {before:.1%} before, {after:.1%} after"
    measured = compared.split
    if measured == "val":
        measured += ", which chose the best epoch too: expect a little less of other images"
    images = [f"{name} {sum(counts.values()):,}" for name, counts in content["images"].items()]
    rows = [
        ("run", content["run"]),
        ("images", ", ".join(images)),
        ("time", format_duration(summary["seconds"])),
        ("best epoch", f"{summary['best']['epoch']} of {summary['epochs']}"),
        ("calibrated", calibrated),
        ("measured on", measured),
    ]
    report = Path(content["run"], "report", "before_after.md")
    return (
        f"{key_value_text(rows)}\n{comparison_text(compared)}\n"
        f"report: {report}\nnext: mien predict --model {content['model']} IMAGE\n"
    )
