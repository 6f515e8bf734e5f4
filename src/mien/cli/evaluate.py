"""``mien evaluate``: an exported model's figures on a data set, or on one's own pictures."""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mien.cli.evaluate_pictures import evaluate_pictures
from mien.cli.evaluate_robustness import evaluate_robustness
from mien.cli.faces_in import face_finder
from mien.cli.options import (
    MOST_BATCH,
    add_finding_options,
    add_labels_option,
    folder_name,
    recognizer_options,
    whole,
)
from mien.cli.output import json_text, note, write_output, write_stdout
from mien.cli.targets import check_target_folder, check_targets, read_files
from mien.core.errors import EXIT_DONE, UsageError
from mien.core.files import expanded
from mien.core.models import DEFAULT_MODEL

if TYPE_CHECKING:
    from mien.evaluation.curves import History
    from mien.evaluation.report import Report
    from mien.evaluation.report_folder import Samples

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
        "outputs/RUN/pictures/; beside them (report-2, ...) where these are of another model or "
        "other data.",
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="a bundled model's name, a model's folder, or a run's",
    )
    add_labels_option(parser, default="fer2013 for FER-2013, people for other pictures")
    parser.add_argument(
        "--votes", metavar="FILE", help="FER+ votes of the --data: say how far readings agree"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--data",
        metavar="PATH",
        help="a data set (a folder, a zip or the CSV), or any folder with a folder for each class",
    )
    what.add_argument("--pictures", metavar="FOLDER", help="your own pictures, as ImgTest/")
    parser.add_argument(
        "--split",
        choices=_SPLITS,
        help="which part of the data (default: test; val with --robustness)",
    )
    parser.add_argument("--tta", action="store_true", help="average over shifts and mirror images")
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="instead, measure the accuracy lost on blurred, shrunk, coded and unevenly lit images",
    )
    parser.add_argument(
        "--include-trained",
        action="store_true",
        help="take in the images that a fine-tuned model was trained on, and say both figures",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--output", type=folder_name, metavar="DIR", help="write to this folder instead"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace a report on another model or other data, and files that mien did not write",
    )
    parser.add_argument(
        "--batch-size", type=whole(1, MOST_BATCH), default=64, metavar="N", help="default: 64"
    )
    parser.add_argument(
        "--seed", type=whole(), metavar="N", help="of the sample pictures (default: 0)"
    )
    parser.add_argument(
        "--detector",
        metavar="NAME",
        help="face detector: for --pictures (default: auto), and for a --data folder of photos "
        "(default: none, its images are face crops)",
    )
    parser.add_argument(
        "--map",
        metavar="MAP",
        help="rename or merge the classes of a --data folder: a=b,c=d or a file of such lines",
    )
    add_finding_options(parser)
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
    # What finds faces is told of threads too; here they are the network's own choice.
    parser.set_defaults(run=_run, threads=None)


def _run(args: argparse.Namespace) -> int:
    from mien.evaluation.extra import require_train_extra

    _check(args)
    if args.robustness:
        return evaluate_robustness(
            args, data=_shown(args.data), command=_command(args, args.split or "val")
        )
    require_train_extra("matplotlib", "seaborn", "sklearn", needed_for="mien evaluate")
    if args.pictures is not None:
        return evaluate_pictures(args, data=_shown(args.pictures))
    return _evaluate_data(args)


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together before any work is done."""
    for_data = [
        "votes",
        "split",
        "tta",
        "robustness",
        "include_trained",
        "seed",
        "map",
        "no_report",
    ]
    for_data += ["update", "release"]
    given = [name for name in for_data if getattr(args, name) not in (None, False, [])]
    if args.pictures is not None and given:
        raise UsageError(f"--{given[0].replace('_', '-')} is for --data, not for --pictures")
    _check_finding(args)
    if args.no_report and (args.update or args.release or args.output or args.force):
        raise UsageError(
            "--no-report writes nothing: leave out --output, --force, --update and --release"
        )
    if args.robustness and (args.map is not None or args.detector is not None):
        raise UsageError("--robustness takes data sets alone: leave out --map and --detector")
    if args.robustness and args.votes is not None:
        raise UsageError("--robustness counts labels: leave out --votes")
    if args.robustness and args.include_trained:
        raise UsageError("--robustness leaves out what was trained on: no --include-trained")
    if args.robustness and (args.release or args.seed is not None):
        raise UsageError("--robustness writes no figures: leave out --release and --seed")
    if args.release and (args.tta or args.split not in (None, "test")):
        raise UsageError("--release writes the report on the test split without --tta")


def _check_finding(args: argparse.Namespace) -> None:
    """Refuse options that find faces where none are looked for."""
    given = _finding_words(args)
    if args.data is None or not given:
        return
    if args.max_faces is not None:
        raise UsageError("--max-faces is for --pictures: of a photo of --data, one face counts")
    if args.detector in (None, "none"):
        raise UsageError(f"{given[0]} finds faces in photos: expected --detector with it")


def _finding_words(args: argparse.Namespace) -> list[str]:
    """Return what was asked for of how faces are found, beside the detector, as words."""
    words = []
    if args.min_face != 0:
        words += ["--min-face", str(args.min_face)]
    if args.max_faces is not None:
        words += ["--max-faces", str(args.max_faces)]
    if args.align != "auto":
        words += ["--align", args.align]
    if args.detector_weights is not None:
        words += ["--detector-weights", _shown(str(args.detector_weights))]
    if args.thorough:
        words += ["--thorough"]
    return words


def _evaluate_data(args: argparse.Namespace) -> int:
    from mien.data.class_folder import parse_map
    from mien.data.trained_on import find_record
    from mien.evaluation.evaluating import evaluate_model
    from mien.evaluation.exported import find_exported, home_of
    from mien.evaluation.folder_data import load_scored
    from mien.evaluation.sections import check_sections
    from mien.inference.classifier import Classifier

    for path in args.update:
        check_sections(path)
    folder, run = find_exported(args.model)
    classifier = Classifier.open(folder, labels=None, reading=args.labels)
    output = args.output or home_of(run, classifier.manifest.name) / "report"
    if not args.no_report:
        _check_targets(args, output)
    record = find_record(folder, run)
    if record is None and "started_from" in classifier.manifest.data:
        note(
            f"{classifier.manifest.name} was fine-tuned and does not tell on which images: figures "
            "on these would be too good",
            quiet=args.quiet,
        )
    scored = load_scored(
        classifier,
        args.data,
        split=args.split,
        mapping=None if args.map is None else parse_map(args.map),
        face_of=None if args.detector is None else face_finder(recognizer_options(args)),
        trained_on=record,
        include_trained=args.include_trained,
        quiet=args.quiet,
    )
    for text in scored.notes:
        note(text, quiet=args.quiet)
    if args.labels is None and scored.split.name in _SPLITS:
        first = "fer2013" if "fer2013" in classifier.manifest.readings else None
        classifier = Classifier.open(folder, labels=None, reading=first)
    votes = None
    if args.votes is not None:
        from mien.data.votes import align_votes, load_votes

        votes = align_votes(scored.split, load_votes(args.votes))
    report, samples = evaluate_model(
        classifier,
        scored.split,
        clean=scored.clean,
        votes=votes,
        tta=args.tta,
        seed=args.seed or 0,
        batch_size=args.batch_size,
        quiet=args.quiet,
    )
    report = replace(
        report,
        data=_shown(args.data),
        command=_command(args, scored.split.name),
        left_out=scored.left_out,
        trained=scored.trained,
        with_trained=args.include_trained,
    )
    if not args.no_report:
        _write(args, report, output, run, samples)
    write_stdout(json_text(report.to_dict()) + "\n" if args.json else _summary(report))
    return EXIT_DONE


def _check_targets(args: argparse.Namespace, output: Path) -> None:
    """Refuse to write over what is read, or over files of others, before any work is done."""
    from mien.evaluation.report_folder import FIGURES, REPORTS

    reads = [args.data, args.map, args.votes, *read_files(args)]
    check_target_folder("--output", output, (*REPORTS, *FIGURES), reads=reads, force=args.force)
    # Their marks are the leave to change them.
    check_targets([("--update", path) for path in args.update], reads=reads, force=True)
    if args.release:
        figures = [str(IMAGES / name) for name in FIGURES]
        names = (str(RELEASE_REPORT), *figures)
        check_target_folder("--release", Path(), names, reads=reads, force=args.force)


def _write(
    args: argparse.Namespace, report: Report, output: Path, run: Path | None, samples: Samples
) -> None:
    """Write the report and what else is asked for."""
    from mien.evaluation.report_folder import read_history, write_figures, write_report
    from mien.evaluation.report_place import report_place
    from mien.evaluation.report_text import render_text
    from mien.evaluation.sections import update_sections

    output = report_place(
        output,
        report.model,
        report.data,
        given=args.output is not None,
        force=args.force,
        key=report.key,
        images_sha256=report.images_sha256,
    )
    _check_targets(args, output)
    history: History | None = None
    if run is not None and (run / "history.csv").is_file():
        history = read_history(run / "history.csv")
    reports = write_report(report, output, samples=samples, history=history)
    for path in args.update:
        update_sections(path, reports)
    if args.release:
        write_output(RELEASE_REPORT, render_text(report, reports))
        write_figures(report, IMAGES, history=history)
    note(f"report: {output / 'report.md'}", quiet=args.quiet)


def _command(args: argparse.Namespace, split: str) -> str:
    """Return the command line that makes this report, with paths as `_shown`."""
    words = ["mien", "evaluate", "--model", _shown(args.model), "--data", _shown(args.data)]
    words += ["--labels", args.labels] if args.labels else []
    words += ["--votes", _shown(args.votes)] if args.votes else []
    words += ["--split", split] if split in _SPLITS else []
    words += ["--detector", args.detector] if args.detector else []
    words += _finding_words(args)
    words += ["--map", _shown(args.map) if "=" not in args.map else args.map] if args.map else []
    words += ["--robustness"] if args.robustness else []
    words += ["--tta"] if args.tta else []
    words += ["--include-trained"] if args.include_trained else []
    words += ["--seed", str(args.seed)] if args.seed is not None else []
    return shlex.join(words)


def _shown(path: str) -> str:
    """Return a path relative to the current folder, or its last part where it lies outside.

    Reports are made to be shown: they tell nothing of how the machine's folders are called.
    """
    here = Path.cwd()
    # normpath, not resolve: a link inside keeps its own name.
    whole = Path(os.path.normpath(here / expanded(path)))
    return str(whole.relative_to(here)) if here in whole.parents else whole.name


def _summary(report: Report) -> str:
    from mien.evaluation.report_tables import agreement_table, class_table, summary_table
    from mien.evaluation.report_text import title
    from mien.evaluation.tables import text_table

    tables = [summary_table(report), agreement_table(report), class_table(report)]
    return "\n\n".join([title(report), *(text_table(*each) for each in tables if each)]) + "\n"
