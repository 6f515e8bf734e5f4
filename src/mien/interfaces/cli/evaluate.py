"""``mien evaluate``: an exported model's figures on a data set, or on one's own pictures."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mien.core.errors import (
    EXIT_DONE,
    EXIT_PARTIAL,
    DataError,
    InputError,
    ModelError,
    NoFaceError,
    UsageError,
)
from mien.core.progress import track
from mien.interfaces.cli.inputs import IMAGE_SUFFIXES, find_inputs
from mien.interfaces.cli.output import csv_text, json_text, table_text, write_output, write_stdout

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mien.core.results import Result
    from mien.data.dataset import Split
    from mien.evaluation.curves import History
    from mien.evaluation.report import Report
    from mien.evaluation.report_folder import Samples
    from mien.inference.classifier import Classifier

OUTPUTS = Path("outputs")
IMAGES = Path("images")
RELEASE_REPORT = Path("report.txt")

_SPLITS = ("train", "val", "test")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "evaluate",
        help="measure an exported model and write a report",
        description="Measure an exported model on a data set, or read a folder of your own "
        "pictures. The report goes to outputs/RUN/report/, a grid of pictures to "
        "outputs/RUN/pictures/.",
    )
    parser.add_argument(
        "--model", default="mien-b0", help="a bundled model's name, a model's folder, or a run's"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", metavar="PATH", help="the data set: a folder, a zip or the CSV")
    what.add_argument("--pictures", metavar="FOLDER", help="your own pictures, as ImgTest/")
    parser.add_argument("--split", choices=_SPLITS, help="which part of the data (default: test)")
    parser.add_argument("--tta", action="store_true", help="average over shifts and mirror images")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write to this folder instead")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--seed", type=int, metavar="N", help="of the sample pictures (default: 0)")
    parser.add_argument("--detector", metavar="NAME", help="face detector for --pictures")
    parser.add_argument("--no-report", action="store_true", help="print figures, write nothing")
    parser.add_argument(
        "--update",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="also write the figures between the marks in these Markdown files",
    )
    parser.add_argument(
        "--release",
        action="store_true",
        help=f"also write {RELEASE_REPORT} and the figures in {IMAGES}/ of the current folder",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from mien.evaluation.extra import require_train_extra

    _check(args)
    require_train_extra("matplotlib", "seaborn", "sklearn", needed_for="mien evaluate")
    return _evaluate_pictures(args) if args.pictures is not None else _evaluate_data(args)


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together before any work is done."""
    if args.batch_size < 1:
        raise UsageError(f"expected --batch-size of 1 or more, got {args.batch_size}")
    if args.seed is not None and args.seed < 0:
        raise UsageError(f"expected --seed of 0 or more, got {args.seed}")
    for_data = ("split", "tta", "seed", "no_report", "update", "release")
    given = [name for name in for_data if getattr(args, name) not in (None, False, [])]
    if args.pictures is not None and given:
        raise UsageError(f"--{given[0].replace('_', '-')} is for --data, not for --pictures")
    if args.data is not None and args.detector is not None:
        raise UsageError("--detector is for --pictures: the images of a data set are faces")
    if args.no_report and (args.update or args.release or args.output):
        raise UsageError("--no-report writes nothing: leave out --output, --update and --release")
    if args.release and (args.tta or args.split not in (None, "test")):
        raise UsageError("--release writes the report on the test split without --tta")


def _evaluate_data(args: argparse.Namespace) -> int:
    from mien.evaluation.report_folder import Samples
    from mien.evaluation.sections import check_sections
    from mien.inference.classifier import Classifier

    for path in args.update:
        check_sections(path)
    folder, run = _find_model(args.model)
    classifier = Classifier.open(folder)
    split, clean = _load(args)
    report, probabilities = _measure(args, classifier, split, clean)
    if not args.no_report:
        _write(args, report, run, Samples(split.images, split.labels, probabilities))
    write_stdout(json_text(report.to_dict()) + "\n" if args.json else _summary(report))
    return EXIT_DONE


def _write(args: argparse.Namespace, report: Report, run: Path | None, samples: Samples) -> None:
    """Write the report and what else is asked for."""
    from mien.evaluation.report_folder import read_history, write_figures, write_report
    from mien.evaluation.report_text import render_text
    from mien.evaluation.sections import update_sections

    output = args.output or _home(run, report.model.name) / "report"
    history: History | None = None
    if run is not None and (run / "history.csv").is_file():
        history = read_history(run / "history.csv")
    reports = write_report(report, output, samples=samples, history=history)
    for path in args.update:
        update_sections(path, reports)
    if args.release:
        write_output(RELEASE_REPORT, render_text(report, reports))
        write_figures(report, IMAGES, history=history)
    _note(args, f"report: {output / 'report.md'}")


def _load(args: argparse.Namespace) -> tuple[Split, npt.NDArray[np.bool_] | None]:
    """Load the split, and mark those of its images that have no copy in Training."""
    from mien.data.dataset import clean_mask
    from mien.data.reading import load_split

    split = load_split(args.data, args.split or "test", quiet=args.quiet)
    if split.name == "train":
        return split, None
    try:
        train = load_split(args.data, "train", quiet=args.quiet)
    except DataError as error:
        _note(args, f"no figures on clean images: {error}")
        return split, None
    return split, clean_mask(split, train)


def _measure(
    args: argparse.Namespace,
    classifier: Classifier,
    split: Split,
    clean: npt.NDArray[np.bool_] | None,
) -> tuple[Report, npt.NDArray[np.float32]]:
    from mien.evaluation.metrics import evaluate
    from mien.evaluation.predicting import predict
    from mien.evaluation.report import Report, versions

    probabilities = predict(
        lambda faces: classifier.classify(faces, augment=args.tta, batch_size=args.batch_size),
        split.images,
        batch_size=args.batch_size,
        label=f"evaluating {split.name}",
        quiet=args.quiet,
    )
    report = Report(
        model=classifier.manifest.info,
        data=_shown(args.data),
        split=split.name,
        tta=args.tta,
        evaluation=evaluate(probabilities, split.labels, clean=clean),
        seed=args.seed or 0,
        command=_command(args, split.name),
        skipped=len(split.skipped),
        versions=versions(),
    )
    return report, probabilities


def _evaluate_pictures(args: argparse.Namespace) -> int:
    import mien
    from mien.evaluation.pictures import TABLE_COLUMNS, picture_grid, picture_rows, pictures_dict

    sources = _find_pictures(args.pictures)
    folder, run = _find_model(args.model)
    recognizer = mien.load(folder, detector=args.detector or "auto")
    output = args.output or _home(run, recognizer.model.name) / "pictures"
    results = recognizer.analyze_many(
        track(sources, "reading pictures", unit="img", quiet=args.quiet),
        batch_size=args.batch_size,
    )
    rows = picture_rows(results)
    write_output(output / "pictures.csv", csv_text(rows, TABLE_COLUMNS))
    write_stdout(
        json_text(pictures_dict(results)) + "\n" if args.json else _pictures_table(results)
    )
    failed = [result for result in results if result.error]
    if len(failed) == len(results):
        raise InputError(f"no picture of {args.pictures} can be read: {failed[0].error}")
    if not any(result.faces for result in results):
        raise NoFaceError(
            f"no face found in {args.pictures} by {recognizer.detector.name}: "
            "try another --detector, or --detector none for pictures that are face crops"
        )
    picture_grid(results, output / "pictures.png", framing=recognizer.detector.framing)
    _note(args, f"grid: {output / 'pictures.png'}", f"table: {output / 'pictures.csv'}")
    for result in failed:
        print(f"mien: {result.error}", file=sys.stderr)
    return EXIT_PARTIAL if failed else EXIT_DONE


def _find_pictures(folder: str) -> list[str]:
    if not Path(folder).is_dir():
        raise InputError(f"no folder {folder}: expected one with pictures of faces in it")
    found = find_inputs([folder])
    sources = [one.source for one in found if one.problem is None]
    for one in found if sources else ():
        if one.problem is not None:
            print(f"mien: {one.problem}", file=sys.stderr)
    if not sources:
        kinds = ", ".join(
            suffix for suffix in IMAGE_SUFFIXES if suffix in (".jpg", ".png", ".webp")
        )
        raise InputError(
            f"no pictures in {folder}: put photos of faces there ({kinds}, ...), in folders named "
            f"after emotions ({Path(folder) / 'happy'}/me.jpg) to have them marked right or wrong"
        )
    return sources


def _find_model(model: str) -> tuple[str | Path, Path | None]:
    """Return what to open, and the folder of the run that it is of, if it is of one."""
    from mien.core.manifest import MANIFEST_NAME, bundled_models

    path = Path(model)
    if model in bundled_models():
        return model, None
    if (path / "export" / MANIFEST_NAME).is_file():
        return path / "export", path
    if (path / "config.toml").is_file() and not (path / MANIFEST_NAME).is_file():
        raise ModelError(
            f"{path} is a run without an exported model: run 'mien export {path}' first"
        )
    return path, path.parent if (path.parent / "config.toml").is_file() else None


def _home(run: Path | None, name: str) -> Path:
    """Return the folder for what is written about a model."""
    return OUTPUTS / Path(name).name if run is None else run


def _command(args: argparse.Namespace, split: str) -> str:
    """Return the command line that makes this report, with paths as `_shown`."""
    words = ["mien", "evaluate", "--model", _shown(args.model), "--data", _shown(args.data)]
    words += ["--split", split]
    words += ["--tta"] if args.tta else []
    words += ["--seed", str(args.seed)] if args.seed is not None else []
    return shlex.join(words)


def _shown(path: str) -> str:
    """Return a path relative to the current folder, or its last part where it lies outside.

    Reports are made to be shown: they tell nothing of how the machine's folders are called.
    """
    here = Path.cwd()
    # normpath, not resolve: a link inside keeps its own name.
    whole = Path(os.path.normpath(here / Path(path).expanduser()))
    return str(whole.relative_to(here)) if here in whole.parents else whole.name


def _summary(report: Report) -> str:
    from mien.evaluation.report_tables import class_table, summary_table
    from mien.evaluation.report_text import title
    from mien.evaluation.tables import text_table

    tables = (text_table(*summary_table(report)), text_table(*class_table(report)))
    return "\n\n".join([title(report), *tables]) + "\n"


def _pictures_table(results: Sequence[Result]) -> str:
    from mien.evaluation.pictures import picture_rows

    lines = []
    for row in picture_rows(results):
        name = row["source"]
        if row["emotion"] is None:
            lines.append([name, "", row["status"].replace("_", " ")])
            continue
        right = {None: "-", True: "right", False: "wrong"}[row["right"]]
        share = f"{100 * row['confidence']:.0f} %" + (" ?" if row["uncertain"] else "")
        lines.append([name, str(row["face_id"]), row["emotion"], share, row["truth"] or "-", right])
    header = ["picture", "face", "emotion", "confidence", "true", "read"]
    return table_text(header, lines, right=(1, 3))


def _note(args: argparse.Namespace, *lines: str) -> None:
    if not args.quiet:
        for line in lines:
            print(line, file=sys.stderr)
