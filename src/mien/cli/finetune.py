"""``mien finetune``: the released model, trained on for one's own classes."""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.batch.inputs import RecognizerOptions
from mien.cli.options import (
    MAX_THREADS,
    THREADS_HELP,
    add_command,
    face_cropper,
    folder_name,
    integer,
    number,
)
from mien.cli.output import key_value_text, note, write_answer
from mien.cli.paths import check_targets
from mien.cli.train import draw_curves
from mien.core.errors import EXIT_DONE, UsageError, require_extra
from mien.core.models import DEFAULT_MODEL
from mien.core.progress import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mien.data.dataset import Skipped, Split, TrainedOn
    from mien.evaluation.comparison import Comparison
    from mien.training.run import RunFolder

OUTPUTS = Path("outputs")

CALIBRATION_IMAGES = 100
"""Held-out images from which on temperature and thresholds are fitted: fewer tell nothing."""

_SHOWN = 10
_DETAILS = """\
FOLDER/CLASS/IMAGE or FOLDER/train|val|test/CLASS/IMAGE, classes with any names. Without val, a
fifth of each class is held out. Figures are on test if there is one, else on what is held out.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "finetune",
        help="train the released model on for your own classes",
        description="Train a model on for the classes of a folder, show its confusion matrix "
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
    add("images", nargs="?", type=Path, metavar="FOLDER", help="one folder a class")
    add(
        "--run",
        dest="folder",
        type=folder_name,
        metavar="DIR",
        help="folder of the new run (default: outputs/FOLDER-DATE-TIME)",
    )
    add("--resume", type=Path, metavar="DIR", help="go on with a run that was interrupted")
    add(
        "--model",
        metavar="MODEL",
        help=f"a bundled model's name, a model's folder, or a run's (default: {DEFAULT_MODEL})",
    )
    add(
        "--map",
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
        "--epochs", type=integer(), metavar="N", help="of the second phase (default: by the images)"
    )
    add(
        "--val-fraction",
        type=number(0, 1, above=True),
        metavar="SHARE",
        help="of each class, to hold out where there is no val (default: 0.2)",
    )
    add("--seed", type=integer(), metavar="N", help="of every choice (default: 0)")
    add("--threads", type=integer(1, MAX_THREADS), metavar="N", help=THREADS_HELP)
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a key of the recipe, as training.learning_rate=1e-4 (may be given again)",
    )
    add("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    _check(args)
    needed = ("keras", "onnx", "sklearn", "matplotlib", "seaborn")
    require_extra("train", *needed, needed_for="mien finetune")
    from mien.training.finetune import read_notes
    from mien.training.trainer import resume

    try:
        if args.resume is None:
            run = _start(args)
        else:
            read_notes(args.resume)  # or it is no fine-tuning
            run = resume(args.resume, quiet=args.quiet)
    except KeyboardInterrupt as stop:  # the trainer says how to go on, with its own command
        ours = [str(each).replace("mien train", "mien finetune") for each in stop.args]
        raise KeyboardInterrupt(*ours) from stop
    draw_curves(run)
    done = finish(run, quiet=args.quiet)
    write_answer(done.to_dict(), done.to_text(), as_json=args.json)
    return EXIT_DONE


def _check(args: argparse.Namespace) -> None:
    if (args.images is None) == (args.resume is None):
        raise UsageError("expected a FOLDER of classes, or --resume RUN")
    names = ("folder", "model", "map", "detector", "epochs", "val_fraction", "seed", "threads")
    given = [name for name in (*names, "set") if getattr(args, name) not in (None, [])]
    if args.resume is not None and given:
        word = "run" if given[0] == "folder" else given[0].replace("_", "-")
        raise UsageError(f"--resume goes on with the run's own choices: leave out --{word}")
    if args.val_fraction is not None and not 0 < args.val_fraction < 1:
        raise UsageError(f"expected --val-fraction between 0 and 1, got {args.val_fraction}")


# ---------------------------------------------------------------- training
def _start(args: argparse.Namespace) -> RunFolder:
    from mien.data.class_folder import (
        list_class_folder,
        merged_classes,
        parse_mapping,
        resolve_mapping,
    )
    from mien.data.dataset import find_record
    from mien.evaluation.evaluate import find_exported
    from mien.training.finetune import finetune
    from mien.training.run import new_run

    source = name_of(args.images)
    folder = args.folder or OUTPUTS / f"{source}-{time.strftime('%Y%m%d-%H%M%S')}"
    run = new_run(folder)  # so that a run that is there is found before minutes of detection
    # A run among the images would be a class of them the next time.
    check_targets([("--run", run.curves)], reads=[args.images])
    listed = list_class_folder(args.images)
    for text in listed.notes:
        note(text, quiet=args.quiet)
    named = resolve_mapping(listed.classes, parse_mapping(args.map) if args.map is not None else {})
    splits, skipped = _load(args, listed, named)
    _tell_skipped([*listed.skipped, *skipped], quiet=args.quiet)
    model, _ = find_exported(args.model or DEFAULT_MODEL)
    _tell_seen_before(splits, find_record(model), args.images, quiet=args.quiet)
    notes = {"source": source, "detector": args.detector or "none", "map": args.map}
    return finetune(
        splits,
        folder,
        model=model,
        meanings=merged_classes(named),
        notes=notes,
        files=args.images,
        epochs=args.epochs,
        seed=args.seed or 0,
        threads=args.threads or 0,
        overrides=args.set,
        quiet=args.quiet,
    )


def name_of(folder: Path) -> str:
    """Return a folder's name, which "." and "faces/.." have, too; that of a link is its own."""
    return Path(os.path.abspath(folder)).name  # noqa: PTH100 - keeps links


def _load(
    args: argparse.Namespace, listed: Any, named: Mapping[str, str]
) -> tuple[dict[str, Split], list[Skipped]]:
    """Return train, val and, where there is one, test; and what could not be read."""
    from mien.core.errors import DataError
    from mien.data.class_folder import UNSPLIT, hold_out, read_class_folder, rename_split
    from mien.data.loading import decode_face

    if not listed.splits:
        raise DataError(f"no images in the class folders of {args.images}")
    source = UNSPLIT if UNSPLIT in listed.splits else "train"
    if source not in listed.splits:
        raise DataError(f"{args.images} has no images to train on: expected train/CLASS/IMAGE")
    loaded = read_class_folder(
        listed,
        splits=listed.splits,
        classes=named,
        decoder=face_cropper(
            RecognizerOptions(args.model or DEFAULT_MODEL, args.detector or "none")
        )
        or decode_face,
        quiet=args.quiet,
    )
    skipped = [one for split in loaded.values() for one in split.skipped]
    loaded = {name: rename_split(split, name) for name, split in loaded.items()}
    train = loaded.pop(source)
    fraction = 0.2 if args.val_fraction is None else args.val_fraction
    if "val" in loaded:
        splits = {"train": rename_split(train, "train"), **loaded}
    else:
        parts = hold_out(train, fraction=fraction, seed=args.seed or 0)
        splits = {"train": parts[0], "val": parts[1], **loaded}
    return _without_copies(splits, quiet=args.quiet), skipped


def _tell_skipped(skipped: Sequence[Skipped], *, quiet: bool) -> None:
    for one in skipped[:_SHOWN]:
        note(f"skipped {one.file}: {one.reason}", quiet=quiet)
    if len(skipped) > _SHOWN:
        note(f"skipped {len(skipped) - _SHOWN} more files", quiet=quiet)


def _tell_seen_before(
    splits: Mapping[str, Split], record: TrainedOn | None, folder: Path, *, quiet: bool
) -> None:
    """Say how many of the images that figures will be on the model has been trained on already."""
    from mien.data.dataset import seen_masks

    if record is None:
        return
    for name in ("val", "test"):
        seen = int(seen_masks(splits[name], record, folder)[0].sum()) if name in splits else 0
        if seen:
            of = f"{seen:,} of the {len(splits[name]):,} images of {name}"
            note(f"the model was trained on {of} before: its figures will be too good", quiet=quiet)


def _without_copies(splits: Mapping[str, Split], *, quiet: bool) -> dict[str, Split]:
    """Leave out of val what is in train too, and of test what is in either: it proves nothing."""
    from mien.data.dataset import clean_mask

    kept = dict(splits)
    for name, others in (("val", ("train",)), ("test", ("train", "val"))):
        for other in others if name in kept else ():
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
@dataclass(frozen=True)
class Finetuned:
    """A finished fine-tuning.

    Attributes:
        run: its folder.
        model: the folder of the exported model.
        counts: how many images there are of each class, by part of the data.
        compared: the model before and this one on the same images.
        calibration: what `mien.evaluation.calibration.calibrate_model` gives; None where too few
            images are held out for it.
        summary: of the run's ``summary.json``.
    """

    run: RunFolder
    model: Path
    counts: Mapping[str, Mapping[str, int]]
    compared: Comparison
    calibration: Mapping[str, Any] | None
    summary: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "run": str(self.run.path),
            "model": str(self.model),
            "images": {name: dict(counts) for name, counts in self.counts.items()},
            "comparison": self.compared.to_dict(),
            "calibration": self.calibration,
            "summary": dict(self.summary),
        }

    def to_text(self) -> str:
        """Return it as it is printed: facts, both confusion matrices, and what to do next."""
        from mien.evaluation.comparison import comparison_text

        calibrated = f"no, fewer than {CALIBRATION_IMAGES} images are held out"
        if self.calibration is not None:
            before, after = self.calibration["error_before"], self.calibration["error_after"]
            count = f"{self.calibration['images']:,} images of val"
            calibrated = f"on {count}, error {before:.1%} before, {after:.1%} after"
        also = ", which chose the best epoch too: expect a little less of other images"
        images = [f"{name} {sum(each.values()):,}" for name, each in self.counts.items() if each]
        rows = [
            ("run", str(self.run.path)),
            ("images", ", ".join(images)),
            ("time", format_duration(self.summary["seconds"])),
            ("best epoch", f"{self.summary['best']['epoch']} of {self.summary['epochs']}"),
            ("calibrated", calibrated),
            ("measured on", self.compared.split + (also if self.compared.split == "val" else "")),
        ]
        report = self.run.path / "report" / "before_after.md"
        return (
            f"{key_value_text(rows)}\n{comparison_text(self.compared)}\n"
            f"report: {report}\nnext: mien predict --model {self.model} IMAGE\n"
        )


def finish(run: RunFolder, *, quiet: bool) -> Finetuned:
    """Export a run, calibrate the model, compare it with the one before, and write the reports.

    Raises:
        InputError: if the run is not a fine-tuning.
        ModelError: if a network cannot be exported, opened or run.
        OutputError: if a file cannot be written.
        MissingExtra: without what training takes.
    """
    from mien.data.dataset import load_splits
    from mien.evaluation.calibration import calibrate_model
    from mien.evaluation.comparison import compare, write_comparison
    from mien.evaluation.evaluate import evaluate_model
    from mien.evaluation.report_folder import read_history, write_report
    from mien.inference.classifier import Classifier
    from mien.training.finetune import FACES, export_finetuned, read_notes

    notes = read_notes(run.path)
    splits = load_splits(run.path / FACES)
    folder = export_finetuned(run)
    val = splits["val"]
    calibration = None
    if len(val) >= CALIBRATION_IMAGES:
        calibration = calibrate_model(folder, val.images, val.labels, split="val", quiet=quiet)
    new = Classifier.open(folder, labels=None)
    old = Classifier.open(notes["model"], labels=None)
    measured = splits["test"] if len(splits.get("test", ())) else val
    compared = compare(old, new, measured, meanings=notes["classes"], quiet=quiet)
    report_folder = run.path / "report"
    report, samples = evaluate_model(new, measured, quiet=quiet)
    report = replace(report, data=str(notes.get("source", "")), command=f"mien finetune {run.name}")
    write_report(report, report_folder, samples=samples, history=read_history(run.history))
    write_comparison(compared, report_folder)
    return Finetuned(
        run=run,
        model=folder,
        counts={name: split.class_counts() for name, split in splits.items()},
        compared=compared,
        calibration=calibration,
        summary=json.loads(run.summary.read_text(encoding="utf-8")),
    )
