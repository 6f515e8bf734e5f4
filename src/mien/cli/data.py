"""``mien data``: download, import and audit FER-2013."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mien.cli.options import (
    add_command,
    add_force_option,
    file_name,
    folder_name,
    integer,
    number,
    path_name,
)
from mien.cli.output import write_answer
from mien.cli.paths import check_targets
from mien.core.emotions import EMOTIONS
from mien.core.errors import EXIT_DONE, EXIT_PARTIAL, printable
from mien.core.formats import table_text

if TYPE_CHECKING:
    from mien.data.audit import Audit, VoteCount
    from mien.data.importing import ImportSummary

ARCHIVE = Path("archive")

_MOST_LISTED = 10
_VAL_FROM = {
    "folder": "val is the source's own",
    "names": "val is the PublicTest_* files of test",
    "random": "val is a seeded, stratified part of train",
    "usage": "val is the rows of usage PublicTest",
    "none": "there is no val",
}


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``data``."""
    parser = add_command(
        commands,
        "data",
        help="download, import or audit FER-2013",
        description="Download FER-2013, import a copy into archive/, and audit what is in it.",
        examples=("mien data import fer2013.zip", "mien data audit archive"),
    )
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_download(parsers)
    _add_import(parsers)
    _add_audit(parsers)


def _add_download(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(
        parsers,
        "download",
        help="download FER-2013 from Kaggle and import it",
        description="Download FER-2013 from Kaggle (about 60 MB) and import it.",
        examples=("mien data download", "mien data download --output fer2013"),
        usage="[options]",
    )
    _add_import_options(parser)
    parser.set_defaults(run=_run_download)


def _add_import(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(
        parsers,
        "import",
        help="import a copy of FER-2013 into archive/",
        description="Import a copy of FER-2013 into archive/{train,val,test}/<class>/. Unusable "
        "files are listed, and the exit code is then 6.",
        examples=(
            "mien data import fer2013.zip",
            "mien data import icml_face_data.csv --output fer2013 --force",
        ),
        usage="[options] SOURCE",
    )
    add = parser.add_argument
    add(
        "source",
        type=path_name,
        metavar="SOURCE",
        help="Kaggle's zip or folder, one with train|val|test/<class>/, or the challenge's CSV, "
        "also inside a folder, a zip or a tar",
    )
    _add_import_options(parser)
    seed_help = "seed of the random val split, for sources without val (default: %(default)s)"
    add("--seed", type=integer(), default=0, metavar="N", help=seed_help)
    add(
        "--val-fraction",
        type=number(0, 0.5),
        default=0.125,
        metavar="SHARE",
        help="share of each class of train that the random val takes (default: %(default)s)",
    )
    parser.set_defaults(run=_run_import)


def _add_import_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    output_help = "folder to import into (default: %(default)s)"
    add("--output", type=folder_name, default=ARCHIVE, metavar="DIR", help=output_help)
    add("--force", action="store_true", help="replace an existing data set")
    add("--json", action="store_true", help="print the summary as JSON")


def _add_audit(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(
        parsers,
        "audit",
        help="count classes, copies, leaks, blanks and bad files",
        description="Count the images of a data set, and its copies, leaks, blanks and bad files.",
        examples=(
            "mien data audit archive",
            "mien data audit archive --votes ferplus_votes.csv --figure audit.png",
        ),
        usage="[options] SOURCE",
    )
    add = parser.add_argument
    add("source", type=path_name, metavar="SOURCE", help="folder, zip or CSV, as for import")
    add(
        "--votes",
        type=path_name,
        metavar="FILE",
        help="FER+ votes (CSV), to compare the labels with",
    )
    add(
        "--near-threshold",
        type=number(0.8, 1),
        default=0.95,
        metavar="COSINE",
        help="minimum cosine similarity of near copies, 0.8 to 1 (default: %(default)s)",
    )
    add(
        "--limit",
        type=integer(),
        default=5,
        metavar="N",
        help="files of each kind to list in the table (default: %(default)s; --json lists all)",
    )
    add("--json", action="store_true", help="print all findings as JSON")
    figure_help = "also draw the findings as a PNG (needs [train])"
    add("--figure", type=file_name(".png"), metavar="FILE", help=figure_help)
    add_force_option(parser)
    parser.set_defaults(run=_run_audit)


def _run_download(args: argparse.Namespace) -> int:
    from mien.data.importing import check_output, download_dataset, import_dataset

    check_output(args.output, force=args.force)
    folder = download_dataset()
    summary = import_dataset(folder, args.output, force=args.force, quiet=args.quiet)
    return _write_summary(summary, args)


def _run_import(args: argparse.Namespace) -> int:
    from mien.data.importing import import_dataset

    summary = import_dataset(
        args.source,
        args.output,
        seed=args.seed,
        val_fraction=args.val_fraction,
        force=args.force,
        quiet=args.quiet,
    )
    return _write_summary(summary, args)


def _write_summary(summary: ImportSummary, args: argparse.Namespace) -> int:
    content = {
        "schema": "mien-import/1",
        "output": str(summary.output),
        "images": summary.images,
        "classes": summary.classes,
        "val_from": summary.val_from,
        "resized": summary.resized,
        "skipped": [asdict(file) for file in summary.skipped],
    }
    write_answer(content, _import_text(summary), as_json=args.json)
    return EXIT_PARTIAL if summary.skipped else EXIT_DONE


def _run_audit(args: argparse.Namespace) -> int:
    from mien.data.audit import audit_splits
    from mien.data.loading import read_splits
    from mien.data.votes import load_votes

    if args.figure is not None:
        reads = [args.source, args.votes]
        check_targets([("--figure", args.figure)], reads=reads, force=args.force)
    votes = None if args.votes is None else load_votes(args.votes)
    splits = read_splits(args.source, quiet=args.quiet)
    audit = audit_splits(splits, votes=votes, near_threshold=args.near_threshold, quiet=args.quiet)
    if args.figure is not None:
        from mien.evaluation.figures import draw_audit

        draw_audit(audit, splits, args.figure, title=args.source.name)
    source = str(args.source)
    text = _audit_text(audit, source, limit=args.limit)
    write_answer(audit.to_dict(source), text, as_json=args.json)
    return EXIT_DONE


# ---------------------------------------------------------------- tables
def _import_text(summary: ImportSummary) -> str:
    head = f"{printable(str(summary.output))}: {summary.images:,} images"
    parts = [f"{head}; {_VAL_FROM[summary.val_from]}\n", _class_table(summary.classes)]
    empty = [
        f"{name}/{emotion}"
        for name, counts in summary.classes.items()
        for emotion in EMOTIONS
        if counts[emotion] == 0
    ]
    if empty:
        parts.append("no images: " + ", ".join(empty) + "\n")
    if summary.resized:
        parts.append(_list("not 48x48, resized when read", summary.resized))
    if summary.skipped:
        parts.append(_list("unusable files, skipped", list(map(str, summary.skipped))))
    return "\n".join(parts)


def _audit_text(audit: Audit, source: str, *, limit: int) -> str:
    """Return the findings as text, with at most ``limit`` files of each kind."""
    conflicts = [
        f"{pair.first} = {pair.second}" for pair in audit.exact_pairs if not pair.same_label
    ]
    near = [
        f"{pair.cosine:.3f}  {pair.first} ~ {pair.second}{' mirrored' if pair.flipped else ''}"
        for pair in audit.near_pairs
    ]
    skipped = [str(file) for files in audit.skipped.values() for file in files]
    parts = [
        f"{printable(source)}: {audit.images:,} images, {audit.distinct:,} distinct\n",
        _class_table(audit.classes),
        _copy_table(audit),
        *([] if audit.votes is None else [_vote_table(audit.votes)]),
        _list("identical, labelled differently", conflicts, limit, unit=" pairs"),
        _list("near copies", near, limit, unit=" pairs"),
        _list("blank images", audit.blank, limit),
        _list("not 48x48, resized when read", audit.resized, limit),
        _list("unusable files, skipped", skipped, limit),
    ]
    return "\n".join(parts)


def _class_table(classes: Mapping[str, Mapping[str, int]]) -> str:
    counts = {emotion: [split[emotion] for split in classes.values()] for emotion in EMOTIONS}
    counts["all"] = [sum(split.values()) for split in classes.values()]
    rows = [[name, *_numbers(*row, sum(row))] for name, row in counts.items()]
    return table_text(["class", *classes, "all"], rows, right=range(1, 5))


def _copy_table(audit: Audit) -> str:
    near = f"near (>= {audit.near_threshold:g})"
    header = ["images with a copy", "identical", "other label", near, "distinct", "other label"]
    rows = []
    for copies in audit.copies:
        is_own = copies.within == (copies.split,)
        leak = f"{copies.split} in {' or '.join(copies.within)}"
        exact = (copies.exact, copies.exact_other_label)
        near_counts = (copies.near, copies.near_distinct, copies.near_other_label)
        name = f"within {copies.split}" if is_own else leak
        rows.append([name, *_numbers(*exact, *near_counts)])
    return table_text(header, rows, right=range(1, 6))


def _vote_table(votes: Mapping[str, VoteCount]) -> str:
    rows = [
        [
            name,
            *_numbers(count.images, count.voted, count.agreeing),
            f"{count.agreement:.1%}" if count.voted else "-",
            *_numbers(count.not_a_face),
        ]
        for name, count in votes.items()
    ]
    header = ["FER+", "images", "with votes", "label agrees", "share", "unusable, no face"]
    return table_text(header, rows, right=range(1, 6))


def _numbers(*counts: int) -> list[str]:
    return [f"{count:,}" for count in counts]


def _list(title: str, lines: Sequence[str], limit: int = _MOST_LISTED, *, unit: str = "") -> str:
    shown = [f"{title}: {len(lines):,}{unit}", *(f"  {printable(line)}" for line in lines[:limit])]
    if limit and len(lines) > limit:
        shown.append(f"  ... and {len(lines) - limit:,} more")
    return "\n".join(shown) + "\n"
