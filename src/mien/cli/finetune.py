"""``mien finetune``: the released model, trained on for one's own classes."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.batch.inputs import RecognizerOptions
from mien.cli.faces_in import face_finder
from mien.cli.finetune_result import finish
from mien.cli.options import MOST_THREADS, folder_name, number, whole
from mien.cli.output import json_text, note, write_stdout
from mien.cli.targets import check_targets
from mien.core.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError
from mien.core.models import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mien.data.dataset import Skipped, Split
    from mien.training.run_folder import RunFolder

OUTPUTS = Path("outputs")

_SHOWN = 10
_EPILOG = """\
FOLDER/CLASS/IMAGE or FOLDER/train|val|test/CLASS/IMAGE, classes with any names. Without val, a
fifth of each class is held out. Figures are on test if there is one, else on what is held out.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "finetune",
        help="train the released model on for your own classes",
        description="Train a model on for the classes of a folder, show its confusion matrix "
        "before and after, and export it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="?", type=Path, metavar="FOLDER", help="one folder a class")
    parser.add_argument(
        "--run",
        dest="folder",
        type=folder_name,
        metavar="DIR",
        help="folder of the new run (default: outputs/FOLDER-DATE-TIME)",
    )
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with a run that was interrupted"
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help=f"a bundled model's name, or a model's folder ({DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--map",
        metavar="MAP",
        help="rename or merge classes: a=b,c=d or a file of such lines; a= leaves a out",
    )
    parser.add_argument(
        "--detector",
        help="find the largest face of each photo with auto, yunet, libface or haar "
        "(default: none, the images are face crops)",
    )
    parser.add_argument(
        "--epochs",
        type=whole(),
        metavar="N",
        help="of the second phase (default: by the images)",
    )
    parser.add_argument(
        "--val-fraction",
        type=number(0, 1, above=True),
        metavar="SHARE",
        help="of each class, to hold out where there is no val (default: 0.2)",
    )
    parser.add_argument("--seed", type=whole(), metavar="N", help="of every choice (default: 0)")
    parser.add_argument(
        "--threads", type=whole(1, MOST_THREADS), metavar="N", help="threads (all cores)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a key of the recipe, as training.learning_rate=1e-4 (may be given again)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from mien.evaluation.extra import require_train_extra

    _check(args)
    needed = ("keras", "onnx", "sklearn", "matplotlib", "seaborn")
    require_train_extra(*needed, needed_for="mien finetune")
    try:
        run = _go_on(args) if args.resume else _start(args)
    except KeyboardInterrupt as stop:
        if not stop.args:
            raise
        # The trainer says what is saved and how to go on, with its own command.
        text = str(stop).replace("mien train --resume", "mien finetune --resume")
        sys.stderr.write(f"mien: {text}\n")
        return EXIT_INTERRUPTED
    done = finish(run, quiet=args.quiet)
    write_stdout(json_text(done.to_dict()) + "\n" if args.json else done.to_text())
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
    from mien.data.class_folder import list_class_folder, meanings_of, named_classes, parse_map
    from mien.evaluation.exported import find_exported
    from mien.training.finetune import FinetuneOptions, finetune
    from mien.training.run_folder import new_run

    source = name_of(args.images)
    folder = args.folder or OUTPUTS / f"{source}-{time.strftime('%Y%m%d-%H%M%S')}"
    run = new_run(folder)  # so that a run that is there is found before minutes of detection
    # A run among the images would be a class of them the next time.
    check_targets([("--run", run.curves)], reads=[args.images])
    listed = list_class_folder(args.images)
    for text in listed.notes:
        note(text, quiet=args.quiet)
    named = named_classes(listed.classes, parse_map(args.map) if args.map is not None else {})
    splits, skipped = _load(args, listed, named)
    _tell_skipped([*listed.skipped, *skipped], quiet=args.quiet)
    model, _ = find_exported(args.model or DEFAULT_MODEL)
    options = FinetuneOptions(
        epochs=args.epochs,
        seed=args.seed or 0,
        threads=args.threads or 0,
        overrides=tuple(args.set),
    )
    notes = {"source": source, "detector": args.detector or "none", "map": args.map}
    return finetune(
        splits,
        folder,
        model=model,
        meanings=meanings_of(named),
        notes=notes,
        files=args.images,
        options=options,
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
    from mien.data.class_folder import WHOLE, as_split, hold_out, read_class_folder
    from mien.data.loading import crop_face

    if not listed.splits:
        raise DataError(f"no images in the class folders of {args.images}")
    source = WHOLE if WHOLE in listed.splits else "train"
    if source not in listed.splits:
        raise DataError(f"{args.images} has no images to train on: expected train/CLASS/IMAGE")
    loaded = read_class_folder(
        listed,
        splits=listed.splits,
        classes=named,
        face_of=face_finder(RecognizerOptions(args.model or DEFAULT_MODEL, args.detector or "none"))
        or crop_face,
        quiet=args.quiet,
    )
    skipped = [one for split in loaded.values() for one in split.skipped]
    loaded = {name: as_split(split, name) for name, split in loaded.items()}
    train = loaded.pop(source)
    fraction = 0.2 if args.val_fraction is None else args.val_fraction
    if "val" in loaded:
        splits = {"train": as_split(train, "train"), **loaded}
    else:
        parts = hold_out(train, fraction=fraction, seed=args.seed or 0)
        splits = {"train": parts[0], "val": parts[1], **loaded}
    return _without_copies(splits, quiet=args.quiet), skipped


def _tell_skipped(skipped: Sequence[Skipped], *, quiet: bool) -> None:
    for one in skipped[:_SHOWN]:
        note(f"skipped {one.file}: {one.reason}", quiet=quiet)
    if len(skipped) > _SHOWN:
        note(f"skipped {len(skipped) - _SHOWN} more files", quiet=quiet)


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


def _go_on(args: argparse.Namespace) -> RunFolder:
    from mien.training.finetune import resume_finetune

    return resume_finetune(args.resume, quiet=args.quiet)
