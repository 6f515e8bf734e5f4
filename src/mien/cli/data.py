"""``mien data``: fetch FER-2013, lay it out, and see what is in it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mien.cli.data_tables import audit_text, import_record, import_text
from mien.cli.options import add_force_option, file_name, folder_name, number, whole
from mien.cli.output import json_text, write_stdout
from mien.cli.targets import check_targets
from mien.core.errors import EXIT_DONE, EXIT_PARTIAL

if TYPE_CHECKING:
    from mien.data.importing import ImportSummary

ARCHIVE = Path("archive")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "data",
        help="fetch, import or audit FER-2013",
        description="Fetch FER-2013, lay it out in archive/, and see what is in it.",
    )
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_download(parsers)
    _add_import(parsers)
    _add_audit(parsers)


def _add_download(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parsers.add_parser(
        "download",
        help="fetch FER-2013 from Kaggle and import it",
        description="Fetch FER-2013 from Kaggle (about 60 MB) and lay it out.",
    )
    _add_output_options(parser)
    parser.set_defaults(run=_run_download)


def _add_import(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parsers.add_parser(
        "import",
        help="lay out a copy of FER-2013 in archive/",
        description="Lay out a copy of FER-2013 in archive/{train,val,test}/<class>/. Files that "
        "cannot be used are named, and the exit code is then 6.",
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="Kaggle's zip or folder, one with train|val|test/<class>/, or the challenge's CSV, "
        "also inside a folder, a zip or a tar",
    )
    _add_output_options(parser)
    parser.add_argument(
        "--seed",
        type=whole(),
        default=0,
        help="of the random val split, made only where names do not tell (default: 0)",
    )
    parser.add_argument(
        "--val-fraction",
        type=number(0, 0.5),
        metavar="SHARE",
        help="share of each class of train that it takes (default: 0.125)",
    )
    parser.set_defaults(run=_run_import)


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=folder_name,
        default=ARCHIVE,
        metavar="DIR",
        help="folder to lay it out in (default: archive)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace the data set that is there already"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _add_audit(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parsers.add_parser(
        "audit",
        help="count classes, copies, leaks, blanks and bad files",
        description="Count what is in a data set and what is wrong with it.",
    )
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="folder, zip or CSV, as for import"
    )
    parser.add_argument(
        "--votes", type=Path, metavar="FILE", help="FER+ votes (CSV), to compare the labels with"
    )
    parser.add_argument(
        "--near-threshold",
        type=number(0.8, 1),
        metavar="COSINE",
        help="from which likeness on two images are near copies, 0.8 to 1 (default: 0.95)",
    )
    parser.add_argument(
        "--limit",
        type=whole(),
        default=5,
        metavar="N",
        help="files to name of each kind in the table (default: 5; --json names all)",
    )
    parser.add_argument("--json", action="store_true", help="print all that was found as JSON")
    parser.add_argument(
        "--figure",
        type=file_name(".png"),
        metavar="FILE",
        help="draw a picture too, as PNG (needs [train])",
    )
    add_force_option(parser)
    parser.set_defaults(run=_run_audit)


def _run_download(args: argparse.Namespace) -> int:
    from mien.data.importing import check_output, download_dataset, import_dataset

    check_output(args.output, force=args.force)
    folder = download_dataset()
    summary = import_dataset(folder, args.output, force=args.force, quiet=args.quiet)
    return _show_import(summary, args)


def _run_import(args: argparse.Namespace) -> int:
    from mien.data.importing import import_dataset
    from mien.data.sources import VAL_FRACTION

    summary = import_dataset(
        args.source,
        args.output,
        seed=args.seed,
        val_fraction=VAL_FRACTION if args.val_fraction is None else args.val_fraction,
        force=args.force,
        quiet=args.quiet,
    )
    return _show_import(summary, args)


def _show_import(summary: ImportSummary, args: argparse.Namespace) -> int:
    write_stdout(json_text(import_record(summary)) + "\n" if args.json else import_text(summary))
    return EXIT_PARTIAL if summary.skipped else EXIT_DONE


def _run_audit(args: argparse.Namespace) -> int:
    from mien.data.audit import audit_splits
    from mien.data.duplicates import NEAR_THRESHOLD
    from mien.data.loading import read_splits
    from mien.data.votes import load_votes

    if args.figure is not None:
        reads = [args.source, args.votes]
        check_targets([("--figure", args.figure)], reads=reads, force=args.force)
    votes = None if args.votes is None else load_votes(args.votes)
    splits = read_splits(args.source, quiet=args.quiet)
    threshold = NEAR_THRESHOLD if args.near_threshold is None else args.near_threshold
    audit = audit_splits(splits, votes=votes, near_threshold=threshold, quiet=args.quiet)
    if args.figure is not None:
        from mien.evaluation.audit_figure import draw_audit

        draw_audit(audit, splits, args.figure, title=args.source.name)
    source = str(args.source)
    if args.json:
        write_stdout(json_text(audit.to_dict(source)) + "\n")
    else:
        write_stdout(audit_text(audit, source, limit=args.limit))
    return EXIT_DONE
